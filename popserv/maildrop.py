"""A fixed, numbered view of one mailbox, with its deletion marks (RFC 1725 sections 4 and 5).

A :class:`Snapshot` is what the store saw when the maildrop was opened; it never
changes and may be shared.  A :class:`Maildrop` is one session's view of it: the
message-numbers, from 1, and the marks.  Both speak of octets as sent.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple, overload

from popserv.errors import NoSuchMessage

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
    section 7, RFC 1939 section 7).
    """

    __slots__ = ("octets", "total", "uids")

    def __init__(self, octets: Iterable[int] = (), uids: Sequence[bytes] = ()) -> None:
        self.octets = array("Q", octets)
        self.uids = uids
        self.total = sum(self.octets)
        if len(self.octets) != len(uids):
            raise ValueError(f"{len(self.octets)} sizes for {len(uids)} unique-ids")

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
    """One session's view of a snapshot: message-numbers from 1, and deletion marks."""

    def __init__(self, messages: Snapshot) -> None:
        self._messages = messages
        self._marked: set[int] = set()
        self.count = len(messages)
        self.octets = messages.total

    def __getitem__(self, number: int) -> Message:
        """Return the message of that number; the one gate for numbers that clients send.

        :raises NoSuchMessage: there is none, or it is marked.
        """
        if not 0 < number <= len(self._messages):
            raise NoSuchMessage(
                b"no such message, only %b in maildrop" % counted(len(self._messages))
            )
        if number - 1 in self._marked:
            raise NoSuchMessage(b"message %d already deleted" % number)
        return self._messages[number - 1]

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
        self.count = len(self._messages)
        self.octets = self._messages.total

    @property
    def marked(self) -> list[Message]:
        """The messages marked as deleted, in order."""
        return [self._messages[index] for index in sorted(self._marked)]

    def scan_listing(self) -> Iterator[bytes]:
        """Yield chunks of lines ``number octets``, one for each message not marked."""
        return self._listing(self._messages.octets, b"%d %d\r\n")

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


def counted(messages: int) -> bytes:
    """Return ``1 message`` or ``n messages``."""
    return b"%d message%b" % (messages, b"" if messages == 1 else b"s")


_LEGAL_UID = re.compile(rb"[\x21-\x7e]{1,70}")


def legal_uid(name: bytes) -> bytes:
    """Return a name as a unique-id: itself if it may be one, else a digest of 40 characters."""
    if _LEGAL_UID.fullmatch(name):
        return name
    return blake2b(name, digest_size=20).hexdigest().encode("ascii")
