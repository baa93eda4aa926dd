"""Appends messages to an mbox file, so that after an interruption none is there in part.

Rules of this file:
 1. What will be appended is first in a journal, a file beside the mbox file, with the length of
    that; the journal is complete, and on disk, before the mbox file is changed.
 2. After the mbox file is on disk, the journal is removed.  Where its directory cannot be synced,
    it is emptied as well, so that a power loss cannot bring it back.
 3. Whoever opens the mbox file and finds a journal removes again what was appended, under the same
    locks.  Mail that other programs have appended since stays, even if it begins where the text was
    broken off.
 4. Nothing is written over mail that a program without a lock appends meanwhile, except within
    microseconds: the append then fails, and is undone.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from hashlib import blake2b

from popserv.maildrops.mbox.from_line import MARK, MAX_LENGTH, from_line_length
from popserv.maildrops.mbox.rewriting import Edit, cut, read_at, rewrite, write_at
from popserv.maildrops.mbox.spool_group import in_spool_group
from popserv.runtime.closing import close

_CHUNK = 1 << 20
_HEAD = re.compile(rb"popserv append 1 ([0-9]{20}) ((?:[0-9a-f]{2})*) *([0-9a-f]{32})\n")
_HEAD_FORM = b"popserv append 1 %020d %-6b %b\n"
_HEAD_LENGTH = len(_HEAD_FORM % (0, b"", b"0" * 32))

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_MAX_OVERLAP = 100
"""The octets that a From_ line of another program may have in common with what was to follow."""


def journal_name(name: bytes) -> bytes:
    """Return the name of the journal of an mbox file; no user has a name that starts with a dot."""
    return b".%b.popserv-append" % name


class Batch:
    """Messages that will be appended to the mbox file ``name`` in an open directory.

    ``suffix`` is that of the file that becomes the journal: those of a batch that is made under the
    lock of sessions, and of one that is made under the locks of deliveries, must differ.

    All methods wait for the disk: call them in a thread.
    """

    def __init__(self, parent: int, name: bytes, suffix: bytes = b".new") -> None:
        # The session may come to have another directory open.
        self._parent = os.dup(parent)
        self._name = journal_name(name)
        self._new_name = self._name + suffix
        self._fd: int | None = None
        self._digest = blake2b(digest_size=16)
        self.octets = 0

    def add(self, chunks: Iterable[bytes]) -> None:
        """Add the chunks of messages, each with its From_ line and a blank line after it.

        :raises OSError: they cannot be written; the batch is what it was.
        :raises Exception: as the chunks, likewise.
        """
        if self._fd is None:
            with in_spool_group(self._parent):
                with suppress(FileNotFoundError):
                    os.unlink(self._new_name, dir_fd=self._parent)
                self._fd = os.open(self._new_name, _CREATE, 0o600, dir_fd=self._parent)
        octets, digest = self.octets, self._digest.copy()
        for chunk in chunks:
            digest.update(chunk)
            write_at(self._fd, chunk, _HEAD_LENGTH + octets)
            octets += len(chunk)
        self.octets, self._digest = octets, digest

    def append(self, fd: int, touch: Callable[[], None]) -> None:
        """Append the batch to the open and locked mbox file.

        The batch is empty afterwards, also after an error.

        :raises OSError: the batch was not appended; the file has its former contents, unless they
            could not be restored either.
        """
        if self._fd is None or not self.octets:
            return
        octets, digest = self.octets, self._digest.hexdigest().encode("ascii")
        self.octets, self._digest = 0, blake2b(digest_size=16)
        parent, size = self._parent, os.fstat(fd).st_size
        separator = _separator(fd, size)
        head = _HEAD_FORM % (size, separator.hex().encode("ascii"), digest)
        # What was added last may have failed.
        os.ftruncate(self._fd, _HEAD_LENGTH + octets)
        write_at(self._fd, head, 0)
        # If this is interrupted, a session of that user has to remove the journal.
        owner = os.fstat(fd)
        with suppress(PermissionError):
            os.fchown(self._fd, owner.st_uid, owner.st_gid)
        os.fsync(self._fd)
        with in_spool_group(parent):
            os.rename(self._new_name, self._name, src_dir_fd=parent, dst_dir_fd=parent)
        journal, self._fd = self._fd, None
        tail = _Tail(fd, size)
        try:
            if not _sync(parent):
                os.fsync(journal)
            tail.write(separator)
            for offset in range(0, octets, _CHUNK):
                touch()
                tail.write(read_at(journal, min(_CHUNK, octets - offset), _HEAD_LENGTH + offset))
            os.fsync(fd)
        except OSError:
            tail.cut(touch)
            # If that fails, the next session finds nothing to undo.
            with suppress(OSError):
                self._remove(journal)
            raise
        else:
            self._remove(journal)
        finally:
            close(journal)

    def _remove(self, journal: int) -> None:
        with in_spool_group(self._parent):
            os.unlink(self._name, dir_fd=self._parent)
        if not _sync(self._parent):
            os.ftruncate(journal, 0)
            os.fsync(journal)

    def close(self) -> None:
        """Drop what was not appended."""
        try:
            if self._fd is not None:
                close(self._fd)
                with suppress(OSError), in_spool_group(self._parent):
                    os.unlink(self._new_name, dir_fd=self._parent)
        finally:
            close(self._parent)


class _Tail:
    """What is appended to a file of ``size`` octets, up to ``_end``."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd, self._size, self._end = fd, size, size

    def write(self, text: bytes) -> None:
        rest = memoryview(text)
        while rest:
            if os.fstat(self._fd).st_size != self._end:
                raise OSError(errno.EAGAIN, "another program appends to it without a lock")
            written = os.pwrite(self._fd, rest, self._end)
            self._end += written
            rest = rest[written:]

    def cut(self, touch: Callable[[], None]) -> None:
        """Remove what was written, but nothing that follows it."""
        cut(self._fd, self._size, self._end, touch)
        os.fsync(self._fd)


