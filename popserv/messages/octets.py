"""The wire form of a message and its octets (RFC 1725 sections 3 and 10).

Rules of this file:
 1. A message's *wire form* is its lines, each ended by CRLF: a bare LF becomes CRLF, CRLF
    stays, a lone CR is data, and a last line without a line end gets one.
 2. Octets are those of the wire form before dot-stuffing.  Counting and sending use the
    same code to find line ends, so that the two cannot differ.
 3. A message may be cut into chunks at any octet; the result does not depend on where.
"""

from __future__ import annotations

from collections.abc import Iterable

_HEADER = 256
"""Octets that nearly every header has."""


class LineEndNormalizer:
    """Bring every line end of a chunked text to a bare LF, and leave a lone CR alone.

    A CR at a chunk's edge is held until what follows it is known.
    """

    def __init__(self) -> None:
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """Return the text that is certain by now."""
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
        """Return what was held back."""
        held, self._held = self._held, b""
        return held


class OctetCounter:
    """Count the octets of a message's wire form, chunk by chunk.

    ``header_ends`` tells whether an empty line was among what was counted.
    """

    has_blank_line = False

    def __init__(self) -> None:
        self._ends = LineEndNormalizer()
        self._octets = 0
        self._ended = True

    def feed(self, chunk: bytes) -> None:
        """Count a chunk."""
        self._count(self._ends.feed(chunk))

    def finish(self) -> int:
        """Return the octets; a last line without end counts as ended."""
        self._count(self._ends.finish())
        return self._octets + (0 if self._ended else 2)

    def _count(self, text: bytes) -> None:
        if text:
            if not self.has_blank_line:
                from_file = self._ended and text.startswith(b"\n")
                self.has_blank_line = from_file or b"\n\n" in text
            self._octets += len(text) + text.count(b"\n")
            self._ended = text.endswith(b"\n")


def count_message(text: bytes) -> tuple[int, bool]:
    """Return octets and ``header_ends``, as OctetCounter has them, of a message in one piece."""
    if 13 in text:
        text = text.replace(b"\r\n", b"\n")
    octets = len(text) + text.count(b"\n")
    if text and text[-1] != 10:
        octets += 2
    # Most headers are longer than this, and then less is searched.
    is_there = text.find(b"\n\n", _HEADER) >= 0 or b"\n\n" in text
    return octets, is_there or text.startswith(b"\n")


def count_octets(chunks: Iterable[bytes]) -> int:
    """Return the octets of a message's wire form."""
    counter = OctetCounter()
    for chunk in chunks:
        counter.feed(chunk)
    return counter.finish()
