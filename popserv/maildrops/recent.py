"""A store that shows only recent messages of another one, for ``--since``."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from zope.interface import alsoProvides, directlyProvides, implementer, providedBy

from popserv.core.snapshot import Message, Snapshot
from popserv.core.user_settings import UserSettings
from popserv.interfaces import (
    IConfigurableStore,
    IDeliveryTimes,
    IFinalDelivery,
    IMailbox,
    IMaildropFactory,
)
from popserv.maildrops.wrapping import share_interfaces
from popserv.messages.details import MessageDetails
from popserv.messages.framing import Chunk
from popserv.runtime.threads import RunInThread


@implementer(IMaildropFactory)
class RecentMaildrops:
    """Another store, without its messages that were delivered more than ``age`` seconds ago.

    A message whose time of delivery is unknown is shown.  The mailboxes of the store that provide
    IDeliveryTimes are filtered; others have no messages.  ``run`` is as for
    :class:`~popserv.maildrops.maildir.MaildirMaildrops`.  It honours settings of single users if
    the other store does, which then also filters the messages of these.
    """

    def __init__(self, maildrops: IMaildropFactory, age: float, run: RunInThread) -> None:
        self._maildrops = maildrops
        self._age = age
        self._run = run
        share_interfaces(self, maildrops, IFinalDelivery)
        if IConfigurableStore.providedBy(maildrops):
            alsoProvides(self, IConfigurableStore)

    async def open_maildrop(self, user: bytes) -> IMailbox:
        """See IMaildropFactory."""
        return await select_recent(await self._maildrops.open_maildrop(user), self._age, self._run)

    async def open_configured(self, user: bytes, settings: UserSettings) -> IMailbox:
        """See IConfigurableStore."""
        if settings.since is None:
            settings = replace(settings, since=self._age)
        store: Any = self._maildrops
        return IMailbox(await store.open_configured(user, settings))


async def select_recent(mailbox: Any, age: float, run: RunInThread) -> IMailbox:
    """Return a mailbox without its messages that were delivered more than ``age`` seconds ago.

    If that fails, the mailbox is released.
    """
    if not IDeliveryTimes.providedBy(mailbox):
        return IMailbox(mailbox)
    try:
        selected = await run(_select, mailbox, time.time() - age)
    except BaseException:
        await mailbox.release()
        raise
    return IMailbox(mailbox if selected is None else SelectedMailbox(mailbox, *selected))


def _select(mailbox: Any, earliest: float) -> tuple[Snapshot, Sequence[int]] | None:
    """Return the messages since a time and their positions, or None if they are all.

    It takes time for many messages: call it in a thread.
    """
    times = mailbox.delivery_times()
    positions = [at for at, delivered in enumerate(times) if not 0 < delivered < earliest]
    if len(positions) == len(mailbox.messages):
        return None
    return mailbox.messages.updated((), (), positions), positions


class SelectedMailbox:
    """The messages of a mailbox at some ``positions``, which are in order.

    It provides the interfaces that the mailbox provides.
    """

    def __init__(self, mailbox: Any, messages: Snapshot, positions: Sequence[int]) -> None:
        self.messages = messages
        self._mailbox = mailbox
        self._positions = positions
        directlyProvides(self, providedBy(mailbox))

    def _inner(self, message: Message) -> Message:
        inner: Message = self._mailbox.messages[self._positions[message.position]]
        return inner

    def open(self, message: Message) -> Awaitable[Iterable[Chunk]]:
        """See IMailbox."""
        opened: Awaitable[Iterable[Chunk]] = self._mailbox.open(self._inner(message))
        return opened

    def remove(self, messages: Iterable[Message]) -> Awaitable[None]:
        """See IMailbox."""
        removed: Awaitable[None] = self._mailbox.remove([*map(self._inner, messages)])
        return removed

    def release(self) -> Awaitable[None]:
        """See IMailbox."""
        released: Awaitable[None] = self._mailbox.release()
        return released

    def read_cached(self, message: Message, maximum: int) -> bytes | None:
        """See ICachedMessages."""
        octets: bytes | None = self._mailbox.read_cached(self._inner(message), maximum)
        return octets

    def discard_sizes(self) -> Awaitable[None]:
        """See ISizeCache."""
        discarded: Awaitable[None] = self._mailbox.discard_sizes()
        return discarded

    def delivery_times(self) -> Sequence[float]:
        """See IDeliveryTimes."""
        times = self._mailbox.delivery_times()
        return [times[at] for at in self._positions]

    def details(self) -> Sequence[MessageDetails]:
        """See IMessageDetails."""
        details = self._mailbox.details()
        return [details[at] for at in self._positions]

    async def last_retrieved(self) -> Message | None:
        """See IRetrievalRecord.

        If it is a message that is not shown, the last one before it that is shown: LAST includes
        all messages with lower numbers.
        """
        last = await self._mailbox.last_retrieved()
        shown = 0 if last is None else bisect_left(self._positions, last.position + 1)
        return self.messages[shown - 1] if shown else None

    def record_retrieved(self, messages: Iterable[Message]) -> Awaitable[None]:
        """See IRetrievalRecord."""
        recorded: Awaitable[None] = self._mailbox.record_retrieved([*map(self._inner, messages)])
        return recorded
