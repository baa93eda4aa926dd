"""The small files in the directory of a Maildir: those of other servers, and popserv's own.

The owner of the Maildir can replace them while the server is root: links are not followed, and
what is not a regular file is refused.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from contextlib import suppress

from popserv.maildrops.cached_open import open_cached
from popserv.maildrops.file_times import FILE_CLOCK, TRUSTED_AGE
from popserv.maildrops.maildir.listing.size_file import copy_ownership, write_all
from popserv.runtime.closing import close

MAX_OCTETS = 1 << 26
"""The maximum length of a file."""

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PATH = getattr(os, "O_PATH", os.O_RDONLY | os.O_NONBLOCK) | os.O_NOFOLLOW | os.O_CLOEXEC

Version = tuple[int, ...] | None
"""The device, inode, length and times of a file, by which a change is noticed; None without one."""


def version_of(status: os.stat_result) -> tuple[int, ...]:
    """Return the version of a file."""
    return (
        *(status.st_dev, status.st_ino, status.st_size),
        *(status.st_mtime_ns, status.st_ctime_ns),
    )


def version(name: bytes, maildir_fd: int, *, cached: bool = False) -> Version:
    """Return the version of a file in an open Maildir.

    Waits for the disk, unless it is called with ``cached``.

    :raises OSError: the file cannot be examined; with ``cached``, call it again in a thread.
    """
    if not cached:
        try:
            return version_of(os.stat(name, dir_fd=maildir_fd, follow_symlinks=False))
        except FileNotFoundError:
            return None
    try:
        fd = open_cached(name, _PATH, maildir_fd)
    except FileNotFoundError:
        return None
    try:
        return version_of(os.fstat(fd))
    finally:
        close(fd)


def is_settled(version: Version) -> bool:
    """Return whether a change of the file would certainly give it another version."""
    return version is None or max(version[-2:]) + TRUSTED_AGE < time.clock_gettime_ns(FILE_CLOCK)


def read_file(name: bytes, maildir_fd: int) -> tuple[bytes | None, Version]:
    """Return the contents of a file in an open Maildir, and its version; None without a file.

    Waits for the disk: call it in a thread.

    :raises OSError: there is something that cannot be read, or is not a regular file, or the file
        cannot be found although the directory lists it (ESTALE); the error has the name.
    """
    try:
        fd = os.open(name, _FLAGS, dir_fd=maildir_fd)
    except FileNotFoundError:
        _check_absent(name, maildir_fd)
        return None, None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise unusable(name, "is a symbolic link") from error
        raise OSError(error.errno, error.strerror, name) from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise unusable(name, "is not a regular file")
        if status.st_size > MAX_OCTETS:
            raise unusable(name, f"has more than {MAX_OCTETS} octets")
        parts = []
        while part := os.read(fd, 1 << 20):
            parts.append(part)
        return b"".join(parts), version_of(status)
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from error
    finally:
        close(fd)


def _check_absent(name: bytes, maildir_fd: int) -> None:
    """Check that there really is no file where the system has found none.

    Without what it has, messages would get other unique-ids or be shown again, and whoever
    replaced it would lose that for ever.

    :raises OSError: the directory lists the file, or cannot be listed; the error has the name.
    """
    try:
        is_listed = os.fsdecode(name) in os.listdir(maildir_fd)
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from error
    if is_listed:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), name)


def replace_file(name: bytes, unfinished_name: bytes, data: bytes, maildir_fd: int) -> None:
    """Replace a file in an open Maildir, whose lock is held, and sync it.

    The data is first written to a file with the ``unfinished_name``.  The file belongs to the owner
    of the Maildir.  Waits for the disk: call it in a thread.

    :raises OSError: the file cannot be replaced, or not be synced: the old one or the new one is
        there.  The error has the name.
    """
    try:
        with suppress(FileNotFoundError):
            os.unlink(unfinished_name, dir_fd=maildir_fd)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(unfinished_name, flags, 0o600, dir_fd=maildir_fd)
        try:
            try:
                copy_ownership(os.fstat(maildir_fd), fd)
                write_all(fd, data)
                os.fsync(fd)
            finally:
                close(fd)
            os.rename(unfinished_name, name, src_dir_fd=maildir_fd, dst_dir_fd=maildir_fd)
        except BaseException:
            with suppress(OSError):
                os.unlink(unfinished_name, dir_fd=maildir_fd)
            raise
        os.fsync(maildir_fd)
    except OSError as error:
        raise OSError(error.errno, error.strerror, error.filename or name) from error


def unusable(name: bytes, problem: str) -> OSError:
    """Return the error for a file that cannot be used."""
    return OSError(errno.EBADMSG, problem, name)
