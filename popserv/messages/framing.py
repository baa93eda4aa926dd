"""Frames the bodies of multi-line responses: line ends, dot-stuffing, terminator.

See RFC 1725 section 3.  A body may be cut into chunks at any octet; the result does not
depend on where.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable
from typing import Protocol

from popserv.messages.octets import LineEndNormalizer

Chunk = bytes | Awaitable[bytes]
"""A piece of a body: bytes, or an awaitable of bytes that have not been read yet."""


class Framer(Protocol):
    """Converts the chunks of a body to the lines of a multi-line response."""

    @property
    def done(self) -> bool:
        """Whether the response needs no more of the body."""

    def feed(self, chunk: bytes) -> bytes:
        """Return the octets to send for this chunk."""

    def finish(self) -> bytes:
        """Return the last octets of the response, the terminator included."""


# The methods of bytes take three times as long to search for two octets.
_DOT_LINE = re.compile(rb"\n\.")


class MessageFramer:
    """Frames a whole message, for RETR."""

    done = False

    def __init__(self) -> None:
        self._normalizer = LineEndNormalizer()
        self._at_line_start = True

    def feed(self, chunk: bytes) -> bytes:
        """See Framer."""
        return self._frame(self._normalizer.feed(chunk))

    def finish(self) -> bytes:
        """See Framer."""
        last = self._frame(self._normalizer.finish())
        if not self._at_line_start:
            last += b"\r\n"
        return last + b".\r\n"

    def _frame(self, text: bytes) -> bytes:
        if not text:
            return b""
        at_line_start, self._at_line_start = self._at_line_start, text.endswith(b"\n")
        if b"." in text:
            if at_line_start and text.startswith(b"."):
                text = b"." + text
            text = _DOT_LINE.sub(b"\n..", text)
        return text.replace(b"\n", b"\r\n")


class TopFramer(MessageFramer):
    """Frames a message's header, the blank line, and the first ``lines`` lines of the body.

    A message with fewer lines is framed whole (RFC 1725 section 7).
    """

    def __init__(self, lines: int) -> None:
        super().__init__()
        self._lines_left = lines
        self._in_header = True

    def _frame(self, text: bytes) -> bytes:
        return super()._frame(text[: self._octets_to_send(text)])

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
