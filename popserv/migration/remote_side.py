"""The messages of another POP3 server, in a session that changes nothing."""

from __future__ import annotations

import poplib
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

_MAX_LINE = 1 << 20
"""The maximum octets of a line; poplib's own limit is shorter than lines in some messages."""

_TIMEOUT = 600.0
"""Seconds to wait for a server, which may have to read a large maildrop."""

_PORTS = {"pop3": 110, "pop3s": 995}


class Server(NamedTuple):
    """Where a server is, and how to connect to it.

    ``context`` verifies its certificate.  Without ``allows_plaintext``, passwords are sent over TLS
    and to this machine only.
    """

    scheme: str
    host: str
    port: int
    context: ssl.SSLContext
    allows_plaintext: bool = False


def parse_url(url: str, context: ssl.SSLContext, *, allows_plaintext: bool = False) -> Server:
    """Return the server at a URL such as ``pop3s://pop.example.org:995``.

    :raises ValueError: it is not such a URL.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{url}: {error}") from error
    if parts.scheme not in _PORTS or not parts.hostname or parts.path.strip("/"):
        raise ValueError(f"{url} is not a server; use pop3s://HOST, or pop3://HOST:PORT")
    return Server(
        parts.scheme, parts.hostname, port or _PORTS[parts.scheme], context, allows_plaintext
    )


class RemoteMaildrop:
    """The messages of a user who is logged in, by position.

    The numbers of the messages need not be consecutive.
    """

    def __init__(self, client: poplib.POP3) -> None:
        self._client = client
        self._has_top = True
        sizes = dict(_pair(line) for line in client.list()[1])
        unique_ids = dict(_pair(line) for line in client.uidl()[1])
        self._numbers = sorted(sizes)
        self.sizes = [int(sizes[number]) for number in self._numbers]
        self.unique_ids = [unique_ids.get(number, b"") for number in self._numbers]

    def header(self, position: int) -> list[bytes]:
        """Return the lines of the header, by TOP; by RETR if the server does not have TOP."""
        if self._has_top:
            try:
                return self._client.top(self._numbers[position], 0)[1]
            except poplib.error_proto:
                self._has_top = False
        return self.contents(position)

    def contents(self, position: int) -> list[bytes]:
        """Return the lines of a message, by RETR."""
        return self._client.retr(self._numbers[position])[1]


def _pair(line: bytes) -> tuple[int, bytes]:
    words = line.split(None, 2)
    if len(words) < 2 or not re.fullmatch(rb"[0-9]{1,10}", words[0]):
        raise poplib.error_proto(f"{line[:100]!r} is not a line of LIST or UIDL")
    return int(words[0]), words[1]


@contextmanager
def logged_in(server: Server, user: bytes, password: bytes) -> Iterator[RemoteMaildrop]:
    """Log a user in, and end the session with QUIT; nothing is removed.

    :raises OSError: the server cannot be reached, or its certificate is not valid.
    :raises ValueError: the server has refused a command, or passwords would be sent in cleartext.
    """
    poplib._MAXLINE = _MAX_LINE  # type: ignore[attr-defined]
    client: poplib.POP3
    try:
        if server.scheme == "pop3s":
            client = poplib.POP3_SSL(
                server.host, server.port, timeout=_TIMEOUT, context=server.context
            )
        else:
            client = poplib.POP3(server.host, server.port, timeout=_TIMEOUT)
        try:
            _start_tls(server, client)
            # Names and passwords of all octets; poplib sends UTF-8.
            client.encoding = "latin-1"
            client.user(user.decode("latin-1"))
            client.pass_(password.decode("latin-1"))
            yield RemoteMaildrop(client)
        finally:
            with suppress(OSError, poplib.error_proto):
                client.quit()
            client.close()
    except poplib.error_proto as error:
        # Its argument is the reply, or a text.
        reply = error.args[0] if error.args else ""
        text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else str(reply)
        raise ValueError(f"{server.host}: {text}") from error


def _start_tls(server: Server, client: poplib.POP3) -> None:
    if server.scheme == "pop3s":
        return
    capabilities: object = {}
    with suppress(poplib.error_proto):
        capabilities = client.capa()
    if isinstance(capabilities, dict) and "STLS" in capabilities:
        client.stls(server.context)
    elif not (server.allows_plaintext or _is_loopback(server.host)):
        raise ValueError(
            f"{server.host} does not offer STLS; use pop3s://, or --insecure to send "
            "passwords in cleartext"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
