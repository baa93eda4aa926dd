"""Replies with messages, to RETR and TOP (RFC 1725 sections 5 and 7).

A message that the store has cached is framed at once, and compared with the octets that LIST has
reported.  Every other message, and one that has other octets, is opened, which may wait.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

from popserv.core.command import Outcome
from popserv.core.read_ahead import MAX_OCTETS, ReadAhead
from popserv.core.replies import Reply, ok_line
from popserv.core.session import Session
from popserv.core.snapshot import Message
from popserv.errors import MessageChanged, NeedsUTF8, NoSuchMessage
from popserv.interfaces import ICachedMessages
from popserv.messages.framing import FilteredFramer, Framer, MessageFramer, TopFramer
from popserv.messages.workarounds import OUTLOOK_NO_NULS, BlankLineFilter, NulFilter
from popserv.texts import Text

MAX_CACHED = 1 << 16
"""The maximum octets of a message that is framed in one piece."""

TOP_OCTETS = 1 << 12
"""Octets at the start of a message that are read for TOP before the message is opened."""

_TOP_FOLLOWS = Text("top of message follows")


def send_message(session: Session, n: int) -> Outcome:
    """Return the reply to RETR for a message.

    :raises popserv.errors.NoSuchMessage: the message does not exist or is marked as deleted.
    """
    message = session.maildrop[n]
    octets = message.octets
    text = Text("%d octets", octets)
    if octets <= MAX_CACHED:
        framed = _framed(session, n, message)
        if framed is not None:
            session.record_retrieval(message)
            return ok_line(text, session.language) + framed
    sent = partial(session.record_retrieval, message)
    return _open(session, n, message, text, MessageFramer(octets), sent)


def send_top(session: Session, n: int, lines: int) -> Outcome:
    """Return the reply to TOP for the header and the first lines of a message's body.

    :raises popserv.errors.NoSuchMessage: the message does not exist or is marked as deleted.
    """
    message = session.maildrop[n]
    framed = _framed(session, n, message, lines)
    if framed is not None:
        return ok_line(_TOP_FOLLOWS, session.language) + framed
    return _open(session, n, message, _TOP_FOLLOWS, TopFramer(lines, message.octets))


def _framed(session: Session, n: int, message: Message, lines: int | None = None) -> bytes | None:
    """Return the body of a response if it needs no waiting, and prepare the next one."""
    session.prepare = partial(_read_ahead, session, n + 1, lines)
    ahead, session.ahead = session.ahead, None
    if ahead is not None and ahead.number == n and ahead.lines == lines:
        return ahead.body
    return _frame_cached(session, n, message, lines)


def _read_ahead(session: Session, n: int, lines: int | None) -> None:
    """Frame a message that will probably be requested."""
    with suppress(NoSuchMessage, NeedsUTF8):
        message = session.maildrop[n]
        if lines is not None or message.octets <= MAX_OCTETS:
            body = _frame_cached(session, n, message, lines)
            if body is not None:
                session.read_ahead.keep(session, ReadAhead(n, lines, body))


def _frame_cached(session: Session, n: int, message: Message, lines: int | None) -> bytes | None:
    """Return the body of a response to RETR, or to TOP with ``lines``.

    Return None if the message, or its first 4 KiB for TOP, is not cached, does not suffice, or has
    other octets than LIST has reported.
    """
    octets = message.octets
    framer: Framer
    if lines is None:
        # One octet more shows that a message has become longer.
        framer, maximum = MessageFramer(octets), octets + 1
    else:
        framer, maximum = TopFramer(lines, octets), TOP_OCTETS
    mailbox = session.mailbox
    text = mailbox.read_cached(message, maximum) if ICachedMessages.providedBy(mailbox) else None
    if text is None:
        return None
    framer = _filtered(session, n, framer)
    try:
        framed = framer.feed(text)
        if framer.done or len(text) < maximum:
            return framed + framer.finish()
    except MessageChanged:
        # Opening the message tells why.
        pass
    return None


async def _open(
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
