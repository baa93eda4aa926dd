"""Carries the updates of a bus to other hosts and back, by the table ``fact``.

Each process writes what it has published of late, once a second, and reads what others have
written.  Nothing waits for it.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

from twisted.logger import Logger

from popserv.database.pool import Database
from popserv.database.settings import shared_secret
from popserv.runtime.bus import WorkerBus

INTERVAL = 1.0
"""The seconds between two exchanges."""

LIFETIME = 600
"""The seconds for which facts are kept, and that a new process reads."""

MARGIN = 5
"""The seconds of facts that are read again: those of a slow transaction appear late."""

MAX_PENDING = 1000
"""The greatest number of updates that wait to be written; the oldest are dropped."""

WRITE = """
WITH old AS (
    DELETE FROM fact WHERE id IN (
        SELECT id FROM fact WHERE at < now() - $3::bigint * interval '1 second'
        FOR UPDATE SKIP LOCKED
    )
)
INSERT INTO fact (id, facts)
SELECT $1::uuid, $2::text FROM set_config('synchronous_commit', 'off', true)
ON CONFLICT (id) DO NOTHING
"""
"""Parameters: id, facts, the seconds for which facts are kept."""

READ = """
SELECT id, extract(epoch FROM now() - at)::float8, facts FROM fact
WHERE at > now() - $1::bigint * interval '1 second' ORDER BY at
"""
"""Parameter: the age of facts in seconds."""

_log = Logger()


class SharedFacts:
    """The updates that a process shares with other hosts.

    ``use_secret`` is called with 32 octets that all hosts have, before the first update is shared.
    ``now`` is the clock of times in updates.
    """

    def __init__(
        self,
        database: Database,
        bus: WorkerBus,
        use_secret: Callable[[bytes], object],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._bus = bus
        self._use_secret = use_secret
        self._now = now
        self._has_begun = False
        self._pending: deque[tuple[str, Any]] = deque(maxlen=MAX_PENDING)
        # What is being written, until it is known to be.
        self._batch: tuple[UUID, list[tuple[str, Any]]] | None = None
        self._read_at = -math.inf
        self._seen: set[UUID] = set()

    def start(self) -> None:
        """Exchange updates regularly, until the database is closed."""
        problem = "facts cannot be exchanged with other hosts"
        self._database.work_regularly(self.exchange, INTERVAL, problem)

    async def exchange(self) -> None:
        """Write what was published here, and pass on what others have written.

        :raises Exception: as :meth:`Database.execute`; the next call continues.
        """
        if not self._has_begun:
            self._use_secret(await shared_secret(self._database, "facts"))
            self._bus.carry(self._add)
            self._has_begun = True
        await self._write()
        await self._read()

    def _add(self, topic: str, update: Any) -> None:
        self._pending.append((topic, update))

    async def _write(self) -> None:
        if self._batch is None and self._pending:
            self._batch = uuid4(), list(self._pending)
            self._pending.clear()
        if self._batch is not None:
            id_, updates = self._batch
            facts = json.dumps({"clock": self._now(), "updates": updates})
            await self._database.execute(WRITE, (id_, facts, LIFETIME))
            self._seen.add(id_)
            self._batch = None

    async def _read(self) -> None:
        now = self._now()
        seconds = min(now - self._read_at + MARGIN, LIFETIME)
        rows = await self._database.execute(READ, (math.ceil(seconds),))
        new = [row for row in rows if row[0] not in self._seen]
        self._seen = {row[0] for row in rows}
        self._read_at = now
        for _, age, text in new:
            facts = json.loads(text)
            offset = now - age - facts["clock"]
            for topic, update in facts["updates"]:
                self._receive(topic, update, offset)

    def _receive(self, topic: str, update: Any, offset: float) -> None:
        try:
            self._bus.receive(topic, update, offset)
        except Exception:
            # Of another version of popserv.
            _log.failure("what another host has told cannot be understood")
