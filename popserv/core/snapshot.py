"""The messages of a mailbox as the store saw them when it was opened.

A :class:`Snapshot` never changes and may be shared by sessions.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple, TypeVar, overload

from popserv.messages.sizes import Sizes

_LINES_A_CHUNK = 750
"""A listing's lines are made in steps this long, so that a huge one never holds up others.

No line has more than 86 octets, so that a chunk has less than 64 KiB.
"""


T = TypeVar("T")


class Message(NamedTuple):
    """One message: its octets as sent, its unique-id, and its position, from 0, in its snapshot."""

    octets: int
    uid: bytes
    position: int


class Listing:
    """``number value`` for each value of a column: lines that are made when first asked for."""

    __slots__ = ("_chunks", "_column", "_line")

    def __init__(self, column: Sequence[int] | Sequence[bytes], line: bytes) -> None:
        self._column = column
        self._line = line
        self._chunks: list[bytes | None] = [None] * -(-len(column) // _LINES_A_CHUNK)

    def __iter__(self) -> Iterator[bytes]:
        """Yield all lines, in chunks."""
        for at, chunk in enumerate(self._chunks):
            if chunk is None:
                chunk = self._chunks[at] = self._make(at * _LINES_A_CHUNK, ())
            yield chunk

    def without(self, marked: Collection[int]) -> Iterator[bytes]:
        """Yield the lines but those at these positions, in chunks."""
        for start in range(0, len(self._column), _LINES_A_CHUNK):
            yield self._make(start, marked)

    def _make(self, start: int, marked: Collection[int]) -> bytes:
        values: Sequence[int | bytes] = self._column[start : start + _LINES_A_CHUNK]
        numbers: Sequence[int] = range(start + 1, start + 1 + len(values))
        if marked:
            numbers = [number for number in numbers if number - 1 not in marked]
            values = [values[number - 1 - start] for number in numbers]
        # One format for all takes half the time of one for each.
        flat: list[object] = [None] * (2 * len(values))
        flat[::2] = numbers
        flat[1::2] = values
        return (self._line * len(values)) % tuple(flat)

    def copy_prefix(self, other: Listing, values: int) -> None:
        """Take over what another listing has made of the first values, which are the same."""
        whole = values // _LINES_A_CHUNK
        self._chunks[:whole] = other._chunks[:whole]


class ScanListing:
    """The octets of a snapshot's messages in one of their forms, with their total and listing."""

    __slots__ = ("listing", "sizes", "total")

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = sizes
        self.total = sum(sizes)
        self.listing = Listing(sizes, b"%d %d\r\n")


