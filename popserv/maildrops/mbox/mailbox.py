"""The mailbox of a user with an mbox file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from twisted.logger import Logger
from zope.interface import implementer

from popserv.core.snapshot import Message
from popserv.errors import MaildropBusy, MessageChanged, NoSuchMessage, RemovalFailed, TryLater
from popserv.interfaces import (
    ICachedMessages,
    IDeliveryTimes,
    IMessageDetails,
    IRetrievalRecord,
    ISizeCache,
)
from popserv.maildrops.index_cache import IndexCache
from popserv.maildrops.mbox.body import Body
from popserv.maildrops.mbox.file import MboxFile
from popserv.maildrops.mbox.index import Index
from popserv.maildrops.mbox.locks import RETRY_DELAYS, FileLocked, Wait, retry_while_locked
from popserv.maildrops.mbox.quoting import Unquoter
from popserv.maildrops.page_cache import CHUNK, read_part
from popserv.maildrops.refusals import refusal
from popserv.messages.details import MessageDetails
from popserv.messages.framing import Chunk
from popserv.runtime.threads import RunInThread
from popserv.texts import Text

_log = Logger()

_CANNOT_BE_READ = Text("message cannot be read, contact your administrator")


@implementer(ICachedMessages, IRetrievalRecord, ISizeCache, IDeliveryTimes, IMessageDetails)
class MboxMailbox:
    """One mbox file, whose session lock is held until :meth:`release`."""

    # There is one for each client that is logged in.
    __slots__ = ("_cache", "_file", "_is_accurate", "_run", "_user", "_wait", "messages")

    def __init__(
        self, cache: IndexCache[Index], run: RunInThread, wait: Wait, user: bytes, file: MboxFile
    ) -> None:
        self.messages = file.at_login.messages
        self._cache = cache
        self._run = run
        self._wait = wait
        self._user = user
        self._file = file
        self._is_accurate = True

    async def _retry(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return await retry_while_locked(self._run, self._wait, function, *args)
        except OSError as error:
            raise self._file.spool.problem(error) from error

    def read_cached(self, message: Message, maximum: int) -> bytes | None:
        """See ICachedMessages."""
        file = self._file
        index = file.index
        if not index.is_whole:
            return None
        try:
            at = file.find(message.position)
            octets = min(maximum, index.ends[at] - index.starts[at], CHUNK)
            text = read_part(file.spool.fd, octets, index.starts[at])
            if text is None or not file.is_unchanged():
                return None
        except (NoSuchMessage, MessageChanged, OSError):
            return None
        return None if file.format.is_quoted and Unquoter.may_change(text) else text

    async def open(self, message: Message) -> Iterable[Chunk]:
        """See IMailbox."""
        file = self._file
        try:
            text = await self._read(message.position)
            if text is not None:
                return (text,)
            position = file.find(message.position)
        except MessageChanged:
            await self.discard_sizes()
            raise
        except (FileLocked, MaildropBusy) as error:
            raise TryLater from error
        except OSError as error:
            raise refusal(error, _CANNOT_BE_READ) from self._file.spool.problem(error)
        index = file.index
        return Body(
            file.spool.fd,
            index.starts[position],
            index.ends[position],
            is_quoted=file.format.is_quoted,
            run=self._run,
            check=partial(file.check, index=index, position=position),
        )

    async def _read(self, position: int) -> bytes | None:
        """Return the octets of a message, although the file may have changed; None if large."""
        file = self._file
        if file.is_unchanged():
            # A message that has changed is not read again at each command.
            file.find(position)
            with suppress(MessageChanged):
                unchanged: bytes | None = await self._run(file.read, position)
                return unchanged
        refreshed: bytes | None = await self._retry(file.refresh, position)
        return refreshed

    async def discard_sizes(self) -> None:
        """See ISizeCache."""
        self._is_accurate = False
        self._cache.evict(self._user)

    async def remove(self, messages: Iterable[Message]) -> None:
        """See IMailbox."""
        positions = {message.position for message in messages}
        try:
            await self._retry(self._file.remove, positions)
        except (FileLocked, MaildropBusy, OSError) as error:
            raise RemovalFailed(len(positions)) from error

    async def last_retrieved(self) -> Message | None:
        """See IRetrievalRecord: a message with R in Status, whatever program has set it."""
        return self._file.at_login.last_read()

    async def record_retrieved(self, messages: Iterable[Message]) -> None:
        """See IRetrievalRecord."""
        positions = {message.position for message in messages}
        try:
            await self._retry(self._file.mark_read, positions)
        except (FileLocked, MaildropBusy, OSError) as error:
            _log.warn(
                "cannot mark retrieved messages as read: {error}; messages: {count}",
                error=error,
                count=len(positions),
            )

    def delivery_times(self) -> Sequence[float]:
        """See IDeliveryTimes: the times in the From_ lines."""
        return self._file.at_login.delivered

    def details(self) -> Sequence[MessageDetails]:
        """See IMessageDetails."""
        for delay in RETRY_DELAYS:
            try:
                return self._file.details()
            except FileLocked:
                time.sleep(delay)
            except OSError as error:
                raise self._file.spool.problem(error) from error
        raise MaildropBusy

    async def release(self) -> None:
        """See IMailbox."""
        if self._is_accurate:
            self._cache.put(self._user, self._file.index)
        self._file.spool.close()
