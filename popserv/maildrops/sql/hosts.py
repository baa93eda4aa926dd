"""The servers that share a store, and what they are asked; see ``IHostDirectory``.

Nothing here must survive a failover, so that no commit waits until it is durable: a host that a
failover forgets announces itself a second later.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from uuid import UUID

from zope.interface import implementer

from popserv.core.host import Host
from popserv.interfaces import IHostDirectory
from popserv.maildrops.sql.leases import Execute

ANNOUNCE = """
WITH announced AS (
    INSERT INTO host (id, name, version, draining)
    VALUES ($1::uuid, $2::text, $3::text, $4::boolean)
    ON CONFLICT (id) DO UPDATE SET seen = now(), draining = excluded.draining
    RETURNING set_config('synchronous_commit', 'off', true)
)
SELECT id, request FROM request WHERE host = $1::uuid AND at > now() - interval '10 s'
"""
"""Parameters: id, name, version, whether it drains.

A request that is older is not carried out: whoever has made it has given up.
"""

WITHDRAW = """
DELETE FROM host WHERE id = $1::uuid OR seen < now() - interval '1 day'
RETURNING set_config('synchronous_commit', 'off', true)
"""
"""Parameter: id.  The hosts of a day ago have ended without it."""

LISTED = """
SELECT id, name, version, draining,
    extract(epoch FROM now() - started)::float8, extract(epoch FROM now() - seen)::float8
FROM host WHERE seen > now() - $1::float8 * interval '1 s' ORDER BY name, started
"""
"""Parameter: the seconds for which a host counts as there."""

ASK = """
WITH old AS (
    DELETE FROM request WHERE at < now() - interval '1 hour'
    RETURNING set_config('synchronous_commit', 'off', true)
)
INSERT INTO request (id, host, request)
SELECT $1::uuid, id, $2::text FROM host WHERE id = ANY($3::uuid[])
ON CONFLICT DO NOTHING
RETURNING set_config('synchronous_commit', 'off', true)
"""
"""Parameters: id of the request, its text, ids of hosts."""

ANSWER = """
INSERT INTO answer (request, host, part, answer)
SELECT id, host, $3::bigint, $4::text FROM request WHERE id = $1::uuid AND host = $2::uuid
ON CONFLICT DO NOTHING
RETURNING set_config('synchronous_commit', 'off', true)
"""
"""Parameters: id of the request, id of the host, number of the part, its text."""

ANSWERS = """
SELECT answer.host, answer.part, answer.answer
FROM answer, unnest($2::uuid[], $3::bigint[]) AS wanted (host, part)
WHERE answer.request = $1::uuid AND answer.host = wanted.host AND answer.part >= wanted.part
ORDER BY answer.host, answer.part
"""
"""Parameters: id of the request, ids of hosts, and for each the part from which on."""

FORGET = """
DELETE FROM request WHERE id = $1::uuid RETURNING set_config('synchronous_commit', 'off', true)
"""
"""Parameter: id of the request."""


@implementer(IHostDirectory)
class Hosts:
    """The hosts in a database; those are listed that were seen in the last ``seconds``.

    ``check`` raises an exception if the database cannot be used.
    """

    def __init__(
        self, execute: Execute, seconds: float, check: Callable[[], Awaitable[None]]
    ) -> None:
        self._execute = execute
        self._seconds = seconds
        self._check = check

    async def announce(
        self, host: UUID, name: str, version: str, is_draining: bool
    ) -> Sequence[tuple[UUID, str]]:
        """See IHostDirectory."""
        await self._check()
        rows = await self._execute(ANNOUNCE, (host, name, version, is_draining))
        return [(id_, text) for id_, text in rows]

    async def withdraw(self, host: UUID) -> None:
        """See IHostDirectory."""
        await self._check()
        await self._execute(WITHDRAW, (host,))

    async def answer(self, request: UUID, host: UUID, part: int, text: str) -> None:
        """See IHostDirectory."""
        await self._execute(ANSWER, (request, host, part, text))

    async def listed(self) -> Sequence[Host]:
        """See IHostDirectory."""
        await self._check()
        return [Host(*row) for row in await self._execute(LISTED, (self._seconds,))]

    async def ask(self, request: UUID, text: str, hosts: Sequence[UUID]) -> None:
        """See IHostDirectory."""
        await self._execute(ASK, (request, text, list(hosts)))

    async def answers(
        self, request: UUID, parts: Mapping[UUID, int]
    ) -> Sequence[tuple[UUID, int, str]]:
        """See IHostDirectory."""
        rows = await self._execute(ANSWERS, (request, [*parts], [*parts.values()]))
        return [(host, part, text) for host, part, text in rows]

    async def forget(self, request: UUID) -> None:
        """See IHostDirectory."""
        await self._execute(FORGET, (request,))
