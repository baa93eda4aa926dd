"""Delivery into a Maildir under the lock of sessions, with unique-ids, times and flags.

Rules of this file:
 1. A message is written to tmp/, with its time of delivery as its time of modification, and synced.
 2. Its unique-id is pinned before it is renamed into new/ or cur/.  So no session and no server
    shows it with another one, and after an interruption it is there with its unique-id, or not.
 3. Base names are in the order of the deliveries.  They follow from the unique-ids, the times and
    the message before, so that an interrupted delivery goes on with the same names.
 4. A pin of a message that is not there is from an interrupted delivery, and may be replaced.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import suppress
from hashlib import blake2b
from typing import BinaryIO, NamedTuple

from zope.interface import implementer

from popserv.core.snapshot import is_unique_id, valid_unique_id
from popserv.errors import DeliveryRefused, TryLater
from popserv.interfaces import IDelivery
from popserv.maildrops.layout import create_inheriting
from popserv.maildrops.maildir.details import info_of
from popserv.maildrops.maildir.file_names import split_name
from popserv.maildrops.maildir.flags import usual_info
from popserv.maildrops.maildir.folders import FOLDER_NAMES, Folders
from popserv.maildrops.maildir.listing.base_names import delivery_order
from popserv.maildrops.maildir.listing.size_file import copy_ownership
from popserv.maildrops.maildir.mailbox import MaildirMailbox
from popserv.maildrops.maildir.quota_file import record_deliveries
from popserv.maildrops.maildir.removal import RETRY_DELAYS
from popserv.maildrops.maildir.unique_ids import pinned_file
from popserv.maildrops.path_problems import explain_change, explain_in_directory
from popserv.maildrops.spooling import check_length, spool, write_file
from popserv.messages.details import MessageDetails
from popserv.messages.framing import Chunk
from popserv.runtime.closing import close
from popserv.runtime.threads import RunInThread

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

# 1700000000.M000003C0123456789abcdef0123.popserv: seconds, a number, a digest of the unique-id.
_OWN_NAME = re.compile(rb"[0-9]+\.M([0-9]{6})C[0-9a-f]{20}\.popserv")
_MAX_NUMBER = 999_999
# A unique-id that is a base name is used as one.  With more digits, the next times might have more
# than those of a base name can have.
_BASE_NAME = re.compile(rb"[0-9]{1,10}\.[!-.0-9;-~]{1,200}")


class _Written(NamedTuple):
    """A message in tmp/: its unique-id, base name, location and length."""

    unique_id: bytes
    name: bytes
    location: bytes
    length: int


@implementer(IDelivery)
class MaildirDelivery:
    """An open Maildir, whose folders exist, for deliveries; ``run`` calls functions in threads."""

    def __init__(self, mailbox: MaildirMailbox, run: RunInThread) -> None:
        self._mailbox = mailbox
        self._maildir_fd = mailbox.maildir_fd
        self._run = run
        self._names = dict(zip(mailbox.messages.uids, mailbox.base_names, strict=True))
        self._base_names = set(mailbox.base_names)
        self._info = usual_info(mailbox.index.locations)
        # The sort key of the message delivered last.
        self._last: tuple[int, bytes] = (0, b"")
        self._written: list[_Written] = []

    def find_moved(self) -> None:
        """Find messages that another program renamed while the Maildir was opened, in a thread.

        They would be delivered again.

        :raises TryLater: programs keep renaming messages.
        :raises OSError: a folder, or the file with pins, cannot be read.
        """
        folders = Folders(self._maildir_fd)
        try:
            for delay in RETRY_DELAYS:
                scan = folders.scan()
                if scan.is_settled:
                    break
                time.sleep(delay)
            else:
                raise TryLater from OSError(errno.EBUSY, "programs keep renaming its messages")
            pins, _ = pinned_file.load(self._maildir_fd)
        except OSError as error:
            raise explain_in_directory(error, self._maildir_fd, error.filename) from error
        finally:
            folders.close_folders()
        for name in scan.files.keys() - self._base_names:
            self._base_names.add(name)
            self._names.setdefault(pins.unique_ids.get(name, valid_unique_id(name)), name)

    @property
    def unique_ids(self) -> Collection[bytes]:
        """See IDelivery."""
        return self._names.keys()

    async def deliver(
        self,
        unique_id: bytes,
        details: MessageDetails,
        open_body: Callable[[], Awaitable[Iterable[Chunk]]],
    ) -> bool:
        """See IDelivery."""
        name = self._names.get(unique_id)
        if name is not None:
            self._last = max(self._last, delivery_order(name))
            return False
        if not is_unique_id(unique_id):
            raise DeliveryRefused("its unique-id has spaces, or more than 255 octets")
        name = self._new_name(unique_id, details.delivered)
        with await spool(await open_body(), self._run) as body:
            written = await self._run(self._write, unique_id, name, details, body)
        self._written.append(written)
        self._names[unique_id] = name
        self._last = delivery_order(name)
        return True

    def _new_name(self, unique_id: bytes, delivered: float) -> bytes:
        """Return a base name that sorts after the last one."""
        if (
            _BASE_NAME.fullmatch(unique_id)
            and not split_name(unique_id)[1]
            and unique_id not in self._base_names
            # An equal one is the name of the message before, which may have it in tmp/ still.
            and delivery_order(unique_id) > self._last
        ):
            return unique_id
        last_seconds, last_name = self._last
        seconds, number = max(int(delivered), last_seconds), 0
        if seconds == last_seconds and last_name:
            own = _OWN_NAME.fullmatch(last_name)
            number = int(own[1]) + 1 if own else _MAX_NUMBER + 1
            if number > _MAX_NUMBER:
                seconds, number = seconds + 1, 0
        digest = blake2b(unique_id, digest_size=10).hexdigest().encode("ascii")
        return b"%d.M%06dC%b.popserv" % (seconds, number, digest)

    def _write(
        self, unique_id: bytes, name: bytes, details: MessageDetails, body: BinaryIO
    ) -> _Written:
        """Write a message to tmp/, in a thread."""
        check_length(body)
        try:
            tmp = os.open(b"tmp", _DIRECTORY, dir_fd=self._maildir_fd)
        except OSError as error:
            raise explain_in_directory(error, self._maildir_fd, b"tmp") from error
        try:
            # An interrupted delivery may have left it.
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=tmp)
            fd = os.open(name, _CREATE, 0o600, dir_fd=tmp)
            try:
                copy_ownership(os.fstat(self._maildir_fd), fd)
                length = write_file(body, fd, details.delivered)
            except OSError:
                os.unlink(name, dir_fd=tmp)
                raise
            finally:
                close(fd)
        except OSError as error:
            raise explain_change(error, tmp, name) from error
        finally:
            close(tmp)
        info = info_of(details.flags, self._info)
        return _Written(unique_id, name, (b"\1" if info else b"\0") + info, length)

    async def commit(self) -> None:
        """See IDelivery."""
        if self._written:
            await self._run(self._commit)

    def _commit(self) -> None:
        try:
            self._pin()
            self._publish()
        except OSError as error:
            raise explain_change(error, self._maildir_fd, error.filename) from error

    def _pin(self) -> None:
        pins, _ = pinned_file.load(self._maildir_fd)
        unique_ids = dict(pins.unique_ids)
        names = {unique_id: name for name, unique_id in unique_ids.items()}
        for each in self._written:
            stale = names.get(each.unique_id)
            if stale is not None:
                del unique_ids[stale]
            unique_ids[each.name] = each.unique_id
        pinned_file.save(self._maildir_fd, pins._replace(unique_ids=unique_ids))

    def _publish(self) -> None:
        """Rename the messages into their folders, in order."""
        with _Directories(self._maildir_fd) as directories:
            done = 0
            try:
                for each in self._written:
                    os.rename(
                        each.name,
                        each.name + each.location[1:],
                        src_dir_fd=directories[b"tmp"],
                        dst_dir_fd=directories[FOLDER_NAMES[each.location[0]]],
                    )
                    done += 1
            finally:
                files = [(each.name + each.location[1:], each.length) for each in self._written]
                record_deliveries(self._maildir_fd, files[:done])
                del self._written[:done]
            for folder in FOLDER_NAMES:
                os.fsync(directories[folder])

    async def release(self) -> None:
        """See IDelivery."""
        try:
            if self._written:
                await self._run(self._discard)
        finally:
            await self._mailbox.release()

    def _discard(self) -> None:
        with suppress(OSError), _Directories(self._maildir_fd) as directories:
            for each in self._written:
                with suppress(OSError):
                    os.unlink(each.name, dir_fd=directories[b"tmp"])


class _Directories(dict[bytes, int]):
    """The descriptors of tmp/, new/ and cur/ of an open Maildir."""

    def __init__(self, maildir_fd: int) -> None:
        self._maildir_fd = maildir_fd

    def __enter__(self) -> _Directories:
        try:
            for name in (b"tmp", *FOLDER_NAMES):
                self[name] = os.open(name, _DIRECTORY, dir_fd=self._maildir_fd)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self.values():
            close(fd)


def create_folders(maildir_fd: int) -> None:
    """Create those folders of an open Maildir that are missing.

    :raises OSError: one cannot be created.
    """
    for name in (b"tmp", *FOLDER_NAMES):
        create_inheriting(name, maildir_fd)
