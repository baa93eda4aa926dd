"""The sequences of an MH folder, in the file ``.mh_sequences``: named sets of message numbers.

The file is changed in place under a lock of fcntl(2), as nmh does by default (``datalocking``), and
removed when there are no sequences.  See mh-sequence(5).

That lock is one of the process: it excludes none of its threads, and is lost when any of them
closes the file.  The threads therefore also exclude each other, from before the file is opened
until it is closed.  One that waits for another does not poll: it would find the folder in use each
time, if mail arrives often.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from threading import Lock

from popserv.runtime.closing import close

NAME = b".mh_sequences"

UNSEEN = b"unseen"
"""The sequence of the messages that nobody has read, if the user's nmh keeps it."""

RETRIEVED = b"retrieved"
"""The sequence of the messages that clients have retrieved."""

# nmh leaves the current message where it is when it is removed.
_CURRENT = b"cur"

LOCK_DELAYS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 0.8)
"""Seconds to wait between attempts to lock the file; another thread is waited for as long."""

_MAX_OCTETS = 1 << 20
_LINE = re.compile(rb"([A-Za-z][A-Za-z0-9]*):((?:\s+[0-9]{1,18}(?:-[0-9]{1,18})?)*)\s*")

_Ranges = list[tuple[int, int]]


class _ThreadLock:
    """A lock that one thread has, and how many have it or wait for it."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.users = 0


# By the folder's device and inode number, as long as there are users.
_thread_locks: dict[tuple[int, int], _ThreadLock] = {}
_users_lock = Lock()


class Sequences:
    """The contents of a file of sequences.

    Lines that are not sequences are kept as they are, but for blanks at their start.
    """

    def __init__(self, text: bytes = b"") -> None:
        self._ranges: dict[bytes, _Ranges] = {}
        self._others: list[bytes] = []
        lines = re.sub(rb"\n[ \t]+", b" ", text).removesuffix(b"\n").split(b"\n") if text else ()
        for line in lines:
            # Indented, it would continue the line that comes before it when it is written.
            line = line.lstrip(b" \t")
            sequence = _LINE.fullmatch(line)
            if sequence is None:
                self._others.append(line)
            else:
                self._ranges.setdefault(sequence[1], []).extend(_parse(sequence[2]))

    def __contains__(self, name: bytes) -> bool:
        return name in self._ranges

    def members(self, name: bytes, numbers: Iterable[int]) -> set[int]:
        """Return which of the numbers a sequence contains."""
        ranges = sorted(self._ranges.get(name, ()))
        highest = 0
        # Ranges may overlap: the end of each is the highest so far.
        ends = [highest := max(highest, last) for _, last in ranges]
        found = set()
        for number in numbers:
            at = bisect_right(ranges, (number, number + (1 << 64))) - 1
            if at >= 0 and number <= ends[at]:
                found.add(number)
        return found

    def set(self, name: bytes, numbers: Iterable[int]) -> None:
        """Replace the members of a sequence, which is removed if there are none."""
        ranges: _Ranges = []
        for number in sorted(numbers):
            if ranges and ranges[-1][1] == number - 1:
                ranges[-1] = ranges[-1][0], number
            else:
                ranges.append((number, number))
        if ranges:
            self._ranges[name] = ranges
        else:
            self._ranges.pop(name, None)

    def keep_only(self, numbers: Iterable[int]) -> None:
        """Remove all other numbers from all sequences but that of the current message."""
        kept = set(numbers)
        for name in set(self._ranges) - {_CURRENT}:
            self.set(name, self.members(name, kept))

    def encode(self) -> bytes:
        """Return the contents of the file."""
        lines = [
            b"%b: %b" % (name, b" ".join(map(_format, ranges)))
            for name, ranges in self._ranges.items()
        ]
        return b"".join(b"%b\n" % line for line in (*lines, *self._others))


def _parse(text: bytes) -> _Ranges:
    ranges = []
    for word in text.split():
        first, _, last = word.partition(b"-")
        ranges.append((int(first), int(last or first)))
    return ranges


def _format(numbers: tuple[int, int]) -> bytes:
    first, last = numbers
    return b"%d" % first if first == last else b"%d-%d" % numbers


def read_sequences(folder: int) -> Sequences:
    """Return the sequences of an open folder, empty ones if it has none.

    Waits for a lock: call it in a thread.

    :raises OSError: the file cannot be locked or read.
    """
    try:
        with _locked_file(folder, os.O_RDONLY, fcntl.LOCK_SH) as fd:
            return Sequences(os.pread(fd, _MAX_OCTETS, 0))
    except FileNotFoundError:
        return Sequences()


@contextmanager
def locked_sequences(folder: int) -> Iterator[LockedSequences]:
    """Lock the sequences of an open folder, whose file is created if there is none.

    The caller calls :meth:`LockedSequences.write`; in the end an empty file is removed.  Waits for
    a lock: call it in a thread.

    :raises OSError: the file cannot be locked or read, or in the end not be removed or closed.
    """
    with _locked_file(folder, os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX) as fd:
        yield LockedSequences(fd)
        if os.fstat(fd).st_size == 0:
            os.unlink(NAME, dir_fd=folder)


class LockedSequences(Sequences):
    """The sequences in an open and locked file."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._before = os.pread(fd, _MAX_OCTETS, 0)
        super().__init__(self._before)

    def write(self) -> None:
        """Write the sequences if they have changed.

        :raises OSError: they cannot be written, and are as they were if the disk is full.
        """
        text = self.encode()
        if len(text) > _MAX_OCTETS:
            raise OSError(errno.EFBIG, "too large to be read again", NAME)
        if text == self._before:
            return
        if text:
            # With one call, so that no interruption leaves a part; and until the file is cut, what
            # follows the last line is a continuation of it without a number.
            padded = text.ljust(len(self._before))
            try:
                if os.pwrite(self._fd, padded, 0) != len(padded):
                    raise OSError(errno.ENOSPC, "written in part", NAME)
            except OSError:
                self._restore()
                raise
        os.ftruncate(self._fd, len(text))
        self._before = text

    def _restore(self) -> None:
        """Write back what was in the file, for which it has room, or had."""
        with suppress(OSError):
            os.pwrite(self._fd, self._before, 0)
            os.ftruncate(self._fd, len(self._before))

    def sync(self) -> None:
        """Write the file to disk.

        :raises OSError: it cannot be written.
        """
        os.fsync(self._fd)


