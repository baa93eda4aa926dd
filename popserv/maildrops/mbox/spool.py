"""One user's mbox file: opened without following links, locked, and compared with its path."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pwd import getpwnam

from popserv.errors import MaildropBusy
from popserv.maildrops.layout import Layout, create_inheriting
from popserv.maildrops.mbox.index import Identity
from popserv.maildrops.mbox.locks import FileLock, FileLocked
from popserv.maildrops.mbox.spool_group import credentials_for_new, in_spool_group
from popserv.maildrops.path_problems import UnusablePath, explain_open, path_of
from popserv.runtime.closing import close
from popserv.runtime.file_credentials import FileCredentials, acting_as, current
from popserv.runtime.permissions import reason_of

_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_NO_ATIME = getattr(os, "O_NOATIME", 0)

# Reading must not change the time of access if it can be helped: programs that say that there is
# new mail compare it with the time of modification.
_ATTEMPTS = (os.O_RDWR | _NO_ATIME, os.O_RDWR, os.O_RDONLY | _NO_ATIME, os.O_RDONLY)
_NO_PERMISSION = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY)

_MAX_OPENS = 5
"""The maximum number of attempts to open a file that other programs keep replacing."""


class Spool:
    """An open mbox file, under the exclusive-access lock of its session.

    That lock is flock(2) on the file.  It does not affect programs that deliver mail with the locks
    of :mod:`~popserv.maildrops.mbox.locks`, which are held only while the file is read or
    rewritten.

    ``fd`` is the descriptor of the file, which is ``name`` in the open directory ``parent``.

    Use :meth:`open`; :meth:`open_shared` is for deliveries, which do without that lock.
    """

    __slots__ = ("fd", "name", "parent")

    def __init__(self, parent: int, name: bytes, fd: int) -> None:
        self.parent = parent
        self.name = name
        self.fd = fd

    @classmethod
    def open(cls, layout: Layout, user: bytes) -> Spool:
        """Open a user's file and lock it for a session.

        :raises ValueError: the name of the user is not allowed.
        :raises FileNotFoundError: there is no such file.
        :raises OSError: it cannot be opened, or is not a regular file with one name.
        :raises MaildropBusy: another session has it.
        """
        for _ in range(_MAX_OPENS):
            spool = cls.open_shared(layout, user)
            try:
                spool._lock()
                if spool.is_at_path():
                    return spool
            except BaseException:
                spool.close()
                raise
            spool.close()
        raise MaildropBusy

    @classmethod
    def open_shared(cls, layout: Layout, user: bytes) -> Spool:
        """Open a user's file without the lock of sessions.

        :raises ValueError: the name of the user is not allowed.
        :raises FileNotFoundError: there is no such file.
        :raises OSError: it cannot be opened, or is not a regular file with one name.
        """
        parent, fd = _open(layout, user)
        spool = cls(parent, layout.path_parts(user)[-1], fd)
        try:
            spool._check()
        except BaseException:
            spool.close()
            raise
        return spool

    def _check(self) -> None:
        status = os.fstat(self.fd)
        if not stat.S_ISREG(status.st_mode):
            raise self.problem("is not a regular file")
        # A user could make a link to another user's mail.
        if status.st_nlink > 1:
            raise self.problem("has more than one name; remove the other hard links")

    def _lock(self) -> None:
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MaildropBusy from None

    @property
    def path(self) -> str:
        """The path of the file, for the log."""
        return os.path.join(path_of(self.parent), os.fsdecode(self.name))

    def is_writable(self) -> bool:
        """Return whether the file was opened for writing, too."""
        return fcntl.fcntl(self.fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR

    def identity(self) -> Identity:
        """Return the identity of the open file."""
        return Identity.of(os.fstat(self.fd))

    def is_at_path(self) -> bool:
        """Return whether no other program has renamed the file, or another one over it."""
        try:
            status = os.stat(self.name, dir_fd=self.parent)
        except FileNotFoundError:
            return False
        return (status.st_dev, status.st_ino) == self.identity()[:2]

    @contextmanager
    def locked(self) -> Iterator[FileLock]:
        """Lock the file against programs that deliver or read mail.

        :raises FileLocked: such a program has a lock, or has put another file in its place.
        :raises OSError: the file cannot be locked.
        """
        lock = FileLock(self.fd, self.parent, self.name)
        lock.acquire()
        try:
            if not self.is_at_path():
                raise FileLocked(f"another program has replaced {self.path}")
            yield lock
        finally:
            lock.release()

    @contextmanager
    def keeping_times(self) -> Iterator[None]:
        """Give the file its times back, if it belongs to this user.

        Programs that say that there is new mail compare the times of access and modification.
        """
        before = os.fstat(self.fd)
        try:
            yield
        finally:
            with suppress(OSError):
                os.utime(self.fd, ns=(before.st_atime_ns, before.st_mtime_ns))

    def problem(self, reason: str | OSError) -> UnusablePath:
        """Return an error that names the file, for an error or a reason why it cannot be used.

        One that has a path is returned with that.
        """
        if isinstance(reason, UnusablePath):
            return UnusablePath(reason.errno, reason.strerror)
        if isinstance(reason, OSError):
            return UnusablePath(reason.errno, f"{self.path}: {reason_of(reason)}")
        return UnusablePath(errno.EINVAL, f"{self.path} {reason}")

    def close(self) -> None:
        """Close the file, and release all locks."""
        # A message that is being sent has a duplicate of the descriptor.
        with suppress(OSError):
            fcntl.flock(self.fd, fcntl.LOCK_UN)
        close(self.fd)
        close(self.parent)


def _open(layout: Layout, user: bytes) -> tuple[int, int]:
    """Open the file with as many rights as there are; return the directory's and its descriptor."""
    for flags in _ATTEMPTS:
        try:
            return layout.open_file(user, flags | _FLAGS)
        except (FileNotFoundError, UnusablePath):
            raise
        except OSError as error:
            problem = error
            if error.errno not in _NO_PERMISSION:
                break
    reason = describe_failure(problem, os.fsdecode(layout.path(user)))
    raise UnusablePath(problem.errno, reason) from problem


