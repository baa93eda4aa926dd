"""Bodies of multi-line responses: from chunks to dot-stuffed lines (RFC 1725 section 3).

A body may be cut into chunks at any octet; the result does not depend on where.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable
from typing import Protocol

from popserv.messages.octets import LineEndNormalizer

Chunk = bytes | Awaitable[bytes]
"""A piece of a body: bytes, or an awaitable of bytes that are not read yet."""


class Framer(Protocol):
    """From a body's chunks to the lines of a multi-line response.

    ``done`` turns true when the rest of the body is not wanted.
    """

    @property
    def done(self) -> bool:
        """Whether the rest of the body is not wanted."""

    def feed(self, chunk: bytes) -> bytes:
        """Return the octets to send for this chunk."""

    def finish(self) -> bytes:
        """Return the octets that end the response, the terminator included."""


# A search for two octets by a method of bytes takes three times as long.
_DOT_LINE = re.compile(rb"\n\.")


class MessageFramer:
    """Send a message whole, as RETR does."""

    done = False

    def __init__(self) -> None:
        self._ends = LineEndNormalizer()
        self._at_line_start = True

    def feed(self, chunk: bytes) -> bytes:
        """See Framer."""
        return self._lines(self._ends.feed(chunk))

    def finish(self) -> bytes:
        """See Framer."""
        last = self._lines(self._ends.finish())
        if not self._at_line_start:
            last += b"\r\n"
        return last + b".\r\n"

    def _lines(self, text: bytes) -> bytes:
        if not text:
            return b""
        at_line_start, self._at_line_start = self._at_line_start, text.endswith(b"\n")
        if b"." in text:
            if at_line_start and text.startswith(b"."):
                text = b"." + text
            text = _DOT_LINE.sub(b"\n..", text)
        return text.replace(b"\n", b"\r\n")


class TopFramer(MessageFramer):
    """Send a message's header, the blank line, and the first ``lines`` lines of its body.

    RFC 1725 section 7: a message with fewer lines is sent whole.
    """

    def __init__(self, lines: int) -> None:
        super().__init__()
        self._wanted = lines
        self._in_header = True

    def _lines(self, text: bytes) -> bytes:
        return super()._lines(text[: self._cut(text)])

    def _cut(self, text: bytes) -> int:
        """Return how much of the text is wanted, and note where in the message it ends."""
        end = 0
        if self._in_header:
            end = self._header_end(text)
            if end < 0:
                return len(text)
            self._in_header = False
        there = text.count(b"\n", end) if self._wanted else 0
        if there < self._wanted:
            self._wanted -= there
            return len(text)
        for _ in range(self._wanted):
            end = text.index(b"\n", end) + 1
        self._wanted = 0
        self.done = True
        return end

    def _header_end(self, text: bytes) -> int:
        """Return the offset behind the blank line, or -1 if it is not in this text."""
        if self._at_line_start and text.startswith(b"\n"):
            return 1
        blank = text.find(b"\n\n")
        return blank if blank < 0 else blank + 2


class Filter(Protocol):
    """From a message's chunks to those of another form of it."""

    def feed(self, chunk: bytes) -> bytes:
        """Return what is certain by now."""

    def finish(self) -> bytes:
        """Return what was held back."""


class FilteredFramer:
    """Send what a filter makes of a message, as another framer does."""

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
    """Send chunks of lines that are in wire form already, as listings are."""

    done = False

    def feed(self, chunk: bytes) -> bytes:
        """See Framer."""
        return chunk

    def finish(self) -> bytes:
        """See Framer."""
        return b".\r\n"
