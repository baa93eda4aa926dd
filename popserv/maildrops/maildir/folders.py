"""new/ and cur/ of one Maildir: what is in them, where it is now, and its bytes.

Only regular files are mail; everything is opened relative to its directory and
never through a link.  All of it may block, save opening one file and reading what
the page cache holds.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
import time
from array import array
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any

from twisted.logger import Logger

from popserv.errors import MaildropBusy
from popserv.maildrops.maildir.cached_open import is_local_filesystem, open_cached
from popserv.messages.framing import Chunk
from popserv.messages.octets import count_message
from popserv.messages.sizes import MessageCounter, Sizes

_log = Logger()

Run = Callable[..., Awaitable[Any]]
"""Calls a function with arguments where blocking is no harm, and returns what it returns."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MESSAGE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_GONE = (errno.ENOENT, errno.ELOOP, errno.ENXIO)

_CHUNK = 1 << 17
_SMALL = 1 << 14
_NAMES = 1024

_SPREAD = 0x9E37_79B9_7F4A_7C15

# Elsewhere than on Linux a flag that no preadv takes, so that all is read in threads.
_NOWAIT: int = getattr(os, "RWF_NOWAIT", -1)
# CLOCK_REALTIME_COARSE: what Linux takes the times of files from, late by a tick or, while a
# virtual machine is held up, by much more.
_CLOCK = 5 if sys.platform == "linux" else time.CLOCK_REALTIME
TRIES = 5
"""How often to read again what changed while it was read."""
_TICK = 20_000_000
"""Nanoseconds in which some kernels give two changes of a directory the same time."""
_REST = 2_000_000_000
"""The same for any file system: some keep whole seconds, and a file server's clock is its own."""

Times = list[tuple[int, ...]]
"""For each folder that is there its number, device, inode, and times in nanoseconds."""


class Counts:
    """Columns of messages that were counted: names, sizes and stamps; and if some were ``missed``.

    Messages that have another ``downgraded`` form, and ``endless`` ones, are known by position,
    as in :class:`~popserv.core.snapshot.Snapshot`.
    """

    def __init__(self) -> None:
        self.uniques: list[bytes] = []
        self.octets = array("Q")
        self.stamps = array("Q")
        self.downgraded: dict[int, int] = {}
        self.header_only: list[int] = []
        self.missed = False

    def add(self, unique: bytes, octets: int, has_blank_line: bool, stamp: int) -> None:
        """Take a message in."""
        if not has_blank_line:
            self.header_only.append(len(self.uniques))
        self.uniques.append(unique)
        self.octets.append(octets)
        self.stamps.append(stamp)


_NONE: frozenset[bytes] = frozenset()