def describe_failure(problem: OSError, path: str) -> str:
    """Return why the file at a path could not be opened."""
    if isinstance(problem, IsADirectoryError):
        return f"{path} is a directory, a Maildir perhaps, and not an mbox file"
    return str(problem) if isinstance(problem, UnusablePath) else explain_open(problem, path)


def create_file(layout: Layout, user: bytes) -> FileCredentials | None:
    """Create a user's file, and directories on the way to it, unless it exists.

    It belongs to the owner of its directory or, in a directory of root's such as ``/var/mail``, to
    the system's user of this name and the directory's group.  Return the credentials as which it is
    to be opened, or None for those of the process.

    :raises ValueError: the name of the user is not allowed.
    :raises OSError: it cannot be created.
    """
    *parents, name = layout.path_parts(user)
    parent = layout.open_or_create_parent(parents, create_inheriting)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            owner = credentials_for_new(parent, user)
        except PermissionError:
            with suppress(FileNotFoundError):
                os.stat(name, dir_fd=parent, follow_symlinks=False)
                return current()
            raise
        with (
            suppress(FileExistsError),
            acting_as(owner),
            in_spool_group(parent),
            open(os.open(name, flags, 0o600, dir_fd=parent), "wb") as file,
        ):
            _give(file.fileno(), os.fstat(parent), user)
            os.fsync(parent)
        # It may have been there, or another process has just made it.
        made = os.stat(name, dir_fd=parent, follow_symlinks=False)
        return owner if owner is not None and made.st_uid == owner.uid else current()
    finally:
        close(parent)


def _give(fd: int, directory: os.stat_result, user: bytes) -> None:
    owner, mode = directory.st_uid, 0o600
    if owner == 0:
        with suppress(KeyError):
            owner, mode = getpwnam(os.fsdecode(user)).pw_uid, 0o660
    with suppress(PermissionError):
        os.fchown(fd, owner, directory.st_gid)
        os.fchmod(fd, mode)
