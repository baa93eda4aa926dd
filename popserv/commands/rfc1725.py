"""The commands of RFC 1725, one function each, in the order of the RFC."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from twisted.cred.credentials import IUsernamePassword, UsernamePassword

from popserv.auth.credentials import APOPCredentials
from popserv.core.command import command
from popserv.core.grammar import (
    arguments,
    name_and_digest,
    no_arguments,
    number,
    rest_of_line,
    word,
)
from popserv.core.maildrop import message_count
from popserv.core.replies import After, Reply
from popserv.core.session import Session, State
from popserv.core.snapshot import Message
from popserv.errors import BadCommand, NoSuchMessage
from popserv.messages.framing import (
    FilteredFramer,
    Framer,
    ListingFramer,
    MessageFramer,
    TopFramer,
)
from popserv.messages.workarounds import OUTLOOK_NO_NULS, BlankLineFilter, NulFilter
from popserv.texts import Text

# Section 4: the AUTHORIZATION state


def _password_login_available(session: Session) -> bool:
    return session.allows_cleartext and session.supports(IUsernamePassword)


_NEEDS_TLS = Text("cleartext passwords are not allowed without TLS")


_SEND_PASS = Reply(Text("send PASS"))


@command(
    b"USER",
    State.AUTHORIZATION,
    arguments(word),
    available=_password_login_available,
    refusal=_NEEDS_TLS,
    announce=b"USER",
)
def user(session: Session, name: bytes) -> Reply:
    """Record the name to log in with; the reply is the same for every name (section 12)."""
    session.claimed_name = name
    return _SEND_PASS


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
def stat(session: Session) -> Reply:
    """Return the drop listing: the number of messages, and their octets."""
    return Reply(b"%d %d" % (session.maildrop.count, session.maildrop.octets))


@command(b"LIST", State.TRANSACTION, arguments(number, minimum=0))
def list_(session: Session, n: int | None = None) -> Reply:
    """Return the scan listing of one message, or of all."""
    maildrop = session.maildrop
    if n is not None:
        return Reply(b"%d %d" % (n, maildrop[n].octets))
    return Reply(maildrop.summary(), maildrop.scan_listing(), ListingFramer())


@command(b"RETR", State.TRANSACTION, arguments(number))
def retr(session: Session, n: int) -> Coroutine[Any, Any, Reply]:
    """Send a message."""
    return send_message(session, n)


@command(b"DELE", State.TRANSACTION, arguments(number))
def dele(session: Session, n: int) -> Reply:
    """Mark a message as deleted."""
    session.maildrop.mark(n)
    return Reply(Text("message %d deleted", n))


_NOTHING_DONE = Reply(Text("nothing done"))


@command(b"NOOP", State.TRANSACTION, no_arguments)
def noop(session: Session) -> Reply:
    """Do nothing."""
    return _NOTHING_DONE


@command(b"RSET", State.TRANSACTION, no_arguments)
def rset(session: Session) -> Reply:
    """Remove all deletion marks."""
    session.maildrop.unmark_all()
    return Reply(Text("maildrop has %s", session.maildrop.summary()))


# Section 7: optional commands


_TOP_FOLLOWS = Text("top of message follows")


@command(b"TOP", State.TRANSACTION, arguments(number, number), announce=b"TOP")
def top(session: Session, n: int, lines: int) -> Coroutine[Any, Any, Reply]:
    """Send a message's header and the first lines of its body."""
    message = session.maildrop[n]
    return _send(session, n, message, _TOP_FOLLOWS, TopFramer(lines, message.octets))


_UNIQUE_IDS_FOLLOW = Text("unique-id listing follows")


@command(b"UIDL", State.TRANSACTION, arguments(number, minimum=0), announce=b"UIDL")
def uidl(session: Session, n: int | None = None) -> Reply:
    """Return the unique-id listing of one message, or of all."""
    maildrop = session.maildrop
    if n is not None:
        return Reply(b"%d %b" % (n, maildrop[n].uid))
    listing = maildrop.unique_id_listing()
    return Reply(_UNIQUE_IDS_FOLLOW, listing, ListingFramer())


@command(
    b"APOP",
    State.AUTHORIZATION,
    name_and_digest,
    available=lambda session: session.timestamp is not None and session.allows_login,
    refusal=Text("APOP is not available"),
)
async def apop(session: Session, name: bytes, digest: bytes) -> Reply:
    """Log in with a digest of the greeting's timestamp and a shared secret."""
    session.claimed_name = None
    name = word(name)
    await session.login(name, APOPCredentials(name, session.timestamp or b"", digest))
    return Reply(session.login_text())


COMMANDS = (user, pass_, quit_, stat, list_, retr, dele, noop, rset, top, uidl, apop)


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


def send_message(session: Session, n: int) -> Coroutine[Any, Any, Reply]:
    """Return the reply to RETR for a message.

    :raises popserv.errors.NoSuchMessage: the message does not exist or is marked as deleted.
    """
    message = session.maildrop[n]
    octets = message.octets
    sent = partial(session.record_retrieval, message)
    return _send(session, n, message, Text("%d octets", octets), MessageFramer(octets), sent)


async def _send(
    session: Session,
    n: int,
    message: Message,
    text: Text,
    framer: Framer,
    sent: Callable[[], object] | None = None,
) -> Reply:
    framer = _filtered(session, n, framer)
    try:
        body = await session.mailbox.open(message)
    except NoSuchMessage:
        raise NoSuchMessage("message %d was removed by another program", n) from None
    return Reply(text, body, framer, sent=sent)


def _filtered(session: Session, n: int, framer: Framer) -> Framer:
    """Return a framer behind the filters that the session needs; the one added last runs first."""
    if session.maildrop.is_header_only(n):
        framer = FilteredFramer(BlankLineFilter(), framer)
    if OUTLOOK_NO_NULS in session.workarounds:
        framer = FilteredFramer(NulFilter(), framer)
    if session.downgrader is not None and session.maildrop.is_downgraded(n):
        framer = FilteredFramer(session.downgrader(), framer)
    return framer
