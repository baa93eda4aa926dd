"""Locks on an mbox file, as section 11.6 of Debian's policy has them: fcntl(2), then a dotlock.

Each is tried once; a caller that does not get both releases them, and tries again later.

The lock of fcntl is one of the open file description where the system has such locks: those of a
process would be released when any session of it closes the file.  The two kinds exclude each
other.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any

from twisted.logger import Logger

from popserv.core.printable import one_line
from popserv.maildrops.mbox.spool_group import in_spool_group
from popserv.maildrops.path_problems import path_of
from popserv.runtime.closing import close
from popserv.runtime.permissions import reason_of
from popserv.runtime.processes import has_ended
from popserv.runtime.threads import RunInThread

_log = Logger()

STALE_AGE = 300
"""Seconds after which a dotlock is stale that nobody has touched, as in liblockfile."""

TOUCH_INTERVAL = 60
"""Seconds after which a dotlock is touched."""

RETRY_DELAYS = (0.05, 0.1, 0.2, 0.4) + (0.5,) * 18
"""Seconds between the attempts to lock a file, ten altogether."""

Wait = Callable[[float], Awaitable[Any]]
"""Waits for a number of seconds."""

# Other systems have another struct flock, or no such locks.
_SET_LOCK = fcntl.F_OFD_SETLK if sys.platform == "linux" else None

_LOCKF = {
    fcntl.F_WRLCK: fcntl.LOCK_EX | fcntl.LOCK_NB,
    fcntl.F_RDLCK: fcntl.LOCK_SH | fcntl.LOCK_NB,
    fcntl.F_UNLCK: fcntl.LOCK_UN,
}

_SUFFIX = b".lock"

# Where it is missing, a directory cannot be opened for writing.
_UNNAMED: int = getattr(os, "O_TMPFILE", os.O_DIRECTORY)

_CANNOT_CREATE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
"""The errors with which a dotlock cannot be made, and fcntl has to be enough."""


# The dotlocks of this process, by device and inode number.
_held: set[tuple[int, int] | None] = set()


class FileLocked(Exception):
    """Another program has a lock on the file; the text names that."""


async def retry_while_locked(
    run: RunInThread, wait: Wait, function: Callable[..., Any], *args: Any
) -> Any:
    """Call a function in a thread, until no other program has the lock that it needs.

    No thread is used while it waits.

    :raises FileLocked: another program still has it after ten seconds.
    """
    for delay in RETRY_DELAYS:
        try:
            return await run(function, *args)
        except FileLocked:
            await wait(delay)
    return await run(function, *args)


def dotlock_age(parent: int, name: bytes, now: float) -> float | None:
    """Return the age in seconds of the dotlock of a file, or None if there is none.

    The file has this name in an open directory.
    """
    try:
        status = os.stat(name + _SUFFIX, dir_fd=parent, follow_symlinks=False)
    except OSError:
        return None
    return now - status.st_mtime


class FileLock:
    """Both locks on an open file, of which ``name`` is the name in the open directory ``parent``.

    Without permission to write the file, or its directory, the lock of fcntl is a shared one, or
    there is no dotlock.
    """

    def __init__(self, fd: int, parent: int, name: bytes) -> None:
        self._fd = fd
        self._parent = parent
        self._name = name + _SUFFIX
        # The dotlock is open: whatever is at its path, its own times can be changed.
        self._dotlock: int | None = None
        self._identity: tuple[int, int] | None = None
        self._touched = 0.0

    def acquire(self) -> None:
        """Take both locks, without waiting.

        :raises FileLocked: another program has one of them.
        :raises OSError: the system cannot lock the file.
        """
        writable = fcntl.fcntl(self._fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
        try:
            self._set(fcntl.F_WRLCK if writable else fcntl.F_RDLCK)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                path = self._path(self._name.removesuffix(_SUFFIX))
                raise FileLocked(f"another program has locked {path} with fcntl") from error
            raise
        try:
            with in_spool_group(self._parent):
                self._create_dotlock()
        except BaseException:
            self._unlock()
            raise

    def release(self) -> None:
        """Release the locks.

        :raises OSError: the dotlock cannot be removed.
        """
        try:
            if self._dotlock is not None:
                with suppress(FileNotFoundError):
                    self._remove_dotlock(self._dotlock)
        finally:
            self._unlock()

    def _unlock(self) -> None:
        """Close the dotlock, and release the lock of fcntl."""
        self._close_dotlock()
        self._set(fcntl.F_UNLCK)

    def _close_dotlock(self) -> None:
        dotlock, self._dotlock = self._dotlock, None
        if dotlock is not None:
            _held.discard(self._identity)
            self._identity = None
            close(dotlock)

    def touch(self) -> None:
        """Keep the dotlock from becoming stale; call it from time to time."""
        now = time.monotonic()
        if self._dotlock is not None and now - self._touched >= TOUCH_INTERVAL:
            self._touched = now
            with suppress(OSError):
                os.utime(self._dotlock)

    def _set(self, kind: int) -> None:
        if _SET_LOCK is None:
            fcntl.lockf(self._fd, _LOCKF[kind])
        else:
            # struct flock with offsets of 64 bits, for the whole file.
            fcntl.fcntl(self._fd, _SET_LOCK, struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0))

    def _create_dotlock(self) -> None:
        try:
            try:
                self._new_dotlock()
            except FileExistsError:
                self._remove_stale_dotlock()
                self._new_dotlock()
        except FileExistsError as error:
            raise self._dotlocked() from error
        except OSError as error:
            if error.errno not in _CANNOT_CREATE:
                raise
            _log_no_dotlock(path_of(self._parent) or "an open directory", reason_of(error))
            return
        self._touched = time.monotonic()

    def _new_dotlock(self) -> None:
        if not self._link_dotlock():
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._dotlock = os.open(self._name, flags, 0o644, dir_fd=self._parent)
            self._write_process(self._dotlock)

    def _link_dotlock(self) -> bool:
        """Create the dotlock together with its contents; return whether that is possible.

        If this process is killed, other programs need not wait until the dotlock is stale.
        """
        flags = os.O_WRONLY | _UNNAMED | os.O_CLOEXEC
        try:
            self._dotlock = os.open(b".", flags, 0o644, dir_fd=self._parent)
            self._write_process(self._dotlock)
            os.link(
                f"/proc/self/fd/{self._dotlock}",
                self._name,
                dst_dir_fd=self._parent,
                follow_symlinks=True,
            )
        except OSError as error:
            self._close_dotlock()
            if isinstance(error, FileExistsError):
                raise
            return False
        return True

    def _write_process(self, dotlock: int) -> None:
        # For the programs that look whether this process still exists; without it they wait.
        with suppress(OSError):
            self._identity = _identity(os.fstat(dotlock))
            _held.add(self._identity)
            os.write(dotlock, b"%d\n" % os.getpid())

    def _remove_dotlock(self, dotlock: int) -> None:
        """Remove the dotlock, which is open, unless another program has replaced it."""
        try:
            with in_spool_group(self._parent):
                status = os.stat(self._name, dir_fd=self._parent, follow_symlinks=False)
                if os.path.samestat(status, os.fstat(dotlock)):
                    os.unlink(self._name, dir_fd=self._parent)
        except OSError:
            # Otherwise all programs would wait for this process, which still exists.
            with suppress(OSError):
                os.utime(dotlock, (0, 0))
            raise

    def _remove_stale_dotlock(self) -> None:
        """Remove the dotlock of a process that has ended, or that nobody has touched for long.

        :raises FileLocked: the dotlock is not stale.
        """
        try:
            fd = os.open(
                self._name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self._parent
            )
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._dotlocked() from error
        try:
            status = os.fstat(fd)
            process = os.read(fd, 20).strip(b"\0\n ")
        except OSError as error:
            raise self._dotlocked() from error
        finally:
            close(fd)
        is_old = time.time() - status.st_mtime > STALE_AGE
        if not (is_old or has_ended(process, own_ended=_identity(status) not in _held)):
            raise self._dotlocked()
        with suppress(FileNotFoundError):
            now = os.stat(self._name, dir_fd=self._parent, follow_symlinks=False)
            if (now.st_ino, now.st_mtime_ns) == (status.st_ino, status.st_mtime_ns):
                os.unlink(self._name, dir_fd=self._parent)
                _log.warn("stale dotlock removed: {name}", name=one_line(os.fsdecode(self._name)))

    def _dotlocked(self) -> FileLocked:
        return FileLocked(f"another program has made {self._path(self._name)}")

    def _path(self, name: bytes) -> str:
        return os.path.join(path_of(self._parent), os.fsdecode(name))


@lru_cache(1000)
def _log_no_dotlock(directory: str, reason: str) -> None:
    """Log once for each directory that the lock of fcntl has to be enough."""
    _log.warn(
        "cannot create dotlocks in {directory}: {reason}; only programs that use fcntl locks are "
        "excluded; give the server permission to create files there, such as with --gid mail",
        directory=one_line(directory),
        reason=reason,
    )


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
