"""Removes the objects that no message has, which the table ``doomed`` lists.

Any number of processes may do this at a time, and may be stopped at any point.  A key is *taken*
before its object is deleted, and a delivery refuses a key that is taken; so no object is deleted of
a message that is delivered late.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from popserv.maildrops.sql.objects import ObjectStore
from popserv.runtime.regular import RegularWork

TAKE = """
WITH chosen AS MATERIALIZED (
    SELECT key FROM doomed
    WHERE due < now() AND NOT EXISTS (
        SELECT FROM message WHERE message.id = doomed.key AND NOT message.inline
    )
    ORDER BY due LIMIT $1::bigint FOR UPDATE OF doomed SKIP LOCKED
)
UPDATE doomed SET taken = true, due = now() + $2::bigint * interval '1 second'
FROM chosen WHERE doomed.key = chosen.key
RETURNING doomed.key
"""
"""Parameters: number of keys, seconds until another process may take them.

A key of a message is never taken, although it should not be in the table.
"""

FORGET = "DELETE FROM doomed WHERE key = ANY($1::uuid[]) AND taken"
"""Parameter: keys."""

DOOM_UNKNOWN = """
INSERT INTO doomed (key, due)
SELECT key, now() + $2::bigint * interval '1 second' FROM unnest($1::uuid[]) AS listed (key)
WHERE NOT EXISTS (SELECT FROM message WHERE message.id = key AND NOT message.inline)
ON CONFLICT (key) DO NOTHING
RETURNING key
"""
"""Parameters: keys, seconds until they are due."""

SPARE = """
DELETE FROM doomed USING message
WHERE doomed.key = ANY($1::uuid[]) AND message.id = doomed.key AND NOT message.inline
"""
"""Parameter: keys.

It follows DOOM_UNKNOWN, which adds the key of a message that is delivered at the same time: it sees
neither the message, nor the row of the reservation that the delivery has removed.
"""

AT_ONCE = 500
"""The number of objects that are deleted by a request."""

TAKEN = 600
"""The seconds after which an object is deleted again by another process that was to be deleted."""

AGE = 24 * 3600
"""The seconds since an object was stored before it is compared with the tables."""

Show = Callable[[int], object]
"""Called with the number of objects so far."""


class Collector:
    """Removes unwanted objects; ``execute`` is ``Database.execute``.

    ``collected`` is the number of those that it has removed.
    Objects that are in neither table are kept for ``grace`` seconds after they were found.
    """

    def __init__(
        self, execute: Callable[..., Awaitable[Any]], objects: ObjectStore, grace: int
    ) -> None:
        self._execute = execute
        self._objects = objects
        self._grace = grace
        self._is_stopped = False
        self.collected = 0

    async def collect(self, show: Show = lambda number: None) -> int:
        """Delete the objects that are due; return their number.

        :raises ObjectStoreUnavailable: some of them are left, for a later collection.
        :raises Exception: as ``Database.execute``; likewise.
        """
        collected = 0
        while not self._is_stopped:
            rows = await self._execute(TAKE, (AT_ONCE, TAKEN), durable=True)
            keys = [key for (key,) in rows]
            if keys:
                await self._objects.delete(keys)
                await self._execute(FORGET, (keys,), durable=True)
                collected += len(keys)
                self.collected += len(keys)
                show(collected)
            if len(keys) < AT_ONCE:
                break
        return collected

    async def find_unknown(self, show: Show = lambda number: None) -> int:
        """List all objects, and have those collected later that the database does not know.

        Return their number.  ``show`` is called with the number of objects that were listed.  There
        are such objects after a failover that has lost commits, and after the database was restored
        from a backup.

        :raises Exception: as :meth:`collect`.
        """
        listed = unknown = 0
        async for keys in self._objects.list_keys(AGE):
            if keys:
                parameters = (keys, self._grace)
                unknown += len(await self._execute(DOOM_UNKNOWN, parameters, durable=True))
                await self._execute(SPARE, (keys,), durable=True)
                listed += len(keys)
                show(listed)
        return unknown

    def stop(self) -> None:
        """Have a collection that is under way end soon."""
        self._is_stopped = True


class RegularCollection(RegularWork):
    """Collects about every ``interval`` seconds, from :meth:`start` to :meth:`stop`."""

    def __init__(self, collector: Collector, reactor: Any, interval: float = 60.0) -> None:
        problem = "objects that no message has cannot be removed"
        super().__init__(collector.collect, interval, reactor, problem)
        self._collector = collector

    async def stop(self) -> None:
        """See RegularWork; a collection that is under way ends soon."""
        self._collector.stop()
        await super().stop()