class Folders:
    """new/ and cur/ of one Maildir, which is held open, and they while they are used.

    A message's *place* is the number of its folder in one byte, then what follows
    the unique part in its name; a few of these serve any number of messages.
    """

    __slots__ = ("_folders", "at_rest", "maildir", "times", "twice")

    def __init__(self, maildir: int) -> None:
        self.maildir = maildir
        self._folders: dict[int, int] = {}
        self.twice = _NONE
        self.at_rest = False
        self.times: Times | None = None

    def lock(self) -> None:
        """Take the lock."""
        try:
            fcntl.flock(self.maildir, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MaildropBusy from None

    def _open_folders(self, warm: bool = False) -> None:
        """Open what is not open yet; a folder that is not there holds nothing."""
        for number, name in enumerate((b"new", b"cur")):
            if number not in self._folders:
                with suppress(FileNotFoundError):
                    self._folders[number] = (
                        open_cached(name, _FOLDER, self.maildir)
                        if warm
                        else os.open(name, _FOLDER, dir_fd=self.maildir)
                    )

    def _folder(self, number: int) -> int:
        """Return an open file descriptor of a folder that was there."""
        fd = self._folders.get(number)
        if fd is None:
            name = (b"new", b"cur")[number]
            fd = self._folders[number] = os.open(name, _FOLDER, dir_fd=self.maildir)
        return fd

    def are_as_at(self, times: Times | None, *, warm: bool = False) -> bool:
        """Tell whether nothing came, went or was renamed since the scan that had these times.

        If ``warm``, do so without waiting for a disk, or raise OSError.
        """
        self._open_folders(warm)
        return self._changed() == times

    def never_ask(self) -> bool:
        """Tell whether ``warm`` is for them."""
        return all(map(is_local_filesystem, (self.maildir, *self._folders.values())))

    def rest(self) -> None:
        """Hold no more than the lock; what is used again is opened again."""
        folders, self._folders = self._folders, {}
        for fd in folders.values():
            os.close(fd)

    def close(self) -> None:
        """Close everything, and give up the lock with it."""
        self.rest()
        os.close(self.maildir)

    def scan(self) -> dict[bytes, bytes]:
        """Return each message's place by its unique part, and note which came ``twice``.

        A file that is renamed while its directory is read may be seen twice or
        not at all, so that a change meanwhile means to read again.  ``at_rest``
        is true afterwards if no change can have gone unseen.  ``times`` are then those
        of which any later change makes others, or None if a change can leave them.
        """
        for _ in range(TRIES):
            self._open_folders()
            began = time.clock_gettime_ns(_CLOCK)
            before = self._changed()
            found: dict[bytes, bytes] = {}
            twice: set[bytes] = set()
            # new/ before cur/, whichever was opened first: so what moves on is seen, if not twice.
            for number, folder in sorted(self._folders.items()):
                self._list(number, folder, found, twice)
            self.twice = frozenset(twice)
            unchanged = self._changed() == before
            latest = max((max(folder[-2:]) for folder in before), default=0)
            self.at_rest = unchanged and latest + _TICK < began
            self.times = before if unchanged and latest + _REST < began else None
            if unchanged:
                break
        return found

    def _changed(self) -> Times:
        # Programs that copy set st_mtime to what it was elsewhere; nobody sets st_ctime.
        times: Times = []
        for number, fd in sorted(self._folders.items()):
            now = os.fstat(fd)
            times.append((number, now.st_dev, now.st_ino, now.st_mtime_ns, now.st_ctime_ns))
        return times

    def _list(self, number: int, folder: int, found: dict[bytes, bytes], twice: set[bytes]) -> None:
        places: dict[bytes, bytes] = {}
        with os.scandir(folder) as scanned:
            entries = iter(scanned)
            # In pieces, for to decode each name by itself has its price.
            while piece := list(islice(entries, _NAMES)):
                names = [
                    entry.name
                    for entry in piece
                    if entry.name[0] != "." and entry.is_file(follow_symlinks=False)
                ]
                for name in os.fsencode("\0".join(names)).split(b"\0") if names else ():
                    unique, colon, flags = name.partition(b":")
                    rest = colon + flags
                    place = places.get(rest)
                    if place is None:
                        place = places[rest] = bytes([number]) + rest
                    if found.setdefault(unique, place) is not place:
                        twice.add(unique)
                        found[unique] = place

    def count(self, uniques: Iterable[bytes], found: Mapping[bytes, bytes]) -> Counts:
        """Count these of the messages that a scan has found, as far as they can be read."""
        counts = Counts()
        ways = {place: (place[1:], self._folders[place[0]]) for place in set(found.values())}
        for unique in uniques:
            rest, folder = ways[found[unique]]
            try:
                fd = os.open(unique + rest, _MESSAGE, dir_fd=folder)
            except PermissionError as error:
                _log.warn("message skipped: {error}", error=error)
                # It may be let in by what changes no folder.
                self.times = None
                continue
            except OSError as error:
                if error.errno not in _GONE:
                    raise
                counts.missed = True
                continue
            try:
                now = os.fstat(fd)
                if not stat.S_ISREG(now.st_mode):
                    counts.missed = True
                    continue
                # One length for all is what the allocator likes best.
                text = os.read(fd, _SMALL) if now.st_size < _SMALL else b""
                if len(text) == now.st_size and text.isascii():
                    counts.add(unique, *count_message(text), stamp_of(now))
                else:
                    sizes, stamp = count_file(fd)
                    if sizes.downgraded is not None:
                        counts.downgraded[len(counts.uniques)] = sizes.downgraded
                    counts.add(unique, sizes.octets, sizes.has_blank_line, stamp)
            finally:
                os.close(fd)
        if counts.missed:
            self.times = None
        return counts

    def open(self, place: bytes, unique: bytes) -> tuple[int, os.stat_result] | None:
        """Return an open file descriptor and its status, or None if no regular file is there."""
        try:
            fd = os.open(unique + place[1:], _MESSAGE, dir_fd=self._folder(place[0]))
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode):
            return fd, found
        os.close(fd)
        return None

    def mark_seen(self, place: bytes, unique: bytes) -> bool:
        """Give a message the flag S, in cur/, where alone messages have flags.

        False if it is not there.  One of the name that it would get is left alone with it.
        """
        seen = seen_place(place)
        name, folder = unique + seen[1:], self._folder(seen[0])
        if seen == place or _is_there(name, folder):
            return True
        try:
            os.rename(
                unique + place[1:], name, src_dir_fd=self._folder(place[0]), dst_dir_fd=folder
            )
        except FileNotFoundError:
            return False
        return True

    def unlink(self, place: bytes, unique: bytes) -> bool:
        """Remove a message; False if it is not there."""
        try:
            os.unlink(unique + place[1:], dir_fd=self._folder(place[0]))
        except FileNotFoundError:
            return False
        return True

    def sync(self) -> None:
        """Make removals durable."""
        for fd in self._folders.values():
            os.fsync(fd)


