"""The cache of indexes, which keeps the lists of messages in memory between sessions."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Generic, Protocol, TypeVar

from popserv.core.snapshot import Snapshot
from popserv.maildrops.scans import ScanCounts

MAILDROP_COST = 10
"""The memory that a maildrop takes beside its messages, as a number of messages."""


class Index(Protocol):
    """What a store knows of a maildrop, beside its messages."""

    @property
    def messages(self) -> Snapshot:
        """The messages of the maildrop."""


AnyIndex = TypeVar("AnyIndex", bound=Index)


class IndexCache(Generic[AnyIndex]):
    """The indexes of the maildrops used last, with at most ``max_messages`` messages together.

    A maildrop counts as ``MAILDROP_COST`` messages more than it has.  The index of the maildrop
    used least recently is evicted first.

    :ivar scans: counts the scans of maildrops whose index is not in the cache, or not current.
    """

    def __init__(self, max_messages: int) -> None:
        self._max_messages = self._available = max_messages
        self._indexes: OrderedDict[bytes, AnyIndex] = OrderedDict()
        self.scans = ScanCounts()

    def get(self, user: bytes) -> AnyIndex | None:
        """Return the index of a user's maildrop, if it is in the cache."""
        return self._indexes.get(user)

    def put(self, user: bytes, index: AnyIndex) -> None:
        """Cache an index as the one used last, and evict those used least recently.

        One larger than the cache is not cached: it would evict all others, and itself before its
        next session.
        """
        self.evict(user)
        cost = MAILDROP_COST + len(index.messages)
        if cost <= self._max_messages:
            self._available -= cost
            self._indexes[user] = index
        while self._available < 0:
            self.evict(next(iter(self._indexes)))

    def sizes(self) -> Mapping[str, int]:
        """Return the number of maildrops and of their messages; see ICaching."""
        maildrops = len(self._indexes)
        messages = self._max_messages - self._available - MAILDROP_COST * maildrops
        return {"maildrops": maildrops, "messages": messages}

    def evict(self, user: bytes) -> None:
        """Remove a user's index from the cache, if it is there."""
        index = self._indexes.pop(user, None)
        if index is not None:
            self._available += MAILDROP_COST + len(index.messages)
