"""The objects of a store's messages: where they are, their keys, and their removal."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, BinaryIO
from uuid import UUID

from popserv.maildrops.sql.collector import Collector, RegularCollection
from popserv.maildrops.sql.contents import Contents, ExaminedFile
from popserv.maildrops.sql.ids import new_id
from popserv.maildrops.sql.keys import ReservedKeys
from popserv.maildrops.sql.leases import Execute
from popserv.maildrops.sql.objects import ObjectStore


class MessageObjects:
    """Messages of more than ``inline`` octets, each an object in ``store``.

    Objects are kept for ``grace`` seconds after their messages.  ``reactor`` provides IReactorTime.
    """

    def __init__(
        self, execute: Execute, store: ObjectStore, inline: int, grace: int, reactor: Any
    ) -> None:
        self.store = store
        self.inline = inline
        self.collector = Collector(execute, store, grace)
        self.regular = RegularCollection(self.collector, reactor)
        self._keys = ReservedKeys(execute, new_id)

    async def put(self, message: BinaryIO) -> tuple[UUID, Contents]:
        """Store a message, from the position of its file on, before it is delivered.

        Return its key.  Two parts of a large message are in memory at a time.

        :raises popserv.errors.TryLater: the object store or the database does not answer.
        """
        key = await self._keys.take()
        file = ExaminedFile(message)
        digest = await self.store.put(key, file)
        return key, file.contents(digest)

    async def drop(self, keys: Collection[UUID]) -> None:
        """Delete objects whose messages were refused, and use no key that was reserved with them.

        :raises popserv.errors.TryLater: some are left.
        """
        self._keys.discard()
        await self.store.delete(keys)