@contextmanager
def _locked_file(folder: int, flags: int, operation: int) -> Iterator[int]:
    """Open and lock the file of an open folder, and close it in the end.

    :raises OSError: it cannot be opened or locked, or in the end not be closed.
    """
    with _excluding_threads(folder):
        fd = _wait_for_lock(folder, flags, operation)
        try:
            yield fd
        finally:
            # What was written may be lost if this fails.
            (os.close if flags & os.O_CREAT else close)(fd)


@contextmanager
def _excluding_threads(folder: int) -> Iterator[None]:
    """Exclude the other threads of this process from the file of an open folder.

    :raises OSError: one has had it for too long.
    """
    status = os.fstat(folder)
    key = status.st_dev, status.st_ino
    with _users_lock:
        thread_lock = _thread_locks.setdefault(key, _ThreadLock())
        thread_lock.users += 1
    try:
        if not thread_lock.lock.acquire(timeout=sum(LOCK_DELAYS)):
            raise OSError(errno.EAGAIN, "another delivery or session has locked it", NAME)
        try:
            yield
        finally:
            thread_lock.lock.release()
    finally:
        with _users_lock:
            thread_lock.users -= 1
            if not thread_lock.users:
                del _thread_locks[key]


def _wait_for_lock(folder: int, flags: int, operation: int) -> int:
    for delay in (*LOCK_DELAYS, None):
        fd = _open_locked(folder, flags, operation)
        if fd is not None:
            return fd
        if delay is not None:
            time.sleep(delay)
    raise OSError(errno.EAGAIN, "another program has locked it", NAME)


def _open_locked(folder: int, flags: int, operation: int) -> int | None:
    """Open and lock the file; return None if another program has locked or removed it."""
    fd = os.open(NAME, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        _check(fd)
        fcntl.lockf(fd, operation | fcntl.LOCK_NB)
        if _is_at_path(folder, fd):
            if flags & os.O_CREAT and os.fstat(fd).st_size == 0:
                _copy_owner(folder, fd)
            return fd
    except BlockingIOError:
        pass
    except BaseException:
        close(fd)
        raise
    close(fd)
    return None


def _check(fd: int) -> None:
    # The server may be root, and the folder belongs to a user.
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1 or status.st_size > _MAX_OCTETS:
        raise OSError(errno.EINVAL, "not a regular file with one name and less than 1 MiB", NAME)


def _is_at_path(folder: int, fd: int) -> bool:
    """Return whether no other program has removed the file, as nmh does with an empty one."""
    try:
        return os.path.samestat(os.stat(NAME, dir_fd=folder), os.fstat(fd))
    except FileNotFoundError:
        return False


def _copy_owner(folder: int, fd: int) -> None:
    status = os.fstat(folder)
    with suppress(PermissionError):
        os.fchown(fd, status.st_uid, status.st_gid)
