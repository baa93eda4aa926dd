"""The cache of indexes, which keeps the lists of messages in memory between sessions."""

from __future__ import annotations

from collections import OrderedDict

from popserv.maildrops.maildir.listing.index import Index

MAILDROP_COST = 10
"""The memory that a maildrop takes beside its messages, as a number of messages."""


class IndexCache:
    """The indexes of the maildrops used last, with at most ``max_messages`` messages together.

    A maildrop counts as ``MAILDROP_COST`` messages more than it has.  The index of the maildrop
    used least recently is evicted first.
    """

    def __init__(self, max_messages: int) -> None:
        self._max_messages = self._available = max_messages
        self._indexes: OrderedDict[bytes, Index] = OrderedDict()
        self._distrusted: set[bytes] = set()

    def get(self, user: bytes) -> Index | None:
        """Return the index of a user's maildrop, if it is in the cache."""
        return self._indexes.get(user)

    def put(self, user: bytes, index: Index) -> None:
        """Cache an index as the one used last, and evict those used least recently.

        One larger than the cache is not cached: it would evict all others, and itself before its
        next session.
        """
        if self._indexes.get(user) is index:
            self._indexes.move_to_end(user)
            return
        self._evict(user)
        cost = MAILDROP_COST + len(index.base_names)
        if cost <= self._max_messages:
            self._available -= cost
            self._indexes[user] = index
        while self._available < 0:
            self._evict(next(iter(self._indexes)))

    def _evict(self, user: bytes) -> None:
        index = self._indexes.pop(user, None)
        if index is not None:
            self._available += MAILDROP_COST + len(index.base_names)

    def invalidate(self, user: bytes) -> None:
        """Evict a user's index, which was wrong, and distrust the size file that may have it."""
        self._evict(user)
        self._distrusted.add(user)

    def trust_size_file(self, user: bytes) -> None:
        """Trust a user's size file again, once the wrong one is removed."""
        self._distrusted.discard(user)

    def is_size_file_trusted(self, user: bytes) -> bool:
        """Return whether a user's size file may be read."""
        return user not in self._distrusted
