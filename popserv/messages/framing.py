"""Frames the bodies of multi-line responses: line ends, dot-stuffing, terminator.

See RFC 1725 section 3.  A body may be cut into chunks at any octet; the result does not
depend on where.
"""

from __future__ import annotations

from collections.abc import Awaitable
from math import inf
from typing import Protocol

from popserv.errors import MessageChanged
from popserv.messages.octets import LineEndNormalizer
from popserv.runtime.speedups import speedup

Chunk = bytes | Awaitable[bytes]
"""A piece of a body: bytes, or an awaitable of bytes that have not been read yet."""


class Framer(Protocol):
    """Converts the chunks of a body to the lines of a multi-line response."""

    @property
    def done(self) -> bool:
        """Whether the response needs no more of the body."""

    def feed(self, chunk: bytes) -> bytes:
        """Return the octets to send for this chunk.

        :raises popserv.errors.MessageChanged: the message has more octets than LIST reported.
        """

    def finish(self) -> bytes:
        """Return the last octets of the response, the terminator included.

        :raises popserv.errors.MessageChanged: the message has not the octets that LIST reported.
        """


class MessageFramer:
    """Frames a whole message, for RETR.

    ``octets`` is the size that LIST has reported.  The framer returns no octet more than that,
    and no terminator after fewer.  Without it, a message of any size is framed.
    """

    done = False

    def __init__(self, octets: int | None = None) -> None:
        self._normalizer = LineEndNormalizer()
        self._at_line_start = True
        self._reported = octets
        self._octets_left: float = inf if octets is None else octets

    def feed(self, chunk: bytes) -> bytes:
        """See Framer."""
        return self._frame(self._normalizer.feed(chunk))

    def finish(self) -> bytes:
        """See Framer."""
        held = self._normalizer.finish()
        last = self._frame(held) if held else b""
        if not self._at_line_start:
            self._count(2)
            last += b"\r\n"
        self._check_end()
        return last + b".\r\n"

    def _frame(self, text: bytes) -> bytes:
        if not text:
            return b""
        at_line_start, self._at_line_start = self._at_line_start, text.endswith(b"\n")
        framed, octets = frame_lines(text, at_line_start)
        self._count(octets)
        return framed

    def _count(self, octets: int) -> None:
        """Count octets of the wire form."""
        self._octets_left -= octets
        if self._octets_left < 0:
            raise MessageChanged from ValueError(f"it has more than {self._reported} octets")

    def _check_end(self) -> None:
        """Check that the message had all octets."""
        if 0 < self._octets_left < inf:
            raise MessageChanged from ValueError(
                f"{self._octets_left} of its {self._reported} octets are missing"
            )


class TopFramer(MessageFramer):
    """Frames a message's header, the blank line, and the first ``lines`` lines of the body.

    A message with fewer lines is framed whole (RFC 1725 section 7).  ``octets`` is as for
    :class:`MessageFramer`, but only a message that is framed whole is known to have too few.
    """

    def __init__(self, lines: int, octets: int | None = None) -> None:
        super().__init__(octets)
        self._lines_left = lines
        self._in_header = True

    def _frame(self, text: bytes) -> bytes:
        return super()._frame(text[: self._octets_to_send(text)]) if text else b""

    def _check_end(self) -> None:
        if not self.done:
            super()._check_end()

    def _octets_to_send(self, text: bytes) -> int:
        """Return how much of the text to send, and count its lines."""
        end = 0
        if self._in_header:
            end = self._header_end(text)
            if end < 0:
                return len(text)
            self._in_header = False
        lines = text.count(b"\n", end) if self._lines_left else 0
        if lines < self._lines_left:
            self._lines_left -= lines
            return len(text)
        for _ in range(self._lines_left):
            end = text.index(b"\n", end) + 1
        self._lines_left = 0
        self.done = True
        return end

    def _header_end(self, text: bytes) -> int:
        """Return the offset after the blank line, or -1 if it is not in this text."""
        if self._at_line_start and text.startswith(b"\n"):
            return 1
        blank = text.find(b"\n\n")
        return blank if blank < 0 else blank + 2


@speedup
def frame_lines(text: bytes, at_line_start: bool) -> tuple[bytes, int]:
    """Return a part of a message in wire form with dot-stuffing, and its octets without the dots.

    The lines of the text end with LF.  ``at_line_start`` tells whether it begins with a new one.
    """
    octets = len(text)
    if at_line_start and text.startswith(b"."):
        text = b"." + text
    text = text.replace(b"\n.", b"\n..")
    framed = text.replace(b"\n", b"\r\n")
    # All that the wire form has gained, except for the dots.
    return framed, octets + len(framed) - len(text)


@speedup
def frame_message(text: bytes, octets: int, status: bytes) -> bytes | None:
    """Return the response to RETR: the status line, and a message in one piece, framed.

    Return None if the message has not the octets that LIST has reported.
    """
    framer = MessageFramer(octets)
    try:
        return b"%b%b%b" % (status, framer.feed(text), framer.finish())
    except MessageChanged:
        return None


@speedup
def frame_top(text: bytes, lines: int, octets: int, is_whole: bool, status: bytes) -> bytes | None:
    """Return the response to TOP: the status line, and the start of a message, framed.

    ``text`` is the message, or the start of it if ``is_whole`` is false.  Return None if it does
    not suffice, or if the message has not the octets that LIST has reported; see TopFramer.
    """
    framer = TopFramer(lines, octets)
    try:
        framed = framer.feed(text)
        return b"%b%b%b" % (status, framed, framer.finish()) if is_whole or framer.done else None
    except MessageChanged:
        return None


class Filter(Protocol):
    """Converts the chunks of a message to the chunks of another form of it."""

    def feed(self, chunk: bytes) -> bytes:
        """Return the output that is certain after this chunk."""

    def finish(self) -> bytes:
        """Return the output that was held back."""


class FilteredFramer:
    """Frames the output of a filter with another framer."""

    def __init__(self, filter_: Filter, framer: Framer) -> None:
        self._filter = filter_
        self._framer = framer

    @property
    def done(self) -> bool:
        """See Framer."""
        return self._framer.done

    def feed(self, chunk: bytes) -> bytes:
        """See Framer."""
        return self._framer.feed(self._filter.feed(chunk))

    def finish(self) -> bytes:
        """See Framer."""
        last = b"" if self.done else self._framer.feed(self._filter.finish())
        return last + self._framer.finish()


class ListingFramer:
    """Frames chunks of lines in wire form, such as listings: adds the terminator only."""

    done = False

    def feed(self, chunk: bytes) -> bytes:
        """See Framer."""
        return chunk

    def finish(self) -> bytes:
        """See Framer."""
        return b".\r\n"
