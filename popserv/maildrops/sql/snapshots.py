"""The messages of a maildrop, decoded from the columns in which the database lists them."""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from uuid import UUID

from popserv.core.snapshot import Snapshot
from popserv.messages.sizes import Sizes

ROW = 32
"""The octets of a message in ``Index.rows``: position, octets and id."""


class Index(NamedTuple):
    """What is known of a maildrop in a state.

    ``rows`` has ``ROW`` octets for each message: two numbers of 8 octets, the first one first, and
    the 16 octets of its id.
    """

    state: bytes
    epoch: bytes
    rows: bytes
    messages: Snapshot

    def position(self, at: int) -> int:
        """Return the position, in the database, of a message of the snapshot."""
        return int.from_bytes(self.rows[at * ROW : at * ROW + 8], "big")

    def id(self, at: int) -> UUID:
        """Return the id of a message of the snapshot."""
        return UUID(bytes=self.rows[at * ROW + 16 : (at + 1) * ROW])

    @property
    def last(self) -> int:
        """The position of the last message, or 0."""
        return self.position(len(self.messages) - 1) if self.rows else 0

    def find(self, position: int) -> int:
        """Return where the first message at a position or behind it is in the snapshot."""
        return bisect_left(range(len(self.messages)), position, key=self.position)

    def selected(self, order: Sequence[int]) -> Index:
        """Return an index of some of the messages."""
        rows = b"".join(self.rows[at * ROW : (at + 1) * ROW] for at in order)
        return self._replace(rows=rows, messages=self.messages.updated((), (), order))


class Columns(NamedTuple):
    """A row that the statement LIST has returned."""

    packed: bytes | None
    header_only: Sequence[int] | None
    has_downgraded: Sequence[int] | None
    downgraded: Sequence[int] | None
    has_uidl: bytes | None
    uidls: bytes | None

    @property
    def rows(self) -> bytes:
        """``ROW`` octets for each message, as in :class:`Index`."""
        return self.packed or b""

    @property
    def size(self) -> int:
        """The number of messages."""
        return len(self.rows) // ROW


def decode(state: bytes, epoch: bytes, columns: Columns, downgrades: bool) -> Index:
    """Return the index of a whole maildrop.

    Sizes of downgraded forms are left out unless the server ``downgrades``.  It takes time for many
    messages: call it in a thread.
    """
    octets, uids, downgraded, header_only = _decode(columns, downgrades)
    return Index(state, epoch, columns.rows, Snapshot(octets, uids, downgraded, header_only))


def extend(known: Index, state: bytes, columns: Columns, downgrades: bool) -> Index | None:
    """Return the index of a maildrop to which messages were added.

    ``columns`` begin with the last message that was known.  Return None if that is another message
    now: a failover has lost what was known.  It takes time for many messages.
    """
    rows = columns.rows
    if rows[:ROW] != known.rows[-ROW:]:
        return None
    octets, uids, downgraded, header_only = _decode(columns, downgrades)
    sizes = [
        Sizes(octets[at], downgraded.get(at), at not in header_only) for at in range(1, len(octets))
    ]
    before = known.messages
    messages = before.updated(sizes, uids[1:], range(len(before) + len(sizes)))
    return Index(state, known.epoch, known.rows + rows[ROW:], messages)


def numbers_of(packed: bytes | None) -> array[int]:
    """Return the numbers of 8 octets each, the first octet first, in a column."""
    numbers = array("Q", packed or b"")
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers


def _decode(
    columns: Columns, downgrades: bool
) -> tuple[array[int], tuple[bytes, ...], dict[int, int], frozenset[int]]:
    """Return octets, unique-ids, octets of downgraded forms and what is header-only, by index."""
    rows = columns.rows
    numbers = numbers_of(rows)
    positions = numbers[:: ROW // 8]

    def indexes(given: Iterable[int] | None) -> Iterable[int]:
        return (bisect_left(positions, position) for position in given or ())

    uids = [rows[at : at + 16].hex().encode("ascii") for at in range(16, len(rows), ROW)]
    if columns.uidls is not None:
        has_uidl = indexes(numbers_of(columns.has_uidl))
        for at, uidl in zip(has_uidl, columns.uidls.split(b" "), strict=True):
            uids[at] = uidl
    downgraded: dict[int, int] = {}
    if downgrades and columns.downgraded is not None:
        downgraded.update(zip(indexes(columns.has_downgraded), columns.downgraded, strict=True))
    return numbers[1 :: ROW // 8], tuple(uids), downgraded, frozenset(indexes(columns.header_only))
