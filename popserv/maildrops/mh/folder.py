"""One MH folder, whose directory is held open: locked, scanned, and its files opened.

Only regular files are messages, and only if their name is a number without leading zeros, as nmh
writes it.  Everything here may wait for the disk: call it in a thread.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterable
from typing import NamedTuple

from popserv.errors import MaildropBusy
from popserv.maildrops.file_times import CLOCK_TICK, FILE_CLOCK, TRUSTED_AGE
from popserv.runtime.closing import close
from popserv.runtime.permissions import reason_of

MAX_SCANS = 5
"""The maximum number of scans of a folder that keeps changing; the last result is then used."""

RETRY_DELAYS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)
"""Seconds to wait, after each scan, for another program to finish its renames."""

_NUMBER = re.compile(r"[1-9][0-9]{0,17}")
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

Times = tuple[int, int, int, int]
"""Of a folder: device, inode, st_mtime_ns and st_ctime_ns."""


class FileKey(NamedTuple):
    """What identifies the file of a message: inode, length, and time of modification (ns)."""

    inode: int
    length: int
    modified: int


class Scan(NamedTuple):
    """The result of a scan.

    ``files`` has the keys of the messages by their numbers, in the order of these, and ``missing``
    the numbers of those that were listed and could not be found.  If ``is_settled``, there are
    none, and no file was renamed unnoticed during the scan.  ``times`` are those of the folder, or
    None if a later change need not alter them, or a message may still be being written, which does
    not alter them either.  ``started`` is the time in ns.
    """

    files: dict[int, FileKey]
    missing: list[int]
    is_settled: bool
    times: Times | None
    started: int

    @property
    def numbers(self) -> set[int]:
        """The numbers of all messages that were listed."""
        return self.files.keys() | set(self.missing)


def lock(folder: int) -> None:
    """Take the exclusive-access lock, flock(2) on the folder.

    :raises MaildropBusy: another session has it.
    """
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise MaildropBusy from None


def times_of(folder: int) -> Times:
    """Return the times of an open folder."""
    status = os.fstat(folder)
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def key_of(status: os.stat_result) -> FileKey:
    """Return the key of a file."""
    return FileKey(status.st_ino, status.st_size, status.st_mtime_ns)


def scan(folder: int) -> Scan:
    """List the messages of an open folder, again if it changes meanwhile.

    :raises OSError: the folder cannot be read.
    """
    for _ in range(MAX_SCANS):
        started = time.clock_gettime_ns(FILE_CLOCK)
        before = times_of(folder)
        files, missing, written = _list(folder)
        is_unchanged = times_of(folder) == before
        if is_unchanged:
            break
    # Programs set st_mtime to any time, as copies do, but nothing sets st_ctime.
    changed = before[-1]
    is_complete = is_unchanged and not missing
    return Scan(
        files,
        missing,
        is_complete and changed + CLOCK_TICK < started,
        before if is_complete and max(changed, written) + TRUSTED_AGE < started else None,
        started,
    )


def _list(folder: int) -> tuple[dict[int, FileKey], list[int], int]:
    """Return the files, the missing numbers, and the time of the latest change of a file in ns."""
    files, missing, latest = {}, [], 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if _NUMBER.fullmatch(entry.name):
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    missing.append(int(entry.name))
                    continue
                if stat.S_ISREG(status.st_mode):
                    files[int(entry.name)] = key_of(status)
                    if status.st_ctime_ns > latest:
                        latest = status.st_ctime_ns
    return dict(sorted(files.items())), missing, latest


def check_gone(folder: int, numbers: Iterable[int]) -> None:
    """Check that an open folder has no files with these numbers, which could not be found.

    :raises OSError: one is there, or the folder cannot be read; the error has the name.
    """
    names = {str(number) for number in numbers}
    there = names.intersection(os.listdir(folder)) if names else names
    if there:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), os.fsencode(min(there)))


def still_changing() -> OSError:
    """Return the error for messages that may have other numbers than those just listed."""
    return OSError(errno.ESTALE, "other programs keep renaming its messages")


def open_number(folder: int, number: int) -> int | None:
    """Open the file of a message number; return None if it is missing or no regular file.

    :raises OSError: it cannot be opened.
    """
    try:
        fd = os.open(b"%d" % number, _FLAGS, dir_fd=folder)
    except FileNotFoundError:
        return None
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    close(fd)
    return None


def unlink_if_same(folder: int, number: int, key: FileKey) -> None:
    """Unlink the file of a message number if it has this key.

    It is renamed first, so that no other program gives it another message meanwhile: nmh has no
    lock in a folder without sequences, nor if it is told to use other locks.  A process that is
    killed in between leaves the renamed file, which is a backup to nmh.

    :raises FileNotFoundError: there is no such file.
    :raises OSError: the file has another key, or cannot be unlinked; it has its number.
    """
    name, backup = b"%d" % number, b",popserv-%d" % time.time_ns()
    _check(folder, name, key)
    os.rename(name, backup, src_dir_fd=folder, dst_dir_fd=folder)
    try:
        _check(folder, backup, key)
        os.unlink(backup, dir_fd=folder)
    except OSError:
        _restore(folder, backup, number)
        raise


def _check(folder: int, name: bytes, key: FileKey) -> None:
    if key_of(os.stat(name, dir_fd=folder, follow_symlinks=False)) != key:
        raise OSError(errno.EBUSY, "the message has changed")


def _restore(folder: int, backup: bytes, number: int) -> None:
    """Give a renamed file its number again, or the next one that is free.

    :raises OSError: it cannot be renamed, and is there under the other name.
    """
    while True:
        try:
            os.link(
                *(backup, b"%d" % number),
                src_dir_fd=folder,
                dst_dir_fd=folder,
                follow_symlinks=False,
            )
        except FileExistsError:
            number += 1
        except OSError as error:
            text = f"{reason_of(error)}; the message is now in {os.fsdecode(backup)}"
            raise OSError(error.errno, text) from error
        else:
            os.unlink(backup, dir_fd=folder)
            return
