"""The objects of a store's messages: where they are, their keys, and their removal."""

from __future__ import annotations

from io import BytesIO
from typing import Any
from uuid import UUID

from popserv.maildrops.sql.bucket import PART
from popserv.maildrops.sql.collector import Collector, RegularCollection
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

    async def put(self, body: bytes) -> UUID:
        """Store the octets of a message before it is delivered; return the key.

        :raises popserv.errors.TryLater: the object store or the database does not answer.
        """
        key = await self._keys.take()
        await self.store.put(key, BytesIO(body) if len(body) > PART else body)
        return key

    async def drop(self, key: UUID) -> None:
        """Delete an object whose message was refused, and use no key that was reserved with it.

        :raises popserv.errors.TryLater: it is left.
        """
        self._keys.discard()
        await self.store.delete([key])
