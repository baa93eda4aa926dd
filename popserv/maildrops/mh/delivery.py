"""Delivery into an MH folder under the lock of sessions, with unique-ids, times and flags.

Rules of this file:
 1. A message is written to a file of another name, with its time of modification, and synced.
 2. The index file has its unique-id before it gets a number, so that no session shows it with
    another one.
 3. It gets its number by link(2), under nmh's lock, and its other name is removed only after the
    sequences were written.  So a file with both names is a message that has no flags yet.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from contextlib import suppress
from hashlib import blake2b
from typing import BinaryIO, NamedTuple

from zope.interface import implementer

from popserv.core.snapshot import is_unique_id
from popserv.errors import DeliveryRefused
from popserv.interfaces import IDelivery
from popserv.maildrops.mh import index_file
from popserv.maildrops.mh.counting import count_file
from popserv.maildrops.mh.flags import set_flags
from popserv.maildrops.mh.index import Index
from popserv.maildrops.mh.index_file import Entry
from popserv.maildrops.mh.sequences import NAME, locked_sequences
from popserv.maildrops.path_problems import explain_change
from popserv.maildrops.spooling import check_length, spool, write_file
from popserv.messages.details import Flags, MessageDetails
from popserv.messages.framing import Chunk
from popserv.messages.sizes import MakeDowngrader
from popserv.runtime.closing import close
from popserv.runtime.threads import RunInThread

PREFIX = b".popserv-new-"
"""The start of the names of messages that have no number, or no flags, yet."""

CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
"""The flags with which the file of a message is created."""


class _Written(NamedTuple):
    """A message that was written under another name than a number."""

    name: bytes
    inode: int
    flags: Flags


@implementer(IDelivery)
class MHDelivery:
    """An open and locked folder with its index, for deliveries.

    ``run`` calls functions in threads.  :meth:`find_unfinished` must be called first.
    """

    def __init__(
        self, folder: int, index: Index, downgrader: MakeDowngrader | None, run: RunInThread
    ) -> None:
        self._folder = folder
        self._downgrader = downgrader
        self._run = run
        self._entries = list(index.entries)
        self._inodes = {entry.uid: entry.key.inode for entry in index.entries}
        self._unflagged: set[int] = set()
        # Messages that will get a number, or have one and will get their flags.
        self._written: list[_Written] = []
        self._is_saved = True

    def find_unfinished(self) -> None:
        """Look for what an interrupted delivery has left, in a thread.

        :raises OSError: it cannot be examined or removed.
        """
        inodes = set(self._inodes.values())
        for name in os.listdir(self._folder):
            if os.fsencode(name).startswith(PREFIX):
                status = os.stat(name, dir_fd=self._folder, follow_symlinks=False)
                if status.st_nlink > 1 and status.st_ino in inodes:
                    self._unflagged.add(status.st_ino)
                else:
                    os.unlink(name, dir_fd=self._folder)

    @property
    def unique_ids(self) -> Collection[bytes]:
        """See IDelivery."""
        return self._inodes.keys()

    async def deliver(
        self,
        unique_id: bytes,
        details: MessageDetails,
        open_body: Callable[[], Awaitable[Iterable[Chunk]]],
    ) -> bool:
        """See IDelivery."""
        inode = self._inodes.get(unique_id)
        if inode is not None:
            if inode in self._unflagged:
                self._unflagged.remove(inode)
                self._written.append(_Written(_name_of(unique_id), inode, details.flags))
            return False
        if not is_unique_id(unique_id):
            raise DeliveryRefused("its unique-id has spaces, or more than 255 octets")
        with await spool(await open_body(), self._run) as body:
            entry = await self._run(self._write, unique_id, details, body)
        self._entries.append(entry)
        self._inodes[unique_id] = entry.key.inode
        self._written.append(_Written(_name_of(unique_id), entry.key.inode, details.flags))
        self._is_saved = False
        return True

    def _write(self, unique_id: bytes, details: MessageDetails, body: BinaryIO) -> Entry:
        """Write a message and count it, in a thread."""
        check_length(body)
        name = _name_of(unique_id)
        try:
            fd = os.open(name, CREATE, 0o600, dir_fd=self._folder)
            try:
                owner = os.fstat(self._folder)
                with suppress(PermissionError):
                    os.fchown(fd, owner.st_uid, owner.st_gid)
                write_file(body, fd, details.delivered)
                os.lseek(fd, 0, os.SEEK_SET)
                return count_file(fd, 0, self._downgrader)._replace(uid=unique_id)
            except OSError:
                os.unlink(name, dir_fd=self._folder)
                raise
            finally:
                close(fd)
        except OSError as error:
            raise explain_change(error, self._folder, name) from error

    async def commit(self) -> None:
        """See IDelivery."""
        if self._written:
            await self._run(self._commit)

    def _commit(self) -> None:
        name: object = index_file.NAME
        try:
            if not self._is_saved:
                kind = index_file.kind_of_sizes(self._downgrader)
                index_file.save(self._folder, self._entries, kind)
                self._is_saved = True
            name = NAME
            with locked_sequences(self._folder) as sequences:
                flags = dict(self._number())
                set_flags(
                    sequences, flags, [number for _, number in numbers_by_inode(self._folder)]
                )
                sequences.write()
                sequences.sync()
            for each in self._written:
                os.unlink(each.name, dir_fd=self._folder)
            self._written.clear()
            os.fsync(self._folder)
        except OSError as error:
            raise explain_change(error, self._folder, error.filename or name) from error

    def _number(self) -> Iterator[tuple[int, Flags]]:
        """Give the messages numbers, in order; yield those with their flags."""
        numbers = dict(numbers_by_inode(self._folder))
        following = max(numbers.values(), default=0) + 1
        for each in self._written:
            number = numbers.get(each.inode)
            if number is None:
                number = link_next(self._folder, each.name, following)
                following = number + 1
            yield number, each.flags

    async def release(self) -> None:
        """See IDelivery."""
        try:
            await self._run(self._discard)
        finally:
            close(self._folder)

    def _discard(self) -> None:
        for each in self._written:
            with suppress(OSError):
                # One with a number needs its flags still.
                if os.stat(each.name, dir_fd=self._folder, follow_symlinks=False).st_nlink == 1:
                    os.unlink(each.name, dir_fd=self._folder)


def _name_of(unique_id: bytes) -> bytes:
    return PREFIX + blake2b(unique_id, digest_size=16).hexdigest().encode("ascii")


def link_next(folder: int, name: bytes, number: int) -> int:
    """Give a file in a folder a number as well, this one or a higher one; return that.

    :raises OSError: it cannot be given one.
    """
    while True:
        target = b"%d" % number
        try:
            os.link(name, target, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        except FileExistsError:
            # A program that does not use nmh's lock may have delivered a message.
            number += 1
        else:
            return number


def numbers_by_inode(
    folder: int, other: Callable[[os.DirEntry[str]], object] = lambda entry: None
) -> Iterator[tuple[int, int]]:
    """Yield the inode numbers and the numbers of all files in a folder that have one.

    ``other`` is called with each of the others.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.isascii() and entry.name.isdigit():
                yield entry.inode(), int(entry.name)
            else:
                other(entry)
