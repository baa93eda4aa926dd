"""The cache of the indexes of Maildirs, and whose size file may be read."""

from __future__ import annotations

from popserv.maildrops.index_cache import IndexCache
from popserv.maildrops.maildir.listing.index import Index
from popserv.maildrops.maildir.listing.texts import CountedTexts


class MaildirIndexCache(IndexCache[Index]):
    """A cache that knows whose size files are not to be trusted.

    :ivar texts: keeps messages that were counted.
    """

    def __init__(self, max_messages: int) -> None:
        super().__init__(max_messages)
        self._distrusted: set[bytes] = set()
        self.texts = CountedTexts()

    def invalidate(self, user: bytes) -> None:
        """Evict a user's index, which was wrong, and distrust the size file that may have it."""
        self.evict(user)
        self._distrusted.add(user)

    def trust_size_file(self, user: bytes) -> None:
        """Trust a user's size file again, once the wrong one is removed."""
        self._distrusted.discard(user)

    def is_size_file_trusted(self, user: bytes) -> bool:
        """Return whether a user's size file may be read."""
        return user not in self._distrusted