def _separator(fd: int, size: int) -> bytes:
    """Return what must be between the messages of a file and another one: an empty line."""
    end = read_at(fd, 3, max(0, size - 3))
    if not end or end.endswith((b"\n\n", b"\n\r\n")):
        return b""
    if end.endswith(b"\n"):
        return b"\n"
    # A CR at the end is data, and stays so.
    return b"\r\n\n" if end.endswith(b"\r") else b"\n\n"


def _sync(parent: int) -> bool:
    """Write the names in an open directory to disk; return whether that is permitted.

    ``parent`` may be open for searching only.
    """
    try:
        directory = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
    except PermissionError:
        return False
    try:
        os.fsync(directory)
    finally:
        close(directory)
    return True


def has_journal(parent: int, name: bytes) -> bool:
    """Return whether an append to an mbox file in an open directory was interrupted."""
    try:
        os.stat(journal_name(name), dir_fd=parent, follow_symlinks=False)
    except OSError as error:
        # For a file whose name is long, the name of a journal would be too long.
        if error.errno in (errno.ENOENT, errno.ENAMETOOLONG):
            return False
        raise
    return True


def undo_append(fd: int, parent: int, name: bytes, touch: Callable[[], None]) -> None:
    """Remove what an interrupted append has left in the open and locked mbox file.

    If another program has rewritten the file since, nothing is removed.

    :raises OSError: the file cannot be changed, or the journal not be read or removed.
    """
    try:
        journal = os.open(journal_name(name), _READ, dir_fd=parent)
    except FileNotFoundError:
        return
    try:
        found = _read_head(journal, {0, os.geteuid(), os.fstat(fd).st_uid})
        if found is not None:
            _undo(fd, journal, *found, touch)
    finally:
        close(journal)
    with in_spool_group(parent):
        os.unlink(journal_name(name), dir_fd=parent)
        _sync(parent)


def _read_head(journal: int, owners: Collection[int]) -> tuple[int, bytes] | None:
    """Return the old length of the mbox file and the separator; None for no valid journal.

    In a directory where all users can write, such as ``/var/mail`` with the mode 1777, each could
    make one for another user's file: it is valid if it belongs to one of ``owners``.
    """
    status = os.fstat(journal)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1 or status.st_uid not in owners:
        return None
    head = _HEAD.fullmatch(read_at(journal, _HEAD_LENGTH, 0))
    digest = blake2b(digest_size=16)
    for offset in range(_HEAD_LENGTH, status.st_size, _CHUNK):
        digest.update(read_at(journal, _CHUNK, offset))
    if head is None or head[3] != digest.hexdigest().encode("ascii"):
        return None
    return int(head[1]), bytes.fromhex(head[2].decode("ascii"))


def _undo(fd: int, journal: int, size: int, separator: bytes, touch: Callable[[], None]) -> None:
    now = os.fstat(fd).st_size
    common = _common_prefix(fd, size, journal, separator)
    if size + common < now:
        # Mail that another program has appended begins near the place where they differ.
        start = max(0, common - _MAX_OVERLAP)
        text = read_at(fd, 2 * MAX_LENGTH, size + start)
        places = (at for at in range(common - start, -1, -1) if text.startswith(MARK, at))
        found = next((at for at in places if from_line_length(text[at : at + MAX_LENGTH])), None)
        common = 0 if found is None else start + found
    if common:
        rewrite(fd, now, [Edit(size, size + common)], [size], touch)


def _common_prefix(fd: int, size: int, journal: int, separator: bytes) -> int:
    """Return how many octets of the file after ``size`` are those that were to be appended."""
    written = read_at(fd, len(separator), size)
    common = _common_octets(written, separator)
    if common < len(separator):
        return common
    offset = _HEAD_LENGTH
    while True:
        written = read_at(fd, _CHUNK, size + common)
        wanted = read_at(journal, len(written), offset)
        if written != wanted or not written:
            return common + _common_octets(written, wanted)
        common += len(written)
        offset += len(written)


def _common_octets(text: bytes, other: bytes) -> int:
    """Return how many octets at the start of two texts are the same."""
    pairs = enumerate(zip(text, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(text), len(other)))
