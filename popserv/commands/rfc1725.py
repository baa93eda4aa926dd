"""One function for each command of RFC 1725, in the RFC's order."""

from __future__ import annotations

from collections.abc import Iterable

from twisted.cred.credentials import UsernamePassword

from popserv.auth.credentials import APOPCredentials
from popserv.command import command
from popserv.errors import BadCommand, NoSuchMessage
from popserv.maildrop import Maildrop, counted
from popserv.session import Session, State
from popserv.wire import (
    After,
    Chunk,
    ListingFramer,
    MessageFramer,
    Reply,
    TopFramer,
    name_and_word,
    nothing,
    number,
    rest,
    word,
    words,
)

# Section 4: the AUTHORIZATION state


def _takes_passwords(session: Session) -> bool:
    return session.takes_passwords


_NEEDS_TLS = b"no passwords in the clear on this connection, use TLS"


@command(b"USER", State.AUTHORIZATION, words(word), available=_takes_passwords, refusal=_NEEDS_TLS)
def user(session: Session, name: bytes) -> Reply:
    """Take the name to log in with; every name is answered alike (RFC 1725 section 12)."""
    session.claimed_name = name
    return Reply(b"send PASS")


@command(b"PASS", State.AUTHORIZATION, rest, available=_takes_passwords, refusal=_NEEDS_TLS)
async def pass_(session: Session, password: bytes) -> Reply:
    """Log in; the password is all the rest of the line."""
    name, session.claimed_name = session.claimed_name, None
    if name is None:
        raise BadCommand(b"USER comes first")
    await session.login(name, UsernamePassword(name, password))
    return _logged_in(session, name)


@command(b"QUIT", (State.AUTHORIZATION, State.TRANSACTION), nothing)
async def quit_(session: Session) -> Reply:
    """Say goodbye; after a login, remove what is marked first (sections 4 and 6)."""
    parting = b"%b POP3 server signing off" % session.host
    if session.state is State.TRANSACTION:
        await session.update()
        left = session.maildrop.count
        parting += b" (%b left)" % counted(left) if left else b" (maildrop empty)"
    return Reply(parting, after=After.CLOSE)


# Section 5: the TRANSACTION state


@command(b"STAT", State.TRANSACTION, nothing)
def stat(session: Session) -> Reply:
    """Give the drop listing: how many messages, how many octets."""
    return Reply(b"%d %d" % (session.maildrop.count, session.maildrop.octets))


@command(b"LIST", State.TRANSACTION, words(number, optional=True))
def list_(session: Session, n: int | None = None) -> Reply:
    """Give the scan listing of one message, or of all."""
    maildrop = session.maildrop
    if n is not None:
        return Reply(b"%d %d" % (n, maildrop[n].octets))
    return Reply(_contents(maildrop), maildrop.scan_listing(), ListingFramer())


@command(b"RETR", State.TRANSACTION, words(number))
async def retr(session: Session, n: int) -> Reply:
    """Send a message."""
    octets = b"%d octets" % session.maildrop[n].octets
    return Reply(octets, await _open(session, n), MessageFramer())


@command(b"DELE", State.TRANSACTION, words(number))
def dele(session: Session, n: int) -> Reply:
    """Mark a message as deleted."""
    session.maildrop.mark(n)
    return Reply(b"message %d deleted" % n)


@command(b"NOOP", State.TRANSACTION, nothing)
def noop(session: Session) -> Reply:
    """Do nothing."""
    return Reply(b"nothing done")


@command(b"RSET", State.TRANSACTION, nothing)
def rset(session: Session) -> Reply:
    """Take all marks away."""
    session.maildrop.unmark_all()
    return Reply(b"maildrop has " + _contents(session.maildrop))


# Section 7: optional commands


@command(b"TOP", State.TRANSACTION, words(number, number))
async def top(session: Session, n: int, lines: int) -> Reply:
    """Send a message's header and the first lines of its body."""
    return Reply(b"top of message follows", await _open(session, n), TopFramer(lines))


@command(b"UIDL", State.TRANSACTION, words(number, optional=True))
def uidl(session: Session, n: int | None = None) -> Reply:
    """Give the unique-id listing of one message, or of all."""
    maildrop = session.maildrop
    if n is not None:
        return Reply(b"%d %b" % (n, maildrop[n].uid))
    return Reply(b"unique-id listing follows", maildrop.unique_id_listing(), ListingFramer())


@command(
    b"APOP",
    State.AUTHORIZATION,
    name_and_word,
    available=lambda session: session.timestamp is not None,
    refusal=b"APOP is not offered here",
)
async def apop(session: Session, name: bytes, digest: bytes) -> Reply:
    """Log in by a digest of the greeting's timestamp and a shared secret."""
    session.claimed_name = None
    name = word(name)
    await session.login(name, APOPCredentials(name, session.timestamp or b"", digest))
    return _logged_in(session, name)


COMMANDS = (user, pass_, quit_, stat, list_, retr, dele, noop, rset, top, uidl, apop)


async def _open(session: Session, n: int) -> Iterable[Chunk]:
    message = session.maildrop[n]
    try:
        return await session.mailbox.open(message)
    except NoSuchMessage:
        raise NoSuchMessage(b"message %d was removed by another program" % n) from None


def _contents(maildrop: Maildrop) -> bytes:
    return b"%b (%d octets)" % (counted(maildrop.count), maildrop.octets)


def _logged_in(session: Session, name: bytes) -> Reply:
    # Section 3: status lines are printable ASCII and arguments up to 40 characters.
    whose = name + b"'s " if name.isascii() and len(name) <= 40 else b""
    return Reply(b"%bmaildrop has %b" % (whose, _contents(session.maildrop)))
