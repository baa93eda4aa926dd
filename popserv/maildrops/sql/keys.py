"""Keys for objects, reserved in the table ``doomed`` before there is anything under them.

So an object is known to the database at any time: in ``doomed`` until its message is delivered, in
``message`` while it is there, and in ``doomed`` again once it is removed.  What a process leaves
that is killed in a delivery is collected when its reservation is over.  A delivery whose key is no
longer in the table, or is taken, is refused, and whoever delivers then deletes the object.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

RESERVE = """
INSERT INTO doomed (key, due)
SELECT key, now() + $2::bigint * interval '1 second' FROM unnest($1::uuid[]) AS reserved (key)
ON CONFLICT (key) DO NOTHING
"""
"""Parameters: keys, seconds until they are due.  It may be repeated."""

AT_ONCE = 64
"""The number of keys that are reserved by a statement."""

RESERVED = 24 * 3600
"""The seconds for which a key is reserved."""

USED = RESERVED // 2
"""The seconds in which a key is handed out; there is as long as that for the delivery itself."""


class ReservedKeys:
    """The keys that a process has reserved.

    ``execute`` is ``Database.execute``, ``new_id`` returns a key that nobody else has, and
    ``seconds`` the time in seconds, by a clock that nobody sets.
    """

    def __init__(
        self,
        execute: Callable[..., Awaitable[Any]],
        new_id: Callable[[], UUID],
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._execute = execute
        self._new_id = new_id
        self._seconds = seconds
        self._keys: list[UUID] = []
        self._reserved_at = 0.0
        # Who waits for the statement that is under way; None if there is none.
        self._waiting: list[Deferred[None]] | None = None

    async def take(self) -> UUID:
        """Return a key that nobody else has.

        :raises Exception: as ``Database.execute``.
        """
        while not self._keys or self._seconds() - self._reserved_at > USED:
            await self._reserve()
        return self._keys.pop()

    def discard(self) -> None:
        """Hand out none of the present keys: the database has forgotten a reservation.

        That happens in a failover that loses commits.
        """
        self._keys = []

    async def _reserve(self) -> None:
        if self._waiting is not None:
            waiting: Deferred[None] = Deferred()
            self._waiting.append(waiting)
            await waiting
            return
        self._waiting = []
        failure = None
        try:
            reserved_at = self._seconds()
            keys = [self._new_id() for _ in range(AT_ONCE)]
            await self._execute(RESERVE, (keys, RESERVED), durable=True)
            self._keys, self._reserved_at = keys, reserved_at
        except Exception:
            failure = Failure()
            raise
        finally:
            waiters, self._waiting = self._waiting, None
            for waiter in waiters:
                waiter.callback(failure)