class Snapshot(Sequence[Message]):
    """The messages of a mailbox in order, kept in columns, for a maildrop may hold 100,000.

    ``octets`` are sizes in wire form (:func:`popserv.messages.octets.count_octets`); ``uids``
    are unique-ids: 1 to 70 bytes from 0x21 to 0x7E, no two alike (RFC 1725
    section 7, RFC 1939 section 7).  ``downgraded`` has the octets of those messages,
    by position, that have another form for clients that cannot take UTF-8 in headers
    (:class:`popserv.messages.sizes.MessageCounter`), 0 if it cannot be made; ``endless`` has
    the positions of those whose header has no end, for there is no empty line.  A store
    that never looks says nothing of both.  What sessions show of a snapshot is made once:
    ``unique_ids``, the listing, and :meth:`shown`.
    """

    __slots__ = ("_shown", "downgraded", "header_only", "octets", "total", "uids", "unique_ids")

    def __init__(
        self,
        octets: Iterable[int] = (),
        uids: Sequence[bytes] = (),
        downgraded: Mapping[int, int] | None = None,
        header_only: Iterable[int] = (),
    ) -> None:
        self.octets = array("Q", octets)
        self.uids = uids
        self.downgraded = downgraded or {}
        self.header_only = frozenset(header_only)
        self._shown = {(False, False): ScanListing(self.octets)}
        self.total = self._shown[False, False].total
        self.unique_ids = Listing(uids, b"%d %b\r\n")
        if len(self.octets) != len(uids):
            raise ValueError(f"{len(self.octets)} sizes for {len(uids)} unique-ids")

    @classmethod
    def from_sizes(cls, sizes: Iterable[Sizes], uids: Sequence[bytes]) -> Snapshot:
        """Return a snapshot of messages that were measured."""
        return cls().updated(sizes, uids, range(len(uids)))

    def updated(
        self, sizes: Iterable[Sizes], uids: Sequence[bytes], order: Sequence[int]
    ) -> Snapshot:
        """Return a snapshot of messages of this one, and of others that were measured.

        ``order`` has their positions: those of the others are behind this one's last.
        """
        octets = self.octets[:]
        downgraded = dict(self.downgraded)
        header_only = set(self.header_only)
        for at, size in enumerate(sizes, len(self)):
            octets.append(size.octets)
            if size.downgraded is not None:
                downgraded[at] = size.downgraded
            if not size.has_blank_line:
                header_only.add(at)
        if downgraded:
            downgraded = {
                now: downgraded[then] for now, then in enumerate(order) if then in downgraded
            }
        after = type(self)(
            select(octets, order),
            select((*self.uids, *uids), order),
            downgraded,
            [now for now, then in enumerate(order) if then in header_only] if header_only else (),
        )
        same = min(unmoved(order), len(self))
        after.unique_ids.copy_prefix(self.unique_ids, same)
        # A copy, for sessions may add to it meanwhile.
        for form, before in list(self._shown.items()):
            after.shown(*form).listing.copy_prefix(before.listing, same)
        return after

    def shown(self, downgraded: bool, adds_blank_lines: bool) -> ScanListing:
        """Return the octets: of the downgraded form where there is one, and with headers ended."""
        form = (downgraded and bool(self.downgraded), adds_blank_lines and bool(self.header_only))
        octets = self._shown.get(form)
        if octets is None:
            octets = self._shown[form] = ScanListing(self._sizes_in(*form))
        return octets

    def _sizes_in(self, downgraded: bool, adds_blank_lines: bool) -> Sequence[int]:
        sizes = self.octets[:]
        for position, octets in self.downgraded.items() if downgraded else ():
            if octets:
                sizes[position] = octets
        for position in self.header_only if adds_blank_lines else ():
            sizes[position] += 2
        return sizes

    def sizes(self) -> Iterator[Sizes]:
        """Yield the sizes of each message."""
        return map(self.sizes_of, range(len(self)))

    def sizes_of(self, position: int) -> Sizes:
        """Return the sizes of the message at a position, from 0."""
        return Sizes(
            self.octets[position], self.downgraded.get(position), position not in self.header_only
        )

    def __len__(self) -> int:
        return len(self.octets)

    @overload
    def __getitem__(self, index: int) -> Message: ...

    @overload
    def __getitem__(self, index: slice) -> list[Message]: ...

    def __getitem__(self, index: int | slice) -> Message | list[Message]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        return Message(self.octets[position], self.uids[position], position)


def unmoved(order: Sequence[int]) -> int:
    """Return how many of the first positions in an order are their own."""
    return next((now for now, then in enumerate(order) if now != then), len(order))


@overload
def select(column: array[int], order: Sequence[int]) -> array[int]: ...


@overload
def select(column: tuple[T, ...], order: Sequence[int]) -> tuple[T, ...]: ...


def select(column: Any, order: Sequence[int]) -> Any:
    """Return the values of a column at these positions, an array or a tuple as that is."""
    same = unmoved(order)
    rest = [column[at] for at in order[same:]]
    return column[:same] + (array("Q", rest) if isinstance(column, array) else tuple(rest))


_LEGAL_UID = re.compile(rb"[\x21-\x7e]{1,70}")


def valid_unique_id(name: bytes) -> bytes:
    """Return a name as a unique-id: itself if it may be one, else a digest of 40 characters."""
    if _LEGAL_UID.fullmatch(name):
        return name
    return blake2b(name, digest_size=20).hexdigest().encode("ascii")
