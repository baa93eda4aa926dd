"""new/ and cur/ of one Maildir: locked, scanned, and compared with an earlier scan.

Only regular files are messages.  new/ and cur/ are opened relative to the Maildir's directory,
and symbolic links are not followed.

A *location* is the folder and the info suffix of a message file: one byte with the number of the
folder (0 for new/, 1 for cur/), then the info suffix, if there is one (see ``file_names``).  Any
number of messages share a few different locations.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

from popserv.errors import MaildropBusy
from popserv.maildrops.cached_open import NotCached, is_local_filesystem
from popserv.maildrops.file_times import CLOCK_TICK, FILE_CLOCK, TRUSTED_AGE
from popserv.maildrops.maildir.file_names import may_have_other_info, split_name
from popserv.runtime.closing import close

FOLDER_NAMES = (b"new", b"cur")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_BATCH = 1024

MAX_SCANS = 5
"""The maximum number of scans of folders that keep changing; the last result is then used."""

RECENTLY = 30_000_000_000
"""Nanoseconds in which the kernel has not yet evicted a change of a directory from memory.

It writes changes to disk after up to 30 seconds.
"""

_BLOCK = 4096

Times = list[tuple[int, ...]]
"""For each folder that exists its number, device, inode, and st_mtime_ns and st_ctime_ns.

