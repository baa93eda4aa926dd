"""The mbox store: one file for each user, which programs that deliver mail append to."""

from __future__ import annotations

import os
import stat
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from copy import copy
from functools import partial
from typing import Any, BinaryIO

from twisted.internet.task import deferLater
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
from popserv.maildrops.layout import Layout, mode_of
from popserv.maildrops.mbox.delivery import MboxDelivery
from popserv.maildrops.mbox.diagnosis import diagnose_mbox
from popserv.maildrops.mbox.file import MboxFile
from popserv.maildrops.mbox.final_delivery import deliver
from popserv.maildrops.mbox.index import Index
from popserv.maildrops.mbox.locks import FileLocked, Wait, retry_while_locked
from popserv.maildrops.mbox.mailbox import MboxMailbox
from popserv.maildrops.mbox.parser import DEFAULT_FORMAT, Format
from popserv.maildrops.mbox.spool import Spool, create_file
from popserv.maildrops.path_problems import UnusablePath
from popserv.maildrops.read_only import ReadOnlyMailbox
from popserv.maildrops.recent import select_recent
from popserv.maildrops.refusals import refusal, removed_meanwhile
from popserv.maildrops.store_diagnosis import diagnose_root, diagnose_settings
from popserv.messages.sizes import MakeDowngrader
from popserv.runtime.permissions import reason_of
from popserv.runtime.threads import BoundedThreadPool, RunInThread

_SUPPORTED = ("maildrop", "read_only", "since")
"""The settings of single users that are honoured."""

_disk_threads = BoundedThreadPool("popserv-mbox", threads=4)


def _wait(seconds: float) -> Awaitable[Any]:
    from twisted.internet import reactor

    waited: Awaitable[Any] = deferLater(reactor, seconds)
    return waited


@implementer(
    ICaching,
    IConfigurableStore,
    IDeliveryStore,
    IDiagnosedStore,
    IFinalDelivery,
    IScanCounts,
    IUserListing,
)
class MboxMaildrops:
    """The mbox files at the paths that a template gives.

    ``template`` is as for :class:`~popserv.maildrops.layout.Layout`; ``mbox_format`` says how the
    files are read.

    Up to ``cache_messages`` messages are cached in memory between sessions, as for
    :class:`~popserv.maildrops.maildir.MaildirMaildrops`, and ``downgrader`` and ``run`` are as
    there.  ``wait`` waits for a number of seconds.
    """

    def __init__(
        self,
        template: str,
        mbox_format: Format = DEFAULT_FORMAT,
        *,
        cache_messages: int = 500_000,
        downgrader: MakeDowngrader | None = None,
        run: RunInThread = _disk_threads.run,
        wait: Wait = _wait,
    ) -> None:
        self.run = run
        self._wait = wait
        self._format = mbox_format
        self._downgrader = downgrader
        self._layout = Layout(template)
        self.restrictions: Sequence[str] = _restrictions(mbox_format)
        """See IDeliveryStore."""
        self._cache: IndexCache[Index] = IndexCache(cache_messages)
        self.cache_sizes = self._cache.sizes
        self.scan_counts = self._cache.scans.totals
        self._empty: set[bytes] = set()

    async def open_maildrop(self, user: bytes) -> IMailbox:
        """See IMaildropFactory."""
        known = self._cache.get(user)
        file = await self._open_waiting(user, known)
        if file is not None:
            return MboxMailbox(self._cache, self.run, self._wait, user, file)
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
        if settings.since is not None:
            mailbox = await select_recent(mailbox, settings.since, self.run)
        return IMailbox(ReadOnlyMailbox(mailbox) if settings.read_only else mailbox)

    async def users(self) -> Sequence[bytes]:
        """See IUserListing: those who have a file."""
        users: Sequence[bytes] = await self.run(self._layout.users, _may_be_mbox)
        return users

    async def diagnose(self) -> Iterable[Finding]:
        """See IDiagnosed."""
        found: Iterable[Finding] = await self.run(
            diagnose_root, self._layout, os.path.isdir, "mbox files", "directories"
        )
        return found

    def diagnose_maildrop(self, user: bytes, settings: UserSettings) -> Iterator[Finding]:
        """See IDiagnosedStore."""
        yield from diagnose_settings(user, partial(settings.reject_unsupported, *_SUPPORTED))
        layout = self._layout.at(settings.maildrop) if settings.maildrop else self._layout
        yield from diagnose_mbox(layout, user, self._format)

    async def open_delivery(self, user: bytes) -> IDelivery:
        """See IDeliveryStore."""
        await self.run(self._create, user)
        file = await self._open_waiting(user, None)
        if file is None:
            raise removed_meanwhile(self._layout.path(user))
        return IDelivery(MboxDelivery(file, self.run, self._wait))

    async def deliver_new(self, user: bytes, settings: UserSettings, message: BinaryIO) -> None:
        """See IFinalDelivery; it waits for the locks of other programs."""
        layout = self._layout_for(settings)
        try:
            await retry_while_locked(
                self.run, self._wait, deliver, layout, user, self._format, message
            )
        except FileLocked as error:
            raise MaildropBusy from error

    async def has_maildrop(self, user: bytes, settings: UserSettings) -> bool:
        """See IFinalDelivery."""
        exists: bool = await self.run(self._exists, self._layout_for(settings), user)
        return exists

    def _layout_for(self, settings: UserSettings) -> Layout:
        return self._layout.at(settings.maildrop) if settings.maildrop else self._layout

    def _exists(self, layout: Layout, user: bytes) -> bool:
        try:
            Spool.open_shared(layout, user).close()
        except (FileNotFoundError, ValueError):
            return False
        return True

    def _create(self, user: bytes) -> None:
        try:
            create_file(self._layout, user)
        except (OSError, ValueError) as error:
            raise refusal(error) from self._explain(error, user)

    def _explain(self, error: Exception, user: bytes) -> Exception:
        """Return an error of a user's file with its path."""
        if isinstance(error, OSError) and not isinstance(error, UnusablePath):
            path = os.fsdecode(self._layout.path(user))
            return UnusablePath(error.errno, f"{path}: {reason_of(error)}")
        return error

    async def _open_waiting(self, user: bytes, known: Index | None) -> MboxFile | None:
        """Open a file, if necessary after some seconds; return None if there is none."""
        try:
            file: MboxFile | None = await retry_while_locked(
                self.run, self._wait, self._open, user, known
            )
        except FileLocked as error:
            raise MaildropBusy from error
        return file

    def _open(self, user: bytes, known: Index | None) -> MboxFile | None:
        """Open a file, in a thread; return None if there is none."""
        reopen = partial(Spool.open, self._layout, user)
        try:
            spool = reopen()
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise refusal(error) from self._explain(error, user)
        try:
            record = self._cache.scans.record
            return MboxFile(spool, reopen, self._format, self._downgrader, known, record)
        except OSError as error:
            spool.close()
            raise refusal(error) from self._explain(error, user)
        except BaseException:
            spool.close()
            raise


def _may_be_mbox(path: bytes) -> bool:
    return not path.endswith(b".lock") and stat.S_ISREG(mode_of(path))


def _restrictions(mbox_format: Format) -> list[str]:
    told = [
        "mbox files keep unique-ids in the field X-UIDL and flags in Status and X-Status, which "
        "are added to the messages, and do not keep that a message was forwarded; a Maildir keeps "
        "all, and changes nothing"
    ]
    if not (mbox_format.is_quoted or mbox_format.believes_content_length):
        told.append(
            'lines that begin with "From " get a ">", which stays; mboxrd:PATH removes it again'
        )
    return told
