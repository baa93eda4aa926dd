"""The MH store: one folder for each user, opened under an exclusive-access lock."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from functools import partial
from typing import BinaryIO

from zope.interface import implementer

from popserv.core.findings import Finding
from popserv.core.user_settings import UserSettings
from popserv.errors import MaildropBusy
from popserv.interfaces import (
    ICaching,
    IConfigurableStore,
    IDelivery,
    IDeliveryStore,
    IDiagnosedStore,
    IFinalDelivery,
    IMailbox,
    IScanCounts,
    IUserListing,
)
from popserv.maildrops.empty_mailbox import EmptyMailbox
from popserv.maildrops.index_cache import IndexCache
from popserv.maildrops.layout import Layout, create_inheriting
from popserv.maildrops.mh.delivery import MHDelivery
from popserv.maildrops.mh.diagnosis import diagnose_folder
from popserv.maildrops.mh.final_delivery import deliver
from popserv.maildrops.mh.folder import lock, times_of
from popserv.maildrops.mh.index import Index, read_index
from popserv.maildrops.mh.mailbox import MHMailbox
from popserv.maildrops.path_problems import explain_in_directory
from popserv.maildrops.recent import select_recent
from popserv.maildrops.refusals import refusal, removed_meanwhile
from popserv.maildrops.store_diagnosis import diagnose_root, diagnose_settings
from popserv.messages.sizes import MakeDowngrader
from popserv.runtime.closing import close
from popserv.runtime.threads import BoundedThreadPool, RunInThread

_SUPPORTED = ("maildrop", "since")
"""The settings of single users that are honoured."""

_disk_threads = BoundedThreadPool("popserv-mh", threads=4)


@implementer(
    ICaching,
    IConfigurableStore,
    IDeliveryStore,
    IDiagnosedStore,
    IFinalDelivery,
    IScanCounts,
    IUserListing,
)
class MHMaildrops:
    """The MH folders at the paths that a template gives.

    ``template`` is as for :class:`~popserv.maildrops.layout.Layout`.

    Up to ``cache_messages`` messages are cached in memory between sessions, at some 600 bytes each.
    ``downgrader`` and ``run`` are as for :class:`~popserv.maildrops.maildir.MaildirMaildrops`.
    """

    restrictions: Sequence[str] = ()
    """See IDeliveryStore."""

    def __init__(
        self,
        template: str,
        *,
        cache_messages: int = 500_000,
        downgrader: MakeDowngrader | None = None,
        run: RunInThread = _disk_threads.run,
    ) -> None:
        self.run = run
        self._downgrader = downgrader
        self._layout = Layout(template)
        self._cache: IndexCache[Index] = IndexCache(cache_messages)
        self.cache_sizes = self._cache.sizes
        self.scan_counts = self._cache.scans.totals
        self._empty: set[bytes] = set()

    async def open_maildrop(self, user: bytes) -> IMailbox:
        """See IMaildropFactory."""
        opened = await self.run(self._open, user, self._cache.get(user))
        if opened is not None:
            folder, index = opened
            self._cache.put(user, index)
            return MHMailbox(self._cache, self.run, user, folder, index, self._downgrader)
        if user in self._empty:
            raise MaildropBusy
        self._empty.add(user)
        return EmptyMailbox(partial(self._empty.remove, user))

    async def open_configured(self, user: bytes, settings: UserSettings) -> IMailbox:
        """See IConfigurableStore."""
        settings.reject_unsupported(*_SUPPORTED)
        store = self
        if settings.maildrop:
            # Whatever user has it, what is known of it is kept by its path.
            store, user = copy(self), settings.maildrop
            store._layout = self._layout.at(user)
        mailbox = await store.open_maildrop(user)
        if settings.since is None:
            return mailbox
        return await select_recent(mailbox, settings.since, self.run)

    async def users(self) -> Sequence[bytes]:
        """See IUserListing: those who have a folder."""
        users: Sequence[bytes] = await self.run(self._layout.users)
        return users

    async def diagnose(self) -> Iterable[Finding]:
        """See IDiagnosed."""
        found: Iterable[Finding] = await self.run(
            diagnose_root, self._layout, os.path.isfile, "MH folders", "files"
        )
        return found

    def diagnose_maildrop(self, user: bytes, settings: UserSettings) -> Iterator[Finding]:
        """See IDiagnosedStore."""
        yield from diagnose_settings(user, partial(settings.reject_unsupported, *_SUPPORTED))
        layout = self._layout.at(settings.maildrop) if settings.maildrop else self._layout
        yield from diagnose_folder(layout, user)

    async def open_delivery(self, user: bytes) -> IDelivery:
        """See IDeliveryStore."""
        return IDelivery(await self.run(self._open_delivery, user))

    def _open_delivery(self, user: bytes) -> MHDelivery:
        try:
            close(self._layout.open_or_create(user, create_inheriting))
        except (OSError, ValueError) as error:
            raise refusal(error) from error
        # A message that is left out would be delivered again.
        opened = self._open(user, None, is_whole=True)
        if opened is None:
            raise removed_meanwhile(self._layout.path(user))
        folder, index = opened
        delivery = MHDelivery(folder, index, self._downgrader, self.run)
        try:
            delivery.find_unfinished()
        except OSError as error:
            problem = explain_in_directory(error, folder, error.filename)
            close(folder)
            raise refusal(error) from problem
        return delivery

    async def deliver_new(self, user: bytes, settings: UserSettings, message: BinaryIO) -> None:
        """See IFinalDelivery."""
        await self.run(deliver, self._layout_for(settings), user, message)

    async def has_maildrop(self, user: bytes, settings: UserSettings) -> bool:
        """See IFinalDelivery."""
        exists: bool = await self.run(self._layout_for(settings).has, user)
        return exists

    def _layout_for(self, settings: UserSettings) -> Layout:
        return self._layout.at(settings.maildrop) if settings.maildrop else self._layout

    def _open(
        self, user: bytes, index: Index | None, *, is_whole: bool = False
    ) -> tuple[int, Index] | None:
        """Open and lock a folder, in a thread; return None if there is none."""
        try:
            folder = self._layout.open(user)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise refusal(error) from error
        try:
            lock(folder)
            if index is None or index.times != times_of(folder):
                record = self._cache.scans.record
                index = read_index(folder, index, self._downgrader, record, is_whole=is_whole)
            return folder, index
        except OSError as error:
            problem = explain_in_directory(error, folder, error.filename)
            close(folder)
            raise refusal(error) from problem
        except BaseException:
            close(folder)
            raise
