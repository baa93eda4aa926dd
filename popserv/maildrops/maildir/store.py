"""The Maildir store: one Maildir for each user, opened under an exclusive-access lock."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from copy import copy
from functools import partial

from twisted.logger import Logger
from zope.interface import implementer

from popserv.core.findings import Finding
from popserv.core.printable import one_line, printable
from popserv.core.user_folder import UserFolder
from popserv.core.user_settings import UserSettings
from popserv.errors import MaildropBusy, MaildropUnavailable
from popserv.interfaces import (
    ICaching,
    IDelivery,
    IDeliveryStore,
    IDiagnosedStore,
    IFinalDelivery,
    IMailbox,
    IScanCounts,
    IUserListing,
)
from popserv.maildrops.cached_open import NotCached
from popserv.maildrops.empty_mailbox import EmptyMailbox
from popserv.maildrops.layout import create_inheriting
from popserv.maildrops.maildir.diagnosis.maildir import diagnose_maildir
from popserv.maildrops.maildir.final_delivery import FinalDelivery
from popserv.maildrops.maildir.folder_names import FolderLayout, owner_of
from popserv.maildrops.maildir.folders import FOLDER_NAMES, Folders
from popserv.maildrops.maildir.listing.cache import MaildirIndexCache
from popserv.maildrops.maildir.listing.index import Index, empty_index, load_index, update_index
from popserv.maildrops.maildir.mailbox import MaildirMailbox, ReadOnlyMaildirMailbox
from popserv.maildrops.maildir.session_delivery import MaildirDelivery, create_folders
from popserv.maildrops.maildir.unique_ids.format import UniqueIdFormat
from popserv.maildrops.maildir.unique_ids.numbering import Numbering
from popserv.maildrops.path_problems import (
    UnusablePath,
    explain_change,
    explain_in_directory,
)
from popserv.maildrops.refusals import refusal, removed_meanwhile
from popserv.maildrops.store_diagnosis import diagnose_root
from popserv.messages.sizes import MakeDowngrader
from popserv.runtime.closing import close
from popserv.runtime.threads import BoundedThreadPool, RunInThread
from popserv.texts import Text

_log = Logger()

_disk_threads = BoundedThreadPool("popserv-disk", threads=4)

_WAY_THROUGH_FOLDERS = b"".join(b"/%b/.." % name for name in FOLDER_NAMES)

_NO_FOLDER = Text("there is no such folder")

_MAX_LOGGED_USERS = 10_000
"""The maximum number of users who are remembered because they have no Maildir."""


@implementer(ICaching, IDeliveryStore, IDiagnosedStore, IFinalDelivery, IScanCounts, IUserListing)
class MaildirMaildrops:
    """The Maildirs at the paths that a template gives.

    ``template`` is as for :class:`~popserv.maildrops.layout.Layout`.  ``folder`` is the directory,
    in each of these Maildirs, of the folder that is served, such as ``.Sent``; without it the inbox
    is served.  A :class:`~popserv.core.user_folder.UserFolder` as user names another folder.

    Up to ``cache_messages`` messages are cached in memory between sessions: those of the
    maildrops used last, at some 200 bytes each for base name, location, octets, stamp and lines
    of listings.  A maildrop counts as ten messages more than it has.

    ``downgrader`` is :class:`popserv.messages.downgrade.Downgrader`, for a server with UTF8.
    Without it, messages are counted without a look at their contents.

    ``uidl`` is the form of unique-ids; see
    :class:`~popserv.maildrops.maildir.unique_ids.format.UniqueIdFormat`.

    ``trash`` is the directory of the folder that removed messages are moved to, such as
    ``.Trash``.  Without it they are removed.  A client cannot name that folder.

    ``run`` calls a function with arguments where it may block, and returns an awaitable of its
    result; the default is a pool of four threads.
    """

    restrictions: Sequence[str] = ()
    """See IDeliveryStore."""

    def __init__(
        self,
        template: str,
        *,
        cache_messages: int = 500_000,
        downgrader: MakeDowngrader | None = None,
        uidl: str = "filename",
        folder: str = "",
        trash: str = "",
        run: RunInThread = _disk_threads.run,
    ) -> None:
        self.run = run
        self._downgrader = downgrader
        self._trash = trash
        self._is_read_only = False
        self._path = b""
        self._layout = FolderLayout(template, folder)
        unique_id_format = UniqueIdFormat(uidl)
        self._numbering = Numbering(unique_id_format)
        self._unique_id_source = unique_id_format.source
        delivery = FinalDelivery(self._layout, run, is_plain=unique_id_format.is_plain)
        self.deliver_new = delivery.deliver_new
        self.has_maildrop = delivery.has_maildrop
        self._cache = MaildirIndexCache(cache_messages)
        self.cache_sizes = self._cache.sizes
        self.scan_counts = self._cache.scans.totals
        self._empty: set[bytes] = set()
        self._logged_users: set[bytes] = set()

    def variant(self, *, trash: str, path: bytes, read_only: bool) -> MaildirMaildrops:
        """Return the same store with other settings, for one user.

        ``path`` is that of the Maildir, or empty for the path by the template.  With
        ``read_only`` nothing is written into it.
        """
        other = copy(self)
        other._trash = trash
        other._is_read_only = read_only
        other._path = path
        if path:
            other._layout = self._layout.at(path)
        return other

    async def open_maildrop(self, user: bytes) -> IMailbox:
        """See IMaildropFactory."""
        if self._path:
            # Whatever user has this Maildir, what is known of it is kept by its path.
            at_path = self._path
            user = UserFolder(at_path, user.folder) if isinstance(user, UserFolder) else at_path
        index = self._cache.get(user)
        mailbox = None
        if index is not None and index.can_open_cached:
            mailbox = self._open_cached(user, index)
        if mailbox is None:
            mailbox = await self.run(self._open, user, index)
        if mailbox is not None:
            self._cache.put(user, mailbox.index)
            return mailbox
        if user in self._empty:
            raise MaildropBusy
        self._empty.add(user)
        self._log_missing(user)
        return EmptyMailbox(partial(self._empty.remove, user))

    async def users(self) -> Sequence[bytes]:
        """See IUserListing: those who have a directory."""
        users: Sequence[bytes] = await self.run(self._layout.users)
        return users

    async def diagnose(self) -> Iterable[Finding]:
        """See IDiagnosed."""
        found: Iterable[Finding] = await self.run(
            diagnose_root, self._layout, os.path.isfile, "Maildirs", "files, mbox files perhaps"
        )
        return found

    def diagnose_maildrop(self, user: bytes, settings: UserSettings) -> Iterable[Finding]:
        """See IDiagnosedStore."""
        layout = self._layout.at(settings.maildrop) if settings.maildrop else self._layout
        return diagnose_maildir(layout, user, self._unique_id_source, time.time())

    async def open_delivery(self, user: bytes) -> IDelivery:
        """See IDeliveryStore."""
        await self.run(self._create, user)
        mailbox = await self.open_maildrop(user)
        if not isinstance(mailbox, MaildirMailbox):
            await mailbox.release()
            raise removed_meanwhile(self._layout.path(user))
        delivery = MaildirDelivery(mailbox, self.run)
        try:
            await self.run(delivery.find_moved)
        except BaseException:
            await delivery.release()
            raise
        return IDelivery(delivery)

    def _create(self, user: bytes) -> None:
        """Create the Maildir of a user, or what of it is missing, in a thread."""
        try:
            maildir_fd = self._layout.open_or_create(user, create_inheriting)
        except (OSError, ValueError) as error:
            raise refusal(error) from error
        try:
            create_folders(maildir_fd)
        except OSError as error:
            raise refusal(error) from explain_change(error, maildir_fd, error.filename)
        finally:
            close(maildir_fd)

    def _log_missing(self, user: bytes) -> None:
        if user in self._logged_users:
            return
        if len(self._logged_users) >= _MAX_LOGGED_USERS:
            self._logged_users.clear()
        self._logged_users.add(user)
        _log.info(
            '"{user}" has no Maildir at {path}, and sees an empty maildrop until mail is delivered '
            "there; if the mail is elsewhere, correct --maildir",
            user=printable(owner_of(user)),
            path=one_line(os.fsdecode(self._layout.path(user))),
        )

    def _open_cached(self, user: bytes, index: Index) -> MaildirMailbox | None:
        """Open a maildrop without waiting; return None if that fails, or would take long."""
        try:
            folders = Folders(self._layout.open_cached(user, _WAY_THROUGH_FOLDERS))
        except (OSError, ValueError):
            return None
        # After any error the maildrop is opened in a thread, which reports it.
        try:
            folders.lock()
            is_unchanged = folders.are_unchanged_since(index.times)
            texts: dict[bytes, bytes] = {}
            if not is_unchanged:
                index = update_index(folders, index, self._cache.scans.record, texts=texts)
            if not self._numbering.is_current(
                folders.maildir_fd, index, is_unchanged=is_unchanged, cached=True
            ):
                raise NotCached
            mailbox = self._mailbox(user, folders, index)
            if texts:
                self._cache.texts.keep(mailbox, texts)
            return mailbox
        except (OSError, NotCached, MaildropBusy):
            folders.close()
            return None
        except BaseException:
            folders.close()
            raise

    def _open(self, user: bytes, index: Index | None) -> MaildirMailbox | None:
        """Open a maildrop, in a thread; return None if there is no Maildir."""
        if isinstance(user, UserFolder):
            self._check_folder(user)
        try:
            maildir_fd = self._layout.open(user)
        except FileNotFoundError as error:
            if isinstance(user, UserFolder) and self._layout.directory(user):
                path = one_line(os.fsdecode(self._layout.path(user)))
                problem = UnusablePath(error.errno, f"the folder {path} does not exist")
                raise MaildropUnavailable(_NO_FOLDER) from problem
            return None
        except (OSError, ValueError) as error:
            raise refusal(error) from error
        folders = Folders(maildir_fd)
        try:
            folders.lock()
            if index is None:
                is_trusted = self._cache.is_size_file_trusted(user)
                downgrader = self._downgrader
                index = (
                    load_index(maildir_fd, downgrader) if is_trusted else empty_index(downgrader)
                )
            is_unchanged = folders.are_unchanged_since(index.times)
            if not is_unchanged:
                may_rename = not self._is_read_only
                record = self._cache.scans.record
                index = update_index(folders, index, record, may_rename=may_rename)
            elif not index.can_open_cached:
                # It is from the size file, or from a file system that is not local.
                index = index._replace(can_open_cached=folders.are_local())
            if not self._numbering.is_current(maildir_fd, index, is_unchanged=is_unchanged):
                index = self._numbering.apply(maildir_fd, index, save=not self._is_read_only)
            return self._mailbox(user, folders, index)
        except OSError as error:
            problem = explain_in_directory(error, maildir_fd, error.filename)
            folders.close()
            raise refusal(error) from problem
        except BaseException:
            folders.close()
            raise

    def _check_folder(self, user: UserFolder) -> None:
        try:
            directory = self._layout.directory(user)
            if directory and directory == os.fsencode(self._trash):
                raise ValueError(f"{self._trash} is the folder that removed messages are moved to")
        except ValueError as error:
            raise MaildropUnavailable(_NO_FOLDER) from error

    def _mailbox(self, user: bytes, folders: Folders, index: Index) -> MaildirMailbox:
        folders.close_folders()
        trash = self._trash
        if trash and self._layout.directory(user):
            trash = os.path.join("..", trash)
        kind = ReadOnlyMaildirMailbox if self._is_read_only else MaildirMailbox
        return kind(self._cache, self.run, user, folders, index, trash)
