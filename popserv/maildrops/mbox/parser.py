"""Reads the messages of an mbox file in bounded memory.

From_ lines start messages (see :mod:`~popserv.maildrops.mbox.from_line`).  The blank line before
a From_ line, or at the end of the file, belongs to the file and not to the message.

Four traditions write these files: mboxo and mboxrd put ``>`` before the lines of a message that
look like From_ lines, mboxcl does so and adds Content-Length, and mboxcl2 adds Content-Length
only.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from typing import NamedTuple

from popserv.maildrops.mbox.from_line import (
    MARK,
    MAX_LENGTH,
    delivery_time,
    from_line_length,
)
from popserv.maildrops.mbox.header import MAX_HEADER, USUAL_HEADER, Header
from popserv.maildrops.mbox.quoting import Unquoter
from popserv.maildrops.mbox.window import BLOCK, Window
from popserv.messages.octets import count_message
from popserv.messages.sizes import MakeDowngrader, MessageCounter, Sizes

_NEXT_MARK = b"\n" + MARK

_INTERNAL_SENDER = b"From MAILER-DAEMON "

DIGEST_SIZE = 16

_PIECE = 1 << 16
"""The octets that are counted at a time: those of many short lines take forty times the memory."""


class Format(NamedTuple):
    """How an mbox file is read.

    If ``believes_content_length``, a Content-Length is believed if it leads to the line that
    starts another message, or to the end of the file.  If ``is_quoted``, each line of ``>`` and
    "From " loses one ``>``.
    """

    believes_content_length: bool = True
    is_quoted: bool = False


DEFAULT_FORMAT = Format()


class NotAnMbox(Exception):
    """The file does not start with a From_ line."""


class Entry(NamedTuple):
    """A message in an mbox file.

    ``offset`` is that of its From_ line, ``start`` and ``end`` those of the message, and ``next``
    that of the next From_ line or the end of the file.  ``digest`` identifies the message: it is
    that of the From_ line and the message, without the fields that programs change in an mbox
    file, and without the line ends at its end.  ``x_uidl`` is the value of X-UIDL, if it is there.
    ``delivered`` is the time in the From_ line; see :func:`~.from_line.delivery_time`.
    """

    offset: int
    start: int
    end: int
    next: int
    digest: bytes
    x_uidl: bytes
    is_read: bool
    delivered: int
    sizes: Sizes


def parse(
    window: Window, offset: int, mbox_format: Format, downgrader: MakeDowngrader | None = None
) -> Iterator[Entry]:
    """Yield the messages from the From_ line at an offset to the end of the file.

    Blank lines at the start of the file are skipped, and the data message of c-client and Dovecot
    is left out.

    :raises NotAnMbox: there is no From_ line at the offset.
    :raises OSError: the file cannot be read.
    """
    is_first = offset == 0
    if is_first:
        start_text = window.read(0, MAX_LENGTH)
        offset = len(start_text) - len(start_text.lstrip(b"\r\n"))
    while offset < window.size:
        from_line = window.read(offset, MAX_LENGTH)
        from_length = from_line_length(from_line)
        if not from_length:
            raise NotAnMbox
        start = offset + from_length
        following = _find_from_line(window, start)
        header = _read_header(window, start, following)
        end = None
        if mbox_format.believes_content_length and header.body is not None:
            content_length = header.content_length()
            if content_length is not None:
                end = start + header.body + content_length
                by_length = _from_line_at(window, end)
                if by_length is None:
                    end = None
                else:
                    following = by_length
        if end is None:
            end = following - _blank_line_before(window, start, following)
        is_sender = from_line.startswith(_INTERNAL_SENDER)
        is_internal = is_first and is_sender and header.is_internal()
        is_first = False
        if not is_internal:
            digest, sizes = _measure(
                window, from_line[:from_length], header, start, end, mbox_format, downgrader
            )
            yield Entry(
                *(offset, start, end, following, digest),
                *(header.x_uidl(), header.is_read(), delivery_time(from_line), sizes),
            )
        offset = following


def _read_header(window: Window, start: int, following: int) -> Header:
    """Return the header of what starts and ends there."""
    octets = following - start
    header = Header(window.read(start, min(USUAL_HEADER, octets)))
    if header.body is not None or octets <= USUAL_HEADER:
        return header
    return Header(window.read(start, min(MAX_HEADER, octets)))


def _find_from_line(window: Window, offset: int) -> int:
    """Return the offset of the first From_ line after another one, or the end of the file.

    ``offset`` is that of the line after the other From_ line.
    """
    offset -= 1
    while (offset := window.find(_NEXT_MARK, offset)) >= 0:
        offset += 1
        if from_line_length(window.read(offset, MAX_LENGTH)):
            return offset
    return window.size


def _from_line_at(window: Window, end: int) -> int | None:
    """Return the offset of the From_ line that follows a message which ends there.

    At the end of the file return that; return None if something else follows.  One line end may
    be between the message and the From_ line.
    """
    if end > window.size:
        return None
    # Each of many small messages may name a distant place.
    text = window.peek(end - 1, MAX_LENGTH + 3)
    before, text = text[:1], text[1:]
    for line_end in (b"", b"\n", b"\r\n"):
        if text.startswith(line_end) and (line_end or before == b"\n"):
            following = text[len(line_end) :]
            if not following or from_line_length(following[:MAX_LENGTH]):
                return end + len(line_end)
    return None


def _blank_line_before(window: Window, start: int, following: int) -> int:
    """Return the octets of the blank line at the end of what starts and ends there; 0 if none."""
    text = window.read(max(start - 1, following - 3), min(3, following - start + 1))
    if text.endswith(b"\n\n"):
        return 1
    return 2 if text.endswith(b"\n\r\n") else 0


def _measure(
    window: Window,
    from_line: bytes,
    header: Header,
    start: int,
    end: int,
    mbox_format: Format,
    downgrader: MakeDowngrader | None,
) -> tuple[bytes, Sizes]:
    """Return the digest and the sizes of a message."""
    head = from_line.rstrip(b"\r\n") + b"\n" + header.without_volatile_fields()
    if end - start <= BLOCK:
        text = window.read(start, end - start)
        rest = text[header.length :]
        digest = blake2b((head + rest).rstrip(b"\r\n"), digest_size=DIGEST_SIZE).digest()
        if downgrader is None and not (mbox_format.is_quoted and Unquoter.may_change(text)):
            octets, has_blank_line = count_message(text)
            return digest, Sizes(octets, None, has_blank_line)
    return _measure_chunks(window, head, header.length, start, end, mbox_format, downgrader)


def _measure_chunks(
    window: Window,
    head: bytes,
    header_length: int,
    start: int,
    end: int,
    mbox_format: Format,
    downgrader: MakeDowngrader | None,
) -> tuple[bytes, Sizes]:
    digest = _TrimmedDigest()
    digest.feed(head)
    counter = MessageCounter(downgrader)
    unquoter = Unquoter() if mbox_format.is_quoted else None
    for offset in range(start, end, BLOCK):
        chunk = window.read(offset, min(BLOCK, end - offset))
        digest.feed(chunk[header_length:] if offset == start else chunk)
        for at in range(0, len(chunk), _PIECE):
            piece = chunk[at : at + _PIECE]
            counter.feed(piece if unquoter is None else unquoter.feed(piece))
    if unquoter is not None:
        counter.feed(unquoter.finish())
    return digest.finish(), counter.finish()


class _TrimmedDigest:
    """The digest of a text in chunks, without the line ends at its end."""

    def __init__(self) -> None:
        self._digest = blake2b(digest_size=DIGEST_SIZE)
        # The digest up to the line ends with which the text ends so far.
        self._trimmed = self._digest.copy()

    def feed(self, chunk: bytes) -> None:
        trimmed = chunk.rstrip(b"\r\n")
        if trimmed:
            self._digest.update(trimmed)
            self._trimmed = self._digest.copy()
        self._digest.update(chunk[len(trimmed) :])

    def finish(self) -> bytes:
        return self._trimmed.digest()
