"""A fixed, numbered view of one mailbox, with its deletion marks (RFC 1725 sections 4 and 5).

A :class:`Snapshot` is what the store saw when the maildrop was opened; it never
changes and may be shared.  A :class:`Maildrop` is one session's view of it: the
message-numbers, from 1, and the marks.  Both speak of octets as sent.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple, TypeVar, overload

from popserv.errors import NeedsUTF8, NoSuchMessage
from popserv.messages.downgrade import Sizes
from popserv.texts import Counted, Text

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

    def begin_as(self, other: Listing, values: int) -> None:
        """Take over what another listing has made of the first values, which are the same."""
        whole = values // _LINES_A_CHUNK
        self._chunks[:whole] = other._chunks[:whole]


class Octets:
    """The octets of a snapshot's messages in one of their forms, with their total and listing."""

    __slots__ = ("listing", "sizes", "total")

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = sizes
        self.total = sum(sizes)
        self.listing = Listing(sizes, b"%d %d\r\n")


class Snapshot(Sequence[Message]):
    """The messages of a mailbox in order, kept in columns, for a maildrop may hold 100,000.

    ``octets`` are sizes in wire form (:func:`popserv.core.wire.count_octets`); ``uids``
    are unique-ids: 1 to 70 bytes from 0x21 to 0x7E, no two alike (RFC 1725
    section 7, RFC 1939 section 7).  ``downgraded`` has the octets of those messages,
    by position, that have another form for clients that cannot take UTF-8 in headers
    (:class:`popserv.messages.downgrade.MessageCounter`), 0 if it cannot be made; ``endless`` has
    the positions of those whose header has no end, for there is no empty line.  A store
    that never looks says nothing of both.  What sessions show of a snapshot is made once:
    ``unique_ids``, the listing, and :meth:`shown`.
    """

    __slots__ = ("_shown", "downgraded", "endless", "octets", "total", "uids", "unique_ids")

    def __init__(
        self,
        octets: Iterable[int] = (),
        uids: Sequence[bytes] = (),
        downgraded: Mapping[int, int] | None = None,
        endless: Iterable[int] = (),
    ) -> None:
        self.octets = array("Q", octets)
        self.uids = uids
        self.downgraded = downgraded or {}
        self.endless = frozenset(endless)
        self._shown = {(False, False): Octets(self.octets)}
        self.total = self._shown[False, False].total
        self.unique_ids = Listing(uids, b"%d %b\r\n")
        if len(self.octets) != len(uids):
            raise ValueError(f"{len(self.octets)} sizes for {len(uids)} unique-ids")

    @classmethod
    def of_sizes(cls, sizes: Iterable[Sizes], uids: Sequence[bytes]) -> Snapshot:
        """Return a snapshot of messages that were measured."""
        return cls().changed(sizes, uids, range(len(uids)))

    def changed(
        self, sizes: Iterable[Sizes], uids: Sequence[bytes], order: Sequence[int]
    ) -> Snapshot:
        """Return a snapshot of messages of this one, and of others that were measured.

        ``order`` has their positions: those of the others are behind this one's last.
        """
        octets = self.octets[:]
        downgraded = dict(self.downgraded)
        endless = set(self.endless)
        for at, size in enumerate(sizes, len(self)):
            octets.append(size.octets)
            if size.downgraded is not None:
                downgraded[at] = size.downgraded
            if not size.header_ends:
                endless.add(at)
        if downgraded:
            downgraded = {
                now: downgraded[then] for now, then in enumerate(order) if then in downgraded
            }
        after = type(self)(
            picked(octets, order),
            picked((*self.uids, *uids), order),
            downgraded,
            [now for now, then in enumerate(order) if then in endless] if endless else (),
        )
        same = min(unmoved(order), len(self))
        after.unique_ids.begin_as(self.unique_ids, same)
        # A copy, for sessions may add to it meanwhile.
        for form, before in list(self._shown.items()):
            after.shown(*form).listing.begin_as(before.listing, same)
        return after

    def shown(self, downgraded: bool, ends_headers: bool) -> Octets:
        """Return the octets: of the downgraded form where there is one, and with headers ended."""
        form = (downgraded and bool(self.downgraded), ends_headers and bool(self.endless))
        octets = self._shown.get(form)
        if octets is None:
            octets = self._shown[form] = Octets(self._sizes_in(*form))
        return octets

    def _sizes_in(self, downgraded: bool, ends_headers: bool) -> Sequence[int]:
        sizes = self.octets[:]
        for position, octets in self.downgraded.items() if downgraded else ():
            if octets:
                sizes[position] = octets
        for position in self.endless if ends_headers else ():
            sizes[position] += 2
        return sizes

    def sizes(self) -> Iterator[Sizes]:
        """Yield the sizes of each message."""
        return map(self.sizes_of, range(len(self)))

    def sizes_of(self, position: int) -> Sizes:
        """Return the sizes of the message at a position, from 0."""
        return Sizes(
            self.octets[position], self.downgraded.get(position), position not in self.endless
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


_NONE: frozenset[int] = frozenset()


class Maildrop:
    """One session's view of a snapshot: message-numbers from 1, and deletion marks.

    Unless ``as_stored``, octets are those of the downgraded form of the messages that
    have one; with ``ends_headers`` they include an empty line behind those that have none.
    """

    __slots__ = (
        *("_downgrades", "_ends_headers", "_marked", "_messages", "_shown", "_sizes"),
        *("count", "octets"),
    )

    def __init__(
        self, messages: Snapshot, *, as_stored: bool = True, ends_headers: bool = False
    ) -> None:
        self._messages = messages
        # A set of its own once there is a mark, for most sessions make none.
        self._marked: set[int] | frozenset[int] = _NONE
        self._ends_headers = ends_headers
        self._show(downgraded=not as_stored)

    def _show(self, *, downgraded: bool) -> None:
        """Give the octets of this form from now on."""
        self._downgrades = downgraded
        self._shown = self._messages.shown(downgraded, self._ends_headers)
        self._sizes = self._shown.sizes
        self._count_again()

    def __getitem__(self, number: int) -> Message:
        """Return the message of that number; the one gate for numbers that clients send.

        :raises NoSuchMessage: there is none, or it is marked.
        """
        if not 0 < number <= len(self._messages):
            raise NoSuchMessage(
                "no such message, only %s in maildrop", counted(len(self._messages))
            )
        if number - 1 in self._marked:
            raise NoSuchMessage("message %d already deleted", number)
        return Message(self._sizes[number - 1], self._messages.uids[number - 1], number - 1)

    def is_downgraded(self, number: int) -> bool:
        """Tell whether that message is sent in its downgraded form.

        :raises NeedsUTF8: it should be, and has none.
        """
        octets = self._messages.downgraded.get(number - 1) if self._downgrades else None
        if octets == 0:
            raise NeedsUTF8
        return octets is not None

    def is_endless(self, number: int) -> bool:
        """Tell whether that message is sent with an empty line that it has not."""
        return self._ends_headers and number - 1 in self._messages.endless

    def show_as_stored(self) -> None:
        """Give the octets of every message as it is stored from now on."""
        self._show(downgraded=False)

    def contents(self) -> Text:
        """Return ``n messages (m octets)``, of those not marked."""
        return Text("%s (%d octets)", counted(self.count), self.octets)

    def mark(self, number: int) -> None:
        """Mark a message as deleted.

        :raises NoSuchMessage: there is none, or it is marked already.
        """
        message = self[number]
        if not isinstance(self._marked, set):
            self._marked = set()
        self._marked.add(message.position)
        self.count -= 1
        self.octets -= message.octets

    def unmark_all(self) -> None:
        """Take all marks away; numbers never change."""
        self._marked = _NONE
        self._count_again()

    def _count_again(self) -> None:
        self.count = len(self._sizes) - len(self._marked)
        self.octets = self._shown.total - sum(self._sizes[index] for index in self._marked)

    @property
    def marked(self) -> list[Message]:
        """The messages marked as deleted, in order."""
        return [self._messages[index] for index in sorted(self._marked)]

    def scan_listing(self) -> Iterator[bytes]:
        """Yield chunks of lines ``number octets``, one for each message not marked."""
        return self._unmarked(self._shown.listing)

    def unique_id_listing(self) -> Iterator[bytes]:
        """Yield chunks of lines ``number unique-id``, one for each message not marked."""
        return self._unmarked(self._messages.unique_ids)

    def _unmarked(self, listing: Listing) -> Iterator[bytes]:
        return listing.without(self._marked) if self._marked else iter(listing)


def unmoved(order: Sequence[int]) -> int:
    """Return how many of the first positions in an order are their own."""
    return next((now for now, then in enumerate(order) if now != then), len(order))


@overload
def picked(column: array[int], order: Sequence[int]) -> array[int]: ...


@overload
def picked(column: tuple[T, ...], order: Sequence[int]) -> tuple[T, ...]: ...


def picked(column: Any, order: Sequence[int]) -> Any:
    """Return the values of a column at these positions, an array or a tuple as that is."""
    same = unmoved(order)
    rest = [column[at] for at in order[same:]]
    return column[:same] + (array("Q", rest) if isinstance(column, array) else tuple(rest))


def counted(messages: int) -> Text:
    """Return ``1 message`` or ``n messages``."""
    return Counted("%d message", "%d messages", messages)


_LEGAL_UID = re.compile(rb"[\x21-\x7e]{1,70}")


def legal_uid(name: bytes) -> bytes:
    """Return a name as a unique-id: itself if it may be one, else a digest of 40 characters."""
    if _LEGAL_UID.fullmatch(name):
        return name
    return blake2b(name, digest_size=20).hexdigest().encode("ascii")
