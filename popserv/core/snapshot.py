"""The messages of a mailbox at the time when it was opened.

A :class:`Snapshot` does not change, and sessions may share it.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar, overload

from popserv.core.listings import Listing, ScanListing
from popserv.messages.sizes import Sizes

T = TypeVar("T")


_NO_OCTETS: Mapping[int, int] = MappingProxyType({})
_NO_POSITIONS: frozenset[int] = frozenset()


class Message(NamedTuple):
    """A message: its octets, its unique-id, and its position in the snapshot, from 0."""

    octets: int
    uid: bytes
    position: int


class Snapshot(Sequence[Message]):
    """The messages of a mailbox in order.

    They are kept in columns, because a maildrop may have 100,000 messages.

    :ivar octets: the octets of each message in wire form; see
        :func:`popserv.messages.octets.count_octets`.
    :ivar uids: the unique-id of each message: 1 to 70 octets from 0x21 to 0x7E, no two alike
        (RFC 1725 section 7, RFC 1939 section 7).  One of another server may have up to 255.
    :ivar downgraded: the octets of the downgraded form, by the position of the message, for the
        messages that have one.  They are 0 if the message can only be sent as stored; see
        :class:`popserv.messages.sizes.Sizes`.
    :ivar header_only: the positions of the messages without a blank line.
    :ivar total: the sum of ``octets``.
    :ivar unique_id_listing: the lines of UIDL.

    A store that does not examine its messages leaves ``downgraded`` and ``header_only`` empty.

    :raises ValueError: ``octets`` and ``uids`` differ in length.
    """

    __slots__ = (
        "_scan_listings",
        "_stored",
        "downgraded",
        "header_only",
        "octets",
        "total",
        "uids",
        "unique_id_listing",
    )

    def __init__(
        self,
        octets: Iterable[int] = (),
        uids: Sequence[bytes] = (),
        downgraded: Mapping[int, int] | None = None,
        header_only: Iterable[int] = (),
    ) -> None:
        self.octets = array("Q", octets)
        self.uids = uids
        # Most snapshots have none, and share the empty ones.
        self.downgraded = downgraded or _NO_OCTETS
        self.header_only = frozenset(header_only) or _NO_POSITIONS
        self._stored = ScanListing(self.octets)
        # Those of other forms, of which most snapshots have none.
        self._scan_listings: dict[tuple[bool, bool], ScanListing] | None = None
        self.total = self._stored.total
        self.unique_id_listing = Listing(uids, b"%d %b\r\n")
        if len(self.octets) != len(uids):
            raise ValueError(f"{len(self.octets)} sizes for {len(uids)} unique-ids")

    @classmethod
    def from_sizes(cls, sizes: Iterable[Sizes], uids: Sequence[bytes]) -> Snapshot:
        """Return a snapshot of measured messages."""
        return cls().updated(sizes, uids, range(len(uids)))

    def updated(
        self, sizes: Iterable[Sizes], uids: Sequence[bytes], order: Sequence[int]
    ) -> Snapshot:
        """Return a snapshot of messages of this snapshot and of new, measured messages.

        ``order`` is the positions of the messages that the result contains, in its order.  The
        positions of the new messages follow those of this snapshot.
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
                new: downgraded[old] for new, old in enumerate(order) if old in downgraded
            }
        after = type(self)(
            select(octets, order),
            select((*self.uids, *uids), order),
            downgraded,
            [new for new, old in enumerate(order) if old in header_only] if header_only else (),
        )
        unchanged = min(_unchanged_prefix(order), len(self))
        after.unique_id_listing.copy_prefix(self.unique_id_listing, unchanged)
        after._stored.lines.copy_prefix(self._stored.lines, unchanged)
        # A copy: sessions may add a form while this runs in a thread.
        for form, before in list((self._scan_listings or {}).items()):
            after.scan_listing(*form).lines.copy_prefix(before.lines, unchanged)
        return after

    def scan_listing(self, downgraded: bool, adds_blank_lines: bool) -> ScanListing:
        """Return the octets of the messages in one of their forms, calculated once.

        With ``downgraded`` it is the downgraded form, for the messages that have one.  With
        ``adds_blank_lines`` a blank line is added to header-only messages.
        """
        form = (downgraded and bool(self.downgraded), adds_blank_lines and bool(self.header_only))
        if form == (False, False):
            return self._stored
        if self._scan_listings is None:
            self._scan_listings = {}
        found = self._scan_listings.get(form)
        if found is None:
            found = self._scan_listings[form] = ScanListing(self._sizes_in(*form))
        return found

    def _sizes_in(self, downgraded: bool, adds_blank_lines: bool) -> Sequence[int]:
        sizes = self.octets[:]
        for position, octets in self.downgraded.items() if downgraded else ():
            if octets:
                sizes[position] = octets
        for position in self.header_only if adds_blank_lines else ():
            sizes[position] += 2
        return sizes

    def sizes(self) -> Iterator[Sizes]:
        """Yield the sizes of all messages."""
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


def _unchanged_prefix(order: Sequence[int]) -> int:
    """Return how many messages at the start of an order keep their positions."""
    return next((new for new, old in enumerate(order) if new != old), len(order))


@overload
def select(column: array[int], order: Sequence[int]) -> array[int]: ...


@overload
def select(column: tuple[T, ...], order: Sequence[int]) -> tuple[T, ...]: ...


def select(column: Any, order: Sequence[int]) -> Any:
    """Return the values of a column at these positions, as an array or a tuple like the column."""
    unchanged = _unchanged_prefix(order)
    rest = [column[at] for at in order[unchanged:]]
    return column[:unchanged] + (array("Q", rest) if isinstance(column, array) else tuple(rest))


_UNIQUE_ID = re.compile(rb"[\x21-\x7e]{1,70}")
_FOREIGN_UNIQUE_ID = re.compile(rb"[\x21-\x7e]{1,255}")


def valid_unique_id(name: bytes) -> bytes:
    """Return a name if it is a valid unique-id, otherwise a digest of it, of 40 characters."""
    if _UNIQUE_ID.fullmatch(name):
        return name
    return blake2b(name, digest_size=20).hexdigest().encode("ascii")


def is_unique_id(text: bytes) -> bool:
    """Return whether clients can be sent a unique-id of another server.

    RFC 1939 permits 70 octets.  A client that knows a longer one has accepted it before.
    """
    return _FOREIGN_UNIQUE_ID.fullmatch(text) is not None