Only its number, if a later change need not alter them.
"""


class Scan(NamedTuple):
    """The result of a scan of new/ and cur/.

    ``files`` has, by its base name, the location and inode number of each file, and ``duplicates``
    all locations of the base names that were found at more than one; the same file may have been
    found before and after it was renamed.
    If ``is_settled``, no file was renamed unnoticed during the scan, so that a base name that was
    not found has vanished.  ``times`` are the folders' times, or None if they changed during the
    scan.  ``unlisted`` has the numbers of the folders that were not listed.
    """

    files: dict[bytes, tuple[bytes, int]]
    duplicates: dict[bytes, set[bytes]]
    is_settled: bool
    times: Times | None
    unlisted: frozenset[int]


def open_folder(name: bytes, maildir_fd: int) -> int:
    """Return a file descriptor of a folder of an open Maildir.

    :raises OSError: it cannot be opened, or is a symbolic link or no directory.
    """
    return os.open(name, _DIRECTORY, dir_fd=maildir_fd)


class Folders:
    """new/ and cur/ of one Maildir, whose directory is held open as ``maildir_fd``.

    The folders themselves are opened when they are needed and stay open until
    :meth:`close_folders`.  All methods may wait for a disk, unless they say otherwise.
    """

    __slots__ = ("_folders", "maildir_fd")

    def __init__(self, maildir_fd: int) -> None:
        self.maildir_fd = maildir_fd
        self._folders: dict[int, int] = {}

    def lock(self) -> None:
        """Take the exclusive-access lock, flock(2) on the Maildir's directory.

        :raises MaildropBusy: another session has it.
        """
        try:
            fcntl.flock(self.maildir_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MaildropBusy from None

    def _open_folders(self) -> None:
        """Open the folders that are not open; one that does not exist has no messages."""
        for number, name in enumerate(FOLDER_NAMES):
            if number not in self._folders:
                with suppress(FileNotFoundError):
                    self._folders[number] = open_folder(name, self.maildir_fd)

    def descriptor(self, number: int) -> int:
        """Return the file descriptor of a folder, which is opened if it is not open."""
        fd = self._folders.get(number)
        if fd is None:
            fd = self._folders[number] = open_folder(FOLDER_NAMES[number], self.maildir_fd)
        return fd

    def are_unchanged_since(self, times: Times | None) -> bool:
        """Return whether no file was added, removed or renamed since the scan with these times.

        Does not wait for a disk after :meth:`~popserv.maildrops.layout.Layout.open_cached`.

        :raises OSError: a folder cannot be examined.
        """
        return self.times() == times

    def are_local(self) -> bool:
        """Return whether the Maildir and its folders are on local file systems."""
        self._open_folders()
        return all(map(is_local_filesystem, (self.maildir_fd, *self._folders.values())))

    def close_folders(self) -> None:
        """Close the folders, which are reopened when needed; the Maildir stays open and locked."""
        folders, self._folders = self._folders, {}
        for fd in folders.values():
            close(fd)

    def close(self) -> None:
        """Close the folders and the Maildir, which releases the lock."""
        self.close_folders()
        close(self.maildir_fd)

    def scan(self, known: Times | None = None, *, cached: bool = False) -> Scan:
        """List new/ and cur/, except for folders that have their ``known`` times.

        A file that is renamed while its folder is listed may be listed twice or not at all, so a
        folder that changes during the scan is listed again, up to ``MAX_SCANS`` times.

        :raises NotCached: with ``cached``, a folder may have to be read from a disk.
        """
        for _ in range(MAX_SCANS):
            self._open_folders()
            started = time.clock_gettime_ns(FILE_CLOCK)
            before = self._open_times()
            unlisted = {folder[0] for folder in before if folder in (known or ())}
            files: dict[bytes, tuple[bytes, int]] = {}
            duplicates: dict[bytes, set[bytes]] = {}
            # new/ before cur/, whichever was opened first: a message that moves on is then
            # listed at least once.
            for number, fd in sorted(self._folders.items()):
                if number in unlisted:
                    continue
                if cached:
                    _check_cached(fd)
                _list_folder(number, fd, files, duplicates)
            is_unchanged = self._open_times() == before
            if is_unchanged:
                break
        # Any program can set st_mtime, also to a time to come.
        latest = max((folder[-1] for folder in before), default=0)
        return Scan(
            files,
            duplicates,
            is_unchanged and latest + CLOCK_TICK < started,
            [folder if folder[-1] + TRUSTED_AGE < started else folder[:1] for folder in before]
            if is_unchanged
            else None,
            frozenset(unlisted),
        )

    def times(self) -> Times:
        """Return the times of the folders that exist.

        :raises OSError: a folder cannot be examined.
        """
        times: Times = []
        for number, name in enumerate(FOLDER_NAMES):
            try:
                status = os.stat(name, dir_fd=self.maildir_fd, follow_symlinks=False)
            except FileNotFoundError:
                continue
            times.append(times_of(number, status))
        return times

    def _open_times(self) -> Times:
        return [times_of(number, os.fstat(fd)) for number, fd in sorted(self._folders.items())]

    def sync(self) -> None:
        """Write changes of the open folders to disk."""
        for fd in self._folders.values():
            os.fsync(fd)


def times_of(number: int, status: os.stat_result) -> tuple[int, ...]:
    """Return the times of a folder, as in ``Times``."""
    # Copying programs set st_mtime back, but nothing can set st_ctime.
    return number, status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def _check_cached(fd: int) -> None:
    status = os.fstat(fd)
    age = time.time_ns() - status.st_mtime_ns
    if status.st_size > _BLOCK or not 0 <= age < RECENTLY:
        raise NotCached


def _list_folder(
    number: int,
    fd: int,
    files: dict[bytes, tuple[bytes, int]],
    duplicates: dict[bytes, set[bytes]],
) -> None:
    """Add the files of a folder to ``files``, and base names found twice to ``duplicates``."""
    # Each location once, so that equal ones are one object.
    by_suffix: dict[bytes, bytes] = {}
    with os.scandir(fd) as scanned:
        entries = iter(scanned)
        # In batches, since it is slow to encode and to examine each name by itself.
        while batch := list(islice(entries, _BATCH)):
            regular = [
                entry
                for entry in batch
                if entry.name[0] != "." and entry.is_file(follow_symlinks=False)
            ]
            if not regular:
                continue
            names = os.fsencode("\0".join([entry.name for entry in regular]))
            inodes = [entry.inode() for entry in regular]
            has_other_info = may_have_other_info(names)
            for name, inode in zip(names.split(b"\0"), inodes, strict=True):
                base_name, colon, info = name.partition(b":")
                suffix = colon + info
                if has_other_info:
                    base_name, suffix = split_name(name)
                location = by_suffix.get(suffix)
                if location is None:
                    location = by_suffix[suffix] = bytes([number]) + suffix
                file = (location, inode)
                other = files.setdefault(base_name, file)
                if other[0] is not location:
                    duplicates.setdefault(base_name, {other[0]}).add(location)
