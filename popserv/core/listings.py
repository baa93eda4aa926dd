"""The lines of LIST and UIDL, formatted once for all sessions (RFC 1725 sections 5 and 7)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

LINES_PER_CHUNK = 750
"""Lines that are formatted in one step, so that a long listing does not block other sessions.

A line has at most 86 octets, so a chunk has less than 64 KiB.
"""


class Listing:
    """Lines ``number value``, one for each value of a column.

    They are formatted in chunks when they are first needed, and kept.  ``line`` is the format
    of a line.
    """

    __slots__ = ("_chunks", "_column", "_line")

    def __init__(self, column: Sequence[int] | Sequence[bytes], line: bytes) -> None:
        self._column = column
        self._line = line
        self._chunks: list[bytes | None] = [None] * -(-len(column) // LINES_PER_CHUNK)

    def __len__(self) -> int:
        """Return the number of chunks."""
        return len(self._chunks)

    def __iter__(self) -> Iterator[bytes]:
        """Yield all lines in chunks."""
        return map(self._chunk, range(len(self._chunks)))

    def _chunk(self, at: int) -> bytes:
        chunk = self._chunks[at]
        if chunk is None:
            chunk = self._chunks[at] = self._format(at * LINES_PER_CHUNK, ())
        return chunk

    def without(self, marked: Collection[int]) -> Iterator[bytes]:
        """Yield all lines in chunks, except those at the marked positions."""
        for start in range(0, len(self._column), LINES_PER_CHUNK):
            yield self._format(start, marked)

    def _format(self, start: int, marked: Collection[int]) -> bytes:
        values: Sequence[int | bytes] = self._column[start : start + LINES_PER_CHUNK]
        numbers: Sequence[int] = range(start + 1, start + 1 + len(values))
        if marked:
            numbers = [number for number in numbers if number - 1 not in marked]
            values = [values[number - 1 - start] for number in numbers]
        # Formatting all lines at once takes half the time of formatting each line.
        flat: list[object] = [None] * (2 * len(values))
        flat[::2] = numbers
        flat[1::2] = values
        return (self._line * len(values)) % tuple(flat)

    def copy_prefix(self, other: Listing, values: int) -> None:
        """Copy the formatted chunks of another listing whose first ``values`` are the same."""
        whole = values // LINES_PER_CHUNK
        self._chunks[:whole] = other._chunks[:whole]


class ScanListing:
    """The octets of messages in one of their forms: sizes, total and the lines of LIST."""

    __slots__ = ("lines", "sizes", "total")

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = sizes
        self.total = sum(sizes)
        self.lines = Listing(sizes, b"%d %d\r\n")
