"""Delivery of messages with their unique-ids, times and flags, for ``popserv copy``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Any, NamedTuple
from uuid import UUID

from zope.interface import implementer

from popserv.core.snapshot import is_unique_id
from popserv.errors import DeliveryRefused, TryLater
from popserv.interfaces import IDelivery
from popserv.maildrops.spooling import spool
from popserv.maildrops.sql.flags import number_of
from popserv.maildrops.sql.leases import Execute
from popserv.maildrops.sql.mailbox import LeaseLost, SQLMailbox
from popserv.maildrops.sql.message_objects import MessageObjects
from popserv.maildrops.sql.statements import COPY, LOCK_MAILDROPS, UNRESERVED_KEYS
from popserv.maildrops.sql.storing import store_octets
from popserv.messages.details import MessageDetails
from popserv.messages.framing import Chunk
from popserv.runtime.threads import RunInThread

_BATCH_OCTETS = 1 << 20
"""The octets of messages that are gathered for one statement, unless one has more."""


class _Pending(NamedTuple):
    """The columns of a message, in the order of the statement."""

    id: UUID
    uidl: bytes
    time: int
    flags: int
    octets: int
    downgraded: int | None
    stored: int
    header_ends: bool
    digest: bytes
    body: bytes | None


class KeysForgotten(Exception):
    """The database does not know the keys of objects: their reservation is over, or was lost."""

    def __str__(self) -> str:
        return "the database no longer knows the objects of the last messages; copy them again"


@implementer(IDelivery)
class SQLDelivery:
    """A maildrop whose lease is held, for deliveries; ``run`` calls functions in threads.

    ``objects`` has the octets of large messages.  Those of messages that are not committed are
    collected when the reservation of their keys is over.
    """

    def __init__(
        self,
        mailbox: SQLMailbox,
        execute: Execute,
        run: RunInThread,
        objects: MessageObjects | None,
    ) -> None:
        self._mailbox = mailbox
        self._execute = execute
        self._run = run
        self._objects = objects
        self._unique_ids = set(mailbox.messages.uids)
        self._pending: list[_Pending] = []
        # What was there at the beginning may be of a copy that no standby has confirmed.
        self._is_confirmed = False

    @property
    def unique_ids(self) -> Collection[bytes]:
        """See IDelivery."""
        return self._unique_ids

    async def deliver(
        self,
        unique_id: bytes,
        details: MessageDetails,
        open_body: Callable[[], Awaitable[Iterable[Chunk]]],
    ) -> bool:
        """See IDelivery."""
        if unique_id in self._unique_ids:
            return False
        if not is_unique_id(unique_id):
            raise DeliveryRefused("its unique-id has spaces, or more than 255 octets")
        with await spool(await open_body(), self._run) as file:
            try:
                id_, contents, body = await store_octets(file, self._run, self._objects)
            except TryLater as error:
                # No problem of this message.
                raise OSError(f"messages cannot be stored: {error.__cause__ or error}") from error
        flags = number_of(details.flags)
        time = round(details.delivered * 1_000_000)
        self._pending.append(_Pending(id_, unique_id, time, flags, *contents, body))
        self._unique_ids.add(unique_id)
        return True

    async def commit(self) -> None:
        """See IDelivery."""
        while self._pending:
            count = octets = 0
            for each in self._pending:
                if each.body is not None:
                    octets += len(each.body)
                if count and octets > _BATCH_OCTETS:
                    break
                count += 1
            await self._write(self._pending[:count])
            del self._pending[:count]
        if not self._is_confirmed:
            await self._execute(LOCK_MAILDROPS, ([self._mailbox.lease.name],), durable=True)
            self._is_confirmed = True

    async def _write(self, batch: list[_Pending]) -> None:
        while await self._is_refused(batch):
            keys = [each.id for each in batch if each.body is None]
            forgotten = [key for (key,) in await self._execute(UNRESERVED_KEYS, (keys,))]
            if forgotten and self._objects is not None:
                await self._objects.drop(forgotten)
                raise TryLater from KeysForgotten()
        self._is_confirmed = True

    async def _is_refused(self, batch: list[_Pending]) -> bool:
        """Write messages; return whether the database refuses them, at least for now."""
        lease = self._mailbox.lease
        columns: list[list[Any]] = [list(column) for column in zip(*batch, strict=True)]
        rows = await self._execute(COPY, (lease.maildrop, lease.token, *columns), durable=True)
        if not rows:
            raise TryLater from LeaseLost()
        [(is_refused,)] = rows
        return bool(is_refused)

    async def release(self) -> None:
        """See IDelivery."""
        await self._mailbox.release()
        await self._mailbox.released()
