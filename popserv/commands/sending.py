"""Replies with messages, to RETR and TOP (RFC 1725 sections 5 and 7).

A message that the store has cached is framed at once, and compared with the octets that LIST has
reported.  Every other message, and one that has other octets, is opened, which may wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from popserv.core.command import Outcome
from popserv.core.read_ahead import MAX_OCTETS, ReadAhead
from popserv.core.replies import Reply, constant_ok, ok_line
from popserv.core.session import Session
from popserv.core.snapshot import Message
from popserv.errors import NeedsUTF8, NoSuchMessage
from popserv.messages.framing import (
    Filter,
    FilteredFramer,
    Framer,
    MessageFramer,
    TopFramer,
    frame_message,
    frame_top,
)
from popserv.messages.workarounds import OUTLOOK_NO_NULS, BlankLineFilter, NulFilter
from popserv.texts import Text

MAX_CACHED = 1 << 16
"""The maximum octets of a message that is framed in one piece."""

TOP_OCTETS = 1 << 12
"""Octets at the start of a message that are read for TOP before the message is opened."""

_OCTETS = Text("%d octets")
_TOP_FOLLOWS = Text("top of message follows")
_top_follows = constant_ok(_TOP_FOLLOWS)


def send_message(session: Session, n: int) -> Outcome:
    """Return the reply to RETR for a message.

    :raises popserv.errors.NoSuchMessage: the message does not exist or is marked as deleted.
    """
    message = session.maildrop[n]
    if message.octets <= MAX_CACHED:
        response = _cached_response(session, n, message)
        if response is not None:
            session.record_retrieval(message)
            return response
    sent = partial(session.record_retrieval, message)
    status = _OCTETS.filled(session.language, message.octets)
    return _open(session, n, message, status, MessageFramer(message.octets), sent)


def send_top(session: Session, n: int, lines: int) -> Outcome:
    """Return the reply to TOP for the header and the first lines of a message's body.

    :raises popserv.errors.NoSuchMessage: the message does not exist or is marked as deleted.
    """
    message = session.maildrop[n]
    response = _cached_response(session, n, message, lines)
    if response is not None:
        return response
    return _open(session, n, message, _TOP_FOLLOWS, TopFramer(lines, message.octets))


def _cached_response(
    session: Session, n: int, message: Message, lines: int | None = None
) -> bytes | None:
    """Return a response if it needs no waiting, and prepare the next one."""
    session.prepare = partial(_read_ahead, session, n + 1, lines)
    ahead, session.ahead = session.ahead, None
    if ahead is not None and ahead.request == (n, lines, session.language):
        return ahead.response
    return _frame_cached(session, n, message, lines)


def _read_ahead(session: Session, n: int, lines: int | None) -> None:
    """Frame a message that will probably be requested."""
    try:
        message = session.maildrop[n]
        if lines is None and message.octets > MAX_OCTETS:
            return
        response = _frame_cached(session, n, message, lines)
    except (NoSuchMessage, NeedsUTF8):
        return
    if response is not None:
        session.read_ahead.keep(session, ReadAhead((n, lines, session.language), response))


def _frame_cached(session: Session, n: int, message: Message, lines: int | None) -> bytes | None:
    """Return the response to RETR, or to TOP with ``lines``.

    Return None if the message, or its first 4 KiB for TOP, is not cached, does not suffice, or has
    other octets than LIST has reported.  Opening the message then tells why.
    """
    octets = message.octets
    # One octet more shows that a message has become longer.
    maximum = octets + 1 if lines is None else TOP_OCTETS
    text = session.read_cached(message, maximum) if session.read_cached else None
    if text is None:
        return None
    is_whole = len(text) < maximum
    filters = _filters(session, n)
    for each in filters:
        text = each.feed(text) + (each.finish() if is_whole else b"")
    if lines is None:
        status = ok_line(_OCTETS.filled(session.language, octets))
        return frame_message(text, octets, status) if is_whole else None
    if filters and is_whole and frame_message(text, octets, b"") is None:
        # It is not whole, and a filter may have ended the header too early.
        return None
    return frame_top(text, lines, octets, is_whole, _top_follows(session.language))


async def _open(
    session: Session,
    n: int,
    message: Message,
    text: bytes | Text,
    framer: Framer,
    sent: Callable[[], object] | None = None,
) -> Reply:
    for each in reversed(_filters(session, n)):
        framer = FilteredFramer(each, framer)
    try:
        body = await session.mailbox.open(message)
    except NoSuchMessage:
        raise NoSuchMessage("message %d was removed by another program", n) from None
    if body is None:
        # It would be a reply without a body, and the client would wait for one.
        raise TypeError("the store has opened nothing")
    return Reply(text, body, framer, sent=sent)


def _filters(session: Session, n: int) -> Sequence[Filter]:
    """Return the filters that a message passes before it is framed, in this order."""
    if session.downgrader is None and not session.workarounds:
        return ()
    filters: list[Filter] = []
    if session.downgrader is not None and session.maildrop.is_downgraded(n):
        filters.append(session.downgrader())
    if OUTLOOK_NO_NULS in session.workarounds:
        filters.append(NulFilter())
    if session.maildrop.is_header_only(n):
        filters.append(BlankLineFilter())
    return filters