_FLAGS = b":2,"
"""What begins the flags in a name; what begins otherwise is of some other kind."""


def is_seen(place: bytes) -> bool:
    """Tell whether a message in this place has the flag S."""
    return place[1:4] == _FLAGS and b"S" in place[4:]


def seen_place(place: bytes) -> bytes:
    """Return the place of a message that gets the flag S; the same if it has it, or cannot."""
    if place[1:4] not in (_FLAGS, b"") or is_seen(place):
        return place
    return b"\1" + _FLAGS + bytes(sorted(place[4:] + b"S"))


def _is_there(name: bytes, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def stamp_of(found: os.stat_result) -> int:
    """Return 64 bits that change when a file's content does, the same in every process."""
    return (found.st_mtime_ns + found.st_size * _SPREAD) & 0xFFFF_FFFF_FFFF_FFFF


def count_file(fd: int) -> tuple[Sizes, int]:
    """Return a file's sizes and, from before they were read, its stamp."""
    counter = MessageCounter()
    now = os.fstat(fd)
    os.lseek(fd, 0, os.SEEK_SET)
    octets = min(now.st_size + 1, _CHUNK)
    while chunk := os.read(fd, octets):
        counter.feed(chunk)
    return counter.finish(), stamp_of(now)


def body_of(fd: int, octets: int, run: Run) -> Iterable[Chunk]:
    """Return the chunks of a file of so many octets, and close it after them."""
    if octets <= _CHUNK:
        whole = _cached(fd, octets, 0)
        if whole is not None:
            os.close(fd)
            return (whole,)
    return _FileBody(fd, octets, run)


class _FileBody:
    """The chunks of an open file: at once if the page cache has them, else from a thread."""

    def __init__(self, fd: int, octets: int, run: Run) -> None:
        self._fd = fd
        self._run = run
        self._size = octets
        self._offset = 0

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        octets = min(_CHUNK, self._size - self._offset)
        if octets <= 0:
            raise StopIteration
        offset, self._offset = self._offset, self._offset + octets
        return _cached(self._fd, octets, offset) or self._run(_read, self._fd, octets, offset)

    def close(self) -> None:
        """Close the file; not under a read."""
        os.close(self._fd)


# The reactor's thread alone reads into it.
_BUFFER = memoryview(bytearray(_CHUNK))


def _cached(fd: int, octets: int, offset: int) -> bytes | None:
    """Return a part of a file if the page cache has it all."""
    part = _BUFFER[:octets]
    try:
        got = os.preadv(fd, (part,), offset, _NOWAIT)
    except OSError:
        return None
    return bytes(part) if got == octets else None


def _read(fd: int, octets: int, offset: int) -> bytes:
    chunk = os.pread(fd, octets, offset)
    if len(chunk) < octets:
        raise OSError(errno.EIO, "a message has become shorter")
    return chunk
