"""What mail programs send to a POP3 server, and on which replies they fail.

A doctor changes nothing: there is no DELE, and each session ends with RSET and without QUIT, so
that no server records that messages were retrieved.

Sources: the code of Thunderbird (``Pop3Client.sys.mjs``), K-9 (``Pop3Connection`` and
``Pop3Folder``), mpop (``pop3.c``) and fetchmail (``pop3.c``); logs of Outlook, Apple Mail and
Gmail's fetcher; see docs/reference/clients.rst.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from popserv.doctor.client_session import ClientSession

Client = Callable[[ClientSession], None]


def _outlook(session: ClientSession) -> None:
    session.secure()
    # To list the mechanisms, with a space at the end.
    session.try_listing(b"AUTH ")
    session.user_pass()
    # Whether it is announced or not.
    session.try_command(b"UTF8")
    session.stat()
    session.unique_ids()
    session.scan_listing()
    session.retrieve(hangs_on_nul=True)


def _thunderbird(session: ClientSession) -> None:
    session.secure()
    session.capa()
    if "PLAIN" in session.mechanisms:
        session.auth_plain(initial=False)
    elif "LOGIN" in session.mechanisms:
        session.auth_login()
    else:
        session.user_pass()
    session.stat()
    session.scan_listing(separator=b" ")
    session.unique_ids(separator=b" ")
    session.top(lines=0)
    session.retrieve()


def _apple_mail(session: ClientSession) -> None:
    session.secure()
    session.capa()
    if "PLAIN" in session.mechanisms:
        session.auth_plain(initial=True)
    else:
        session.user_pass()
    session.stat()
    session.unique_ids()
    session.uidl_of_last()
    session.top(lines=10_000)
    session.retrieve()


def _gmail(session: ClientSession) -> None:
    # It knows TLS from the first octet on only.
    session.user_pass()
    session.capa()
    session.scan_listing(in_order=True)
    session.unique_ids(in_order=True)
    session.retrieve(needs_contents=True)


def _fetchmail(session: ClientSession) -> None:
    session.secure()
    session.capa()
    session.user_pass()
    session.stat()
    session.unique_ids()
    session.scan_listing()
    # Instead of RETR, so that messages that stay are not marked as read.
    session.top(lines=99_999_999, whole=True)


def _mpop(session: ClientSession) -> None:
    session.secure()
    session.capa()
    if "PLAIN" in session.mechanisms:
        session.auth_plain(initial=True)
    else:
        session.user_pass()
    session.stat()
    session.unique_ids(separator=b" ", complete=True)
    session.scan_listing(separator=b" ", complete=True)
    session.retrieve(pipelined="PIPELINING" in session.capabilities)


def _k9(session: ClientSession) -> None:
    session.secure()
    session.capa()
    if "PLAIN" in session.mechanisms:
        session.auth_plain(initial=False)
    else:
        session.user_pass()
    session.stat()
    session.unique_ids()
    session.scan_listing(separator=b" ")
    if "TOP" in session.capabilities:
        session.top(lines=431)
    session.retrieve()


CLIENTS: Mapping[str, Client] = {
    "Outlook": _outlook,
    "Thunderbird": _thunderbird,
    "Apple Mail": _apple_mail,
    "Gmail": _gmail,
    "fetchmail": _fetchmail,
    "mpop": _mpop,
    "K-9": _k9,
}
"""The mail programs, by name."""
