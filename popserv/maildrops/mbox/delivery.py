"""Delivery into an mbox file under the lock of sessions, with unique-ids, times and flags."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import BinaryIO

from zope.interface import implementer

from popserv.errors import MaildropBusy
from popserv.interfaces import IDelivery
from popserv.maildrops.mbox.appending import Batch
from popserv.maildrops.mbox.file import MboxFile
from popserv.maildrops.mbox.locks import FileLocked, Wait, retry_while_locked
from popserv.maildrops.mbox.stored_form import stored_form
from popserv.maildrops.spooling import spool
from popserv.messages.details import MessageDetails
from popserv.messages.framing import Chunk
from popserv.runtime.threads import RunInThread


@implementer(IDelivery)
class MboxDelivery:
    """An open mbox file, for deliveries."""

    def __init__(self, file: MboxFile, run: RunInThread, wait: Wait) -> None:
        self._file = file
        self._run = run
        self._wait = wait
        self._batch = Batch(file.spool.parent, file.spool.name)
        self._unique_ids = set(file.at_login.messages.uids)

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
        with await spool(await open_body(), self._run) as body:
            await self._run(self._add, body, unique_id, details)
        self._unique_ids.add(unique_id)
        return True

    def _add(self, body: BinaryIO, unique_id: bytes, details: MessageDetails) -> None:
        try:
            self._batch.add(stored_form(body, self._file.format, unique_id, details))
        except OSError as error:
            raise self._file.spool.problem(error) from error

    async def commit(self) -> None:
        """See IDelivery."""
        try:
            await retry_while_locked(self._run, self._wait, self._file.append, self._batch)
        except FileLocked as error:
            raise MaildropBusy from error
        except OSError as error:
            raise self._file.spool.problem(error) from error

    async def release(self) -> None:
        """See IDelivery."""
        await self._run(self._release)

    def _release(self) -> None:
        try:
            self._batch.close()
        finally:
            self._file.spool.close()
