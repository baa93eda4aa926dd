"""The Maildirs of a server, with ``--deleted`` and ``--since``, for all users or for one."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Iterator, Sequence
from functools import partial
from typing import BinaryIO

from zope.interface import implementer

from popserv.core.findings import Finding
from popserv.core.user_settings import UnsupportedSettings, UserSettings, check_deleted
from popserv.interfaces import (
    ICaching,
    IConfigurableStore,
    IDelivery,
    IDeliveryStore,
    IDiagnosedStore,
    IFinalDelivery,
    IMailbox,
    IMaildropFactory,
    IScanCounts,
    IUserListing,
)
from popserv.maildrops.maildir.folder_names import directory_of
from popserv.maildrops.maildir.hiding import HidingMaildrops
from popserv.maildrops.maildir.store import MaildirMaildrops
from popserv.maildrops.maildir.unique_ids.format import UniqueIdFormat
from popserv.maildrops.recent import RecentMaildrops
from popserv.maildrops.settings import StoreSettings
from popserv.maildrops.store_diagnosis import diagnose_settings


@implementer(
    ICaching,
    IConfigurableStore,
    IDeliveryStore,
    IDiagnosedStore,
    IFinalDelivery,
    IScanCounts,
    IUserListing,
)
class ConfiguredMaildirs:
    """The Maildirs at the paths that ``template`` gives, with the settings of the server.

    :raises ValueError: a setting is invalid; the message names its option.
    """

    def __init__(self, template: str, settings: StoreSettings) -> None:
        try:
            self._can_be_read_only = UniqueIdFormat(settings.uidl).is_plain
        except ValueError as error:
            raise ValueError(f"--uidl {settings.uidl}: {error}") from error
        try:
            self._directory = directory_of(settings.folder)
        except ValueError as error:
            raise ValueError(f"--folder: {error}") from error
        self._deleted = settings.deleted
        self._since = settings.since
        try:
            trash = _trash(settings.deleted, self._directory)
        except ValueError as error:
            raise ValueError(f"--deleted: {error}") from error
        self._maildirs = MaildirMaildrops(
            template,
            cache_messages=settings.cache_messages,
            downgrader=settings.downgrader,
            uidl=settings.uidl,
            folder=self._directory,
            trash=trash,
        )
        self.restrictions = self._maildirs.restrictions
        self.cache_sizes = self._maildirs.cache_sizes
        self.scan_counts = self._maildirs.scan_counts
        self._store = _with_layers(self._maildirs, settings.deleted, settings.since)

    def open_maildrop(self, user: bytes) -> Awaitable[IMailbox]:
        """See IMaildropFactory."""
        opened: Awaitable[IMailbox] = self._store.open_maildrop(user)
        return opened

    def users(self) -> Awaitable[Sequence[bytes]]:
        """See IUserListing."""
        return self._maildirs.users()

    def diagnose(self) -> Awaitable[Iterable[Finding]]:
        """See IDiagnosed."""
        return self._maildirs.diagnose()

    def diagnose_maildrop(self, user: bytes, settings: UserSettings) -> Iterator[Finding]:
        """See IDiagnosedStore."""
        yield from diagnose_settings(user, partial(self._check, settings))
        yield from self._maildirs.diagnose_maildrop(user, settings)

    def open_delivery(self, user: bytes) -> Awaitable[IDelivery]:
        """See IDeliveryStore."""
        return self._maildirs.open_delivery(user)

    def deliver_new(
        self, user: bytes, settings: UserSettings, message: BinaryIO
    ) -> Awaitable[bytes | None]:
        """See IFinalDelivery."""
        return self._maildirs.deliver_new(user, settings, message)

    def has_maildrop(self, user: bytes, settings: UserSettings) -> Awaitable[bool]:
        """See IFinalDelivery."""
        return self._maildirs.has_maildrop(user, settings)

    def _check(self, settings: UserSettings) -> tuple[str, str]:
        """Return what removal means for a user, and the folder for deleted messages.

        :raises UnsupportedSettings: a setting of the user cannot be honoured.
        """
        settings.reject_unsupported("read_only", "maildrop", "deleted", "since")
        if settings.read_only and not self._can_be_read_only:
            # It has the unique-ids of another server, which new messages are added to.
            raise UnsupportedSettings("popserv_read_only requires --uidl filename")
        deleted = self._deleted if settings.deleted is None else settings.deleted
        try:
            return deleted, _trash(deleted, self._directory)
        except ValueError as error:
            raise UnsupportedSettings(f"popserv_deleted: {error}") from error

    async def open_configured(self, user: bytes, settings: UserSettings) -> IMailbox:
        """See IConfigurableStore."""
        deleted, trash = self._check(settings)
        since = self._since if settings.since is None else settings.since
        maildirs = self._maildirs.variant(
            trash=trash, path=settings.maildrop, read_only=settings.read_only
        )
        return await _with_layers(maildirs, deleted, since).open_maildrop(user)


def _with_layers(maildirs: MaildirMaildrops, deleted: str, since: float | None) -> IMaildropFactory:
    shown = HidingMaildrops(maildirs) if deleted == "keep" else maildirs
    return shown if since is None else RecentMaildrops(shown, since, maildirs.run)


def _trash(deleted: str, directory: str) -> str:
    """Return the directory of the folder for deleted messages; empty if there is none.

    :raises ValueError: the value is invalid, or the folder is the one that is served.
    """
    check_deleted(deleted)
    _, colon, folder = deleted.partition(":")
    if not colon:
        return ""
    trash = directory_of(folder)
    if not trash or trash == directory:
        raise ValueError(f"{folder!r} is the inbox or the folder that is served; name another")
    return trash
