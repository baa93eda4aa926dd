"""The unique-ids of the messages of an mbox file (RFC 1725 section 7).

A message has the value of its X-UIDL, or else the digest that identifies it, in hexadecimal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_UNIQUE_ID = re.compile(rb"[\x21-\x7e]{1,70}")


def is_unique_id(text: bytes) -> bool:
    """Return whether a text is a unique-id that X-UIDL can have."""
    return _UNIQUE_ID.fullmatch(text) is not None


def assign_unique_ids(
    messages: Iterable[tuple[bytes, bytes]], before: Iterable[bytes] = ()
) -> list[bytes]:
    """Return the unique-ids of messages, of each of which the digest and the X-UIDL are given.

    ``before`` are the unique-ids of the messages before them.

    Of several messages with one X-UIDL only the first has it.  Of several with one digest, those
    after the first have a number at its end.
    """
    assign = _Assignment(before)
    return [assign.next(*message) for message in messages]


def unique_ids_to_write(
    messages: Iterable[tuple[bytes, bytes]], uids: Iterable[bytes]
) -> Mapping[int, bytes]:
    """Return the unique-ids that messages must have as X-UIDL to keep them, by position.

    ``messages`` are as for :func:`assign_unique_ids`, and ``uids`` the unique-ids that they have.
    They differ from what would be assigned if an equal message was removed.
    """
    assign = _Assignment()
    written = {}
    for at, ((digest, x_uidl), uid) in enumerate(zip(messages, uids, strict=True)):
        if assign.find(digest, x_uidl) != uid:
            written[at] = uid
        assign.used.add(uid)
    return written


class _Assignment:
    """Unique-ids, of which ``used`` are those that were given."""

    def __init__(self, before: Iterable[bytes] = ()) -> None:
        self.used = set(before)
        # The numbers from which a free one is searched, so that each is tried once.
        self._numbers: dict[bytes, int] = {}

    def find(self, digest: bytes, x_uidl: bytes) -> bytes:
        """Return the unique-id of the next message, which is not given yet."""
        if x_uidl and x_uidl not in self.used:
            return x_uidl
        uid = first = digest.hex().encode("ascii")
        number = self._numbers.get(digest, 0)
        if number:
            uid = b"%b-%d" % (first, number)
        while uid in self.used:
            number += 1
            uid = b"%b-%d" % (first, number)
        self._numbers[digest] = number
        return uid

    def next(self, digest: bytes, x_uidl: bytes) -> bytes:
        """Give the next message its unique-id, and return it."""
        uid = self.find(digest, x_uidl)
        self.used.add(uid)
        return uid
