"""A fixed, numbered view of one mailbox, with its deletion marks (RFC 1725 sections 4 and 5).

A :class:`Snapshot` is what the store saw when the maildrop was opened; it never
changes and may be shared.  A :class:`Maildrop` is one session's view of it: the
message-numbers, from 1, and the marks.  Both speak of octets as sent.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple, overload

from popserv.downgrade import Sizes
from popserv.errors import NeedsUTF8, NoSuchMessage
from popserv.texts import Counted, Text

_LINES_A_CHUNK = 500
"""A listing's lines are made in steps this long, so that a huge one never holds up others."""


class Message(NamedTuple):
    """One message: its octets as sent, its unique-id, and its position, from 0, in its snapshot."""

    octets: int
    uid: bytes
    position: int


class Snapshot(Sequence[Message]):
    """The messages of a mailbox in order, kept in columns, for a maildrop may hold 100,000.

    ``octets`` are sizes in wire form (:func:`popserv.wire.count_octets`); ``uids``
    are unique-ids: 1 to 70 bytes from 0x21 to 0x7E, no two alike (RFC 1725
    section 7, RFC 1939 section 7).  ``downgraded`` has the octets of those messages,
    by position, that have another form for clients that cannot take UTF-8 in headers
    (:class:`popserv.downgrade.MessageCounter`), 0 if it cannot be made; ``endless`` has
    the positions of those whose header has no end, for there is no empty line.  A store
    that never looks says nothing of both.
    """

    __slots__ = ("downgraded", "endless", "octets", "total", "uids")

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
        self.total = sum(self.octets)
        if len(self.octets) != len(uids):
            raise ValueError(f"{len(self.octets)} sizes for {len(uids)} unique-ids")

    @classmethod
    def of_sizes(cls, sizes: Iterable[Sizes], uids: Sequence[bytes]) -> Snapshot:
        """Return a snapshot of messages that were measured."""
        sizes = list(sizes)
        downgraded = {
            position: size.downgraded
            for position, size in enumerate(sizes)
            if size.downgraded is not None
        }
        endless = [position for position, size in enumerate(sizes) if not size.header_ends]
        return cls([size.octets for size in sizes], uids, downgraded, endless)

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


class Maildrop:
    """One session's view of a snapshot: message-numbers from 1, and deletion marks.

    Unless ``as_stored``, octets are those of the downgraded form of the messages that
    have one; with ``ends_headers`` they include an empty line behind those that have none.
    """

    def __init__(
        self, messages: Snapshot, *, as_stored: bool = True, ends_headers: bool = False
    ) -> None:
        self._messages = messages
        self._marked: set[int] = set()
        self._endless = messages.endless if ends_headers else frozenset()
        self._show(messages.downgraded if not as_stored else {})

    def _show(self, downgraded: Mapping[int, int]) -> None:
        """Give these octets from now on to the messages that have them, their own to others."""
        self._downgraded = downgraded
        self._sizes = self._messages.octets
        self._total = self._messages.total
        if downgraded or self._endless:
            self._sizes = self._sizes[:]
            for position, octets in downgraded.items():
                if octets:
                    self._sizes[position] = octets
            for position in self._endless:
                self._sizes[position] += 2
            self._total = sum(self._sizes)
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
        octets = self._downgraded.get(number - 1)
        if octets == 0:
            raise NeedsUTF8
        return octets is not None

    def is_endless(self, number: int) -> bool:
        """Tell whether that message is sent with an empty line that it has not."""
        return number - 1 in self._endless

    def show_as_stored(self) -> None:
        """Give the octets of every message as it is stored from now on."""
        self._show({})

    def contents(self) -> Text:
        """Return ``n messages (m octets)``, of those not marked."""
        return Text("%s (%d octets)", counted(self.count), self.octets)

    def mark(self, number: int) -> None:
        """Mark a message as deleted.

        :raises NoSuchMessage: there is none, or it is marked already.
        """
        message = self[number]
        self._marked.add(message.position)
        self.count -= 1
        self.octets -= message.octets

    def unmark_all(self) -> None:
        """Take all marks away; numbers never change."""
        self._marked.clear()
        self._count_again()

    def _count_again(self) -> None:
        self.count = len(self._sizes) - len(self._marked)
        self.octets = self._total - sum(self._sizes[index] for index in self._marked)

    @property
    def marked(self) -> list[Message]:
        """The messages marked as deleted, in order."""
        return [self._messages[index] for index in sorted(self._marked)]

    def scan_listing(self) -> Iterator[bytes]:
        """Yield chunks of lines ``number octets``, one for each message not marked."""
        return self._listing(self._sizes, b"%d %d\r\n")

    def unique_id_listing(self) -> Iterator[bytes]:
        """Yield chunks of lines ``number unique-id``, one for each message not marked."""
        return self._listing(self._messages.uids, b"%d %b\r\n")

    def _listing(self, column: Sequence[int] | Sequence[bytes], line: bytes) -> Iterator[bytes]:
        marked = self._marked
        for start in range(0, len(column), _LINES_A_CHUNK):
            yield b"".join(
                line % (number, value)
                for number, value in enumerate(column[start : start + _LINES_A_CHUNK], start + 1)
                if number - 1 not in marked
            )


def counted(messages: int) -> Text:
    """Return ``1 message`` or ``n messages``."""
    return Counted("%d message", "%d messages", messages)


_LEGAL_UID = re.compile(rb"[\x21-\x7e]{1,70}")


def legal_uid(name: bytes) -> bytes:
    """Return a name as a unique-id: itself if it may be one, else a digest of 40 characters."""
    if _LEGAL_UID.fullmatch(name):
        return name
    return blake2b(name, digest_size=20).hexdigest().encode("ascii")
