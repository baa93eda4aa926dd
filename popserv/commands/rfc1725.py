"""The commands of RFC 1725, one function each, in the order of the RFC."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable
from operator import length_hint
from typing import Any

from twisted.cred.credentials import IUsernamePassword, UsernamePassword

from popserv.auth.credentials import APOPCredentials
from popserv.commands.sending import send_message, send_top
from popserv.core.command import Outcome, command
from popserv.core.grammar import (
    arguments,
    name_and_digest,
    no_arguments,
    number,
    rest_of_line,
    word,
)
from popserv.core.maildrop import message_count
from popserv.core.replies import After, Reply, constant_ok, ok_line
from popserv.core.session import Session, State
from popserv.errors import BadCommand
from popserv.messages.framing import ListingFramer
from popserv.texts import Text

# Section 4: the AUTHORIZATION state


def _password_login_available(session: Session) -> bool:
    return session.allows_cleartext and session.supports(IUsernamePassword)


_NEEDS_TLS = Text("cleartext passwords are not allowed without TLS")


_send_pass = constant_ok(Text("send PASS"))


@command(
    b"USER",
    State.AUTHORIZATION,
    arguments(word),
    available=_password_login_available,
    refusal=_NEEDS_TLS,
    announce=b"USER",
)
def user(session: Session, name: bytes) -> bytes:
    """Record the name to log in with; the reply is the same for every name (section 12)."""
    session.claimed_name = name
    return _send_pass(session.language)


@command(
    b"PASS",
    State.AUTHORIZATION,
    rest_of_line,
    available=_password_login_available,
    refusal=_NEEDS_TLS,
)
async def pass_(session: Session, password: bytes) -> Reply:
    """Log in; the password is the rest of the line."""
    name = session.claimed_name
    if name is None:
        raise BadCommand("send USER first")
    await session.login(name, UsernamePassword(name, password))
    return Reply(session.login_text())


@command(b"QUIT", (State.AUTHORIZATION, State.TRANSACTION), no_arguments)
def quit_(session: Session) -> Coroutine[Any, Any, Reply]:
    """End the session; after a login, remove the marked messages first (sections 4 and 6)."""
    return sign_off(session, session.host.decode("ascii"), "POP3")


# Section 5: the TRANSACTION state


@command(b"STAT", State.TRANSACTION, no_arguments)
def stat(session: Session) -> bytes:
    """Return the drop listing: the number of messages, and their octets."""
    return ok_line(b"%d %d" % (session.maildrop.count, session.maildrop.octets))


@command(b"LIST", State.TRANSACTION, arguments(number, minimum=0))
def list_(session: Session, n: int | None = None) -> Outcome:
    """Return the scan listing of one message, or of all."""
    maildrop = session.maildrop
    if n is not None:
        return ok_line(b"%d %d" % (n, maildrop[n].octets))
    return _listing(session, maildrop.summary(), maildrop.scan_listing())


@command(b"RETR", State.TRANSACTION, arguments(number))
def retr(session: Session, n: int) -> Outcome:
    """Send a message."""
    return send_message(session, n)


def _do_nothing() -> None:
    pass


_DELETED = Text("message %d deleted")


@command(b"DELE", State.TRANSACTION, arguments(number))
def dele(session: Session, n: int) -> bytes:
    """Mark a message as deleted."""
    session.maildrop.mark(n)
    # There may be nothing to prepare, but a command will probably follow at once.
    session.prepare = session.prepare or _do_nothing
    return ok_line(_DELETED.filled(session.language, n))


_nothing_done = constant_ok(Text("nothing done"))


@command(b"NOOP", State.TRANSACTION, no_arguments)
def noop(session: Session) -> bytes:
    """Do nothing."""
    return _nothing_done(session.language)


@command(b"RSET", State.TRANSACTION, no_arguments)
def rset(session: Session) -> bytes:
    """Remove all deletion marks."""
    session.maildrop.unmark_all()
    return ok_line(Text("maildrop has %s", session.maildrop.summary()), session.language)


# Section 7: optional commands


@command(b"TOP", State.TRANSACTION, arguments(number, number), announce=b"TOP")
def top(session: Session, n: int, lines: int) -> Outcome:
    """Send a message's header and the first lines of its body."""
    return send_top(session, n, lines)


_UNIQUE_IDS_FOLLOW = Text("unique-id listing follows")


@command(b"UIDL", State.TRANSACTION, arguments(number, minimum=0), announce=b"UIDL")
def uidl(session: Session, n: int | None = None) -> Outcome:
    """Return the unique-id listing of one message, or of all."""
    maildrop = session.maildrop
    if n is not None:
        return ok_line(b"%d %b" % (n, maildrop[n].uid))
    return _listing(session, _UNIQUE_IDS_FOLLOW, maildrop.unique_id_listing())


@command(
    b"APOP",
    State.AUTHORIZATION,
    name_and_digest,
    available=lambda session: session.timestamp is not None and session.allows_login,
    refusal=Text("APOP is not available"),
)
async def apop(session: Session, name: bytes, digest: bytes) -> Reply:
    """Log in with a digest of the greeting's timestamp and a shared secret."""
    await session.login(name, APOPCredentials(name, session.timestamp or b"", digest))
    return Reply(session.login_text())


COMMANDS = (user, pass_, quit_, stat, list_, retr, dele, noop, rset, top, uidl, apop)


def _listing(session: Session, text: Text, lines: Iterable[bytes]) -> Outcome:
    """Return the reply with a listing: the whole response if it is one chunk at most."""
    if length_hint(lines, 2) > 1:
        return Reply(text, lines, ListingFramer())
    return b"".join((ok_line(text, session.language), *lines, b".\r\n"))


async def sign_off(session: Session, host: str, service: str) -> Reply:
    """End the session, entering UPDATE after a login; the reply names host and service.

    :raises popserv.errors.RemovalFailed: as :meth:`popserv.core.session.Session.update`.
    """
    if session.state is State.AUTHORIZATION:
        return Reply(Text("%s %s server signing off", host, service), after=After.CLOSE)
    await session.update()
    remaining = session.maildrop.count
    if remaining:
        text = Text("%s %s server signing off (%s left)", host, service, message_count(remaining))
    else:
        text = Text("%s %s server signing off (maildrop empty)", host, service)
    return Reply(text, after=After.CLOSE)
