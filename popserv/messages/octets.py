"""Counts the octets of a message's wire form (RFC 1725 sections 3 and 10).

The rules:

1. The *wire form* of a message is its lines, each ended by CRLF.  A bare LF becomes CRLF, a
   CRLF stays, a lone CR is data, and a last line without a line end gets one.
2. Octets are counted before dot-stuffing.  Counting and sending use the same code to find line
   ends, so the two cannot differ.
3. A message may be cut into chunks at any octet; the result does not depend on where.
"""

from __future__ import annotations

from collections.abc import Iterable

from popserv.runtime.speedups import speedup

_MIN_HEADER = 256
"""Octets that nearly every header exceeds."""


class LineEndNormalizer:
    """Converts the line ends of a text in chunks to bare LFs; a lone CR stays.

    A CR at the end of a chunk is held back until the next octet is known.
    """

    _held = b""

    def feed(self, chunk: bytes) -> bytes:
        """Return the text that is certain after this chunk."""
        if self._held:
            chunk = self._held + chunk
            self._held = b""
        if b"\r" not in chunk:
            return chunk
        if chunk.endswith(b"\r"):
            self._held = b"\r"
            chunk = chunk[:-1]
        return chunk.replace(b"\r\n", b"\n")

    def finish(self) -> bytes:
        """Return the CR that was held back, if any, at the end of the text."""
        return self._held


class OctetCounter:
    """Counts the octets of a message's wire form, chunk by chunk.

    ``has_blank_line`` tells whether the octets counted so far include a blank line.
    """

    has_blank_line = False

    def __init__(self) -> None:
        self._normalizer = LineEndNormalizer()
        self._octets = 0
        self._at_line_start = True

    def feed(self, chunk: bytes) -> None:
        """Count a chunk."""
        self._count(self._normalizer.feed(chunk))

    def finish(self) -> int:
        """Return the octets; a last line without a line end is counted with one."""
        self._count(self._normalizer.finish())
        return self._octets + (0 if self._at_line_start else 2)

    def _count(self, text: bytes) -> None:
        if text:
            if not self.has_blank_line:
                starts_blank = self._at_line_start and text.startswith(b"\n")
                self.has_blank_line = starts_blank or b"\n\n" in text
            self._octets += _octets_of(text)
            self._at_line_start = text.endswith(b"\n")


@speedup
def count_message(text: bytes) -> tuple[int, bool]:
    """Return the octets of a message in one piece, and whether it has a blank line.

    The result is that of :class:`OctetCounter`.
    """
    if 13 in text:
        text = text.replace(b"\r\n", b"\n")
    octets = _octets_of(text)
    if text and text[-1] != 10:
        octets += 2
    # The first search skips octets that are header in nearly every message.
    has_blank_line = text.find(b"\n\n", _MIN_HEADER) >= 0 or b"\n\n" in text
    return octets, has_blank_line or text.startswith(b"\n")


def _octets_of(text: bytes) -> int:
    """Return the octets of text with bare LFs when each has become CRLF."""
    # count() compares octet by octet, while replace() calls memchr(3).
    return len(text.replace(b"\n", b"\r\n"))


def count_octets(chunks: Iterable[bytes]) -> int:
    """Return the octets of a message's wire form."""
    counter = OctetCounter()
    for chunk in chunks:
        counter.feed(chunk)
    return counter.finish()
