"""Maildir: a file a message in new/ and cur/, one Maildir a user.

Rules of this file:
 1. Other programs deliver, rename (flags, new/ to cur/) and remove at any time and
    lock nothing.  A message is found again by the unique part of its name, the
    part before ``:``, or it has vanished.
 2. Nothing is renamed or removed but what a session asks to remove.
 3. Only regular files are mail; messages, new/ and cur/ are opened relative to
    their directory and never through a link.
 4. Octets are counted from the bytes, once a message.  ``,W=`` in a name is another
    program's word: Dovecot's leaves out the CRLF that a last line without end gets.
 5. The lock is flock(2) on the Maildir's directory: it needs no file of its own and
    no permission to write, and goes with the process however that ends.
 6. Whatever may block runs in a thread, save opening one file and reading what the
    page cache holds.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from array import array
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from heapq import merge
from typing import Any, NamedTuple

from twisted.logger import Logger
from zope.interface import implementer

from popserv.errors import (
    MaildropBusy,
    MaildropUnavailable,
    NoSuchMessage,
    POPError,
    RemovalFailed,
    TryLater,
)
from popserv.interfaces import IMailbox, IMaildropFactory
from popserv.maildrop import Message, Snapshot, legal_uid
from popserv.maildrops.layout import Layout
from popserv.threads import Threads
from popserv.wire import Chunk, OctetCounter

_log = Logger()
_disk = Threads("popserv-disk", threads=4)

Run = Callable[..., Awaitable[Any]]
"""Calls a function with arguments where blocking is no harm, and returns what it returns."""

_CHUNK = 1 << 17

# Elsewhere than on Linux a flag that no preadv takes, so that all is read in threads.
_NOWAIT: int = getattr(os, "RWF_NOWAIT", -1)
_TRIES = 5
_PATIENCE = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)
"""Seconds to wait, one after the other, for another program to be done with its renames."""
_TICK = 20_000_000
"""Nanoseconds in which some kernels give two changes of a directory the same time."""

_PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOLCK, errno.ESTALE})
"""Errors that say nothing about the maildrop."""


class _Known(NamedTuple):
    """What an earlier session learnt of a maildrop: the messages' names, octets and stamps."""

    uniques: Sequence[bytes]
    octets: Sequence[int]
    stamps: Sequence[int]


_NOTHING = _Known((), (), ())


@implementer(IMaildropFactory)
class MaildirMaildrops:
    """The Maildirs of a :class:`~popserv.maildrops.layout.Layout`.

    The octets of up to ``remember`` messages are kept from session to session, at
    some 120 bytes of memory each.
    """

    def __init__(self, template: str, *, remember: int = 500_000, run: Run = _disk.run) -> None:
        self._layout = Layout(template)
        self._run = run
        self._room = remember
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._empty: set[bytes] = set()

    async def open_maildrop(self, user: bytes) -> IMailbox:
        """See IMaildropFactory."""
        known = self._known.get(user, _NOTHING)
        mailbox: MaildirMailbox | None = await self._run(self._open, user, known)
        if mailbox is not None:
            self._remember(user, mailbox.learnt())
            return mailbox
        if user in self._empty:
            raise MaildropBusy
        self._empty.add(user)
        return EmptyMailbox(partial(self._empty.remove, user))

    def _open(self, user: bytes, known: _Known) -> MaildirMailbox | None:
        """Open in a thread; None if nothing was ever delivered."""
        try:
            fd = self._layout.open(user)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise _unavailable(error) from error
        folders = _Folders(fd)
        try:
            folders.lock()
            return MaildirMailbox(folders, known, self._run, partial(self._forget, user))
        except BaseException as error:
            folders.close()
            if isinstance(error, OSError):
                raise _unavailable(error) from error
            raise

    def _forget(self, user: bytes) -> None:
        self._room += len(self._known.pop(user, _NOTHING).octets)

    def _remember(self, user: bytes, known: _Known) -> None:
        """Keep what was learnt, and let go of what was used least recently."""
        self._forget(user)
        self._room -= len(known.octets)
        self._known[user] = known
        while self._room < 0:
            _, oldest = self._known.popitem(last=False)
            self._room += len(oldest.octets)


def _unavailable(error: OSError | ValueError, *text: bytes) -> POPError:
    passing = isinstance(error, OSError) and error.errno in _PASSING
    return TryLater() if passing else MaildropUnavailable(*text)


@implementer(IMailbox)
class EmptyMailbox:
    """What a user has to whom nothing was ever delivered."""

    messages = Snapshot()

    def __init__(self, unlock: Callable[[], None]) -> None:
        self._unlock = unlock

    async def open(self, message: Message) -> Iterable[Chunk]:
        """See IMailbox."""
        raise NoSuchMessage

    async def remove(self, messages: Iterable[Message]) -> None:
        """See IMailbox."""

    async def release(self) -> None:
        """See IMailbox."""
        self._unlock()


@implementer(IMailbox)
class MaildirMailbox:
    """One Maildir, under its lock; made and asked to remove in a thread.

    ``uniques`` are the messages' names up to the ``:``, in order: by the time of
    delivery that a name starts with, then by name.
    """

    def __init__(
        self, folders: _Folders, known: _Known, run: Run, forget: Callable[[], None]
    ) -> None:
        self._folders = folders
        self._run = run
        self._forget = forget
        learnt = zip(known.uniques, known.octets, known.stamps, strict=True)
        counted = {unique: (octets, stamp) for unique, octets, stamp in learnt}
        for _ in range(_TRIES):
            found = folders.scan()
            missed = folders.count(found, counted)
            if not missed:
                break
        self.uniques = _in_order([unique for unique in found if unique in counted])
        self._places: list[bytes | None] = [found[unique] for unique in self.uniques]
        # One that came twice is never looked for: what is found might be the other.
        self._doubles = folders.twice
        self._stamps = array("Q", [counted[unique][1] for unique in self.uniques])
        self.messages = Snapshot(
            [counted[unique][0] for unique in self.uniques],
            [legal_uid(unique) for unique in self.uniques],
        )

    def learnt(self) -> _Known:
        """Return what a later session may rely on."""
        if self._doubles:
            # Octets are remembered by the unique part, which is not unique here.
            return _NOTHING
        return _Known(self.uniques, self.messages.octets, self._stamps)

    async def open(self, message: Message) -> Iterable[Chunk]:
        """See IMailbox."""
        at = message.position
        try:
            fd = self._open(at)
            if fd is None:
                await self._run(self._look_again)
                fd = self._open(at)
        except OSError as error:
            raise _unavailable(error, b"message cannot be read, tell the operator") from error
        if fd is None:
            raise NoSuchMessage
        body = _FileBody(fd, self._run)
        if body.stamp != self._stamps[at]:
            try:
                await self._recount(message, fd)
            except BaseException:
                body.close()
                raise
        return body

    async def _recount(self, message: Message, fd: int) -> None:
        """Refuse a changed message if its octets, told already, are not those to be sent."""
        octets, stamp = await self._run(_count, fd)
        if octets != message.octets:
            self._forget()
            raise TryLater(b"the message has changed, log in again")
        self._stamps[message.position] = stamp

    def _open(self, at: int) -> int | None:
        place = self._places[at]
        return None if place is None else self._folders.open(place, self.uniques[at])

    def _look_again(self) -> bool:
        """Note where every message is now; tell whether what was not found is gone; in a thread."""
        found = self._folders.scan()
        self._places = [
            place if unique in self._doubles else found.get(unique)
            for unique, place in zip(self.uniques, self._places, strict=True)
        ]
        return self._folders.at_rest

    async def remove(self, messages: Iterable[Message]) -> None:
        """See IMailbox."""
        await self._run(self._remove, [message.position for message in messages])

    def _remove(self, wanted: list[int]) -> None:
        refused: list[OSError] = []
        lost: OSError | None = None
        for seconds in _PATIENCE:
            wanted = [at for at in wanted if not self._unlink(at, refused)]
            if not wanted:
                break
            time.sleep(seconds)
            try:
                settled = self._look_again()
            except OSError as error:
                lost = error
                break
            if settled:
                wanted = [at for at in wanted if self._places[at] is not None]
        self._folders.sync()
        if refused or wanted:
            raise RemovalFailed(len(refused) + len(wanted)) from [*refused, lost][0]

    def _unlink(self, at: int, refused: list[OSError]) -> bool:
        """Tell whether the message is dealt with; one that is not must be looked for."""
        place = self._places[at]
        try:
            return place is not None and self._folders.unlink(place, self.uniques[at])
        except OSError as error:
            refused.append(error)
            return True

    async def release(self) -> None:
        """See IMailbox."""
        self._folders.close()


class _Folders:
    """new/ and cur/ of one Maildir, held open.

    A message's *place* is the number of its folder in one byte, then what follows
    the unique part in its name; a few of these serve any number of messages.
    """

    def __init__(self, maildir: int) -> None:
        self._maildir = maildir
        self._folders: dict[int, int] = {}
        self.twice: frozenset[bytes] = frozenset()
        self.at_rest = False

    def lock(self) -> None:
        """Take the lock."""
        try:
            fcntl.flock(self._maildir, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MaildropBusy from None

    def _open_folders(self) -> None:
        """Open what is not open yet; a folder that is not there holds nothing."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        for number, name in enumerate((b"new", b"cur")):
            if number not in self._folders:
                with suppress(FileNotFoundError):
                    self._folders[number] = os.open(name, flags, dir_fd=self._maildir)

    def close(self) -> None:
        """Close everything, and give up the lock with it."""
        for fd in (*self._folders.values(), self._maildir):
            os.close(fd)

    def scan(self) -> dict[bytes, bytes]:
        """Return each message's place by its unique part, and note which came ``twice``.

        A file that is renamed while its directory is read may be seen twice or
        not at all, so that a change meanwhile means to read again.  ``at_rest``
        is true afterwards if no change can have gone unseen.
        """
        for _ in range(_TRIES):
            self._open_folders()
            began = time.time_ns()
            before = self._changed()
            found: dict[bytes, bytes] = {}
            twice: set[bytes] = set()
            for number, folder in self._folders.items():
                self._list(number, folder, found, twice)
            self.twice = frozenset(twice)
            unchanged = self._changed() == before
            self.at_rest = unchanged and max(before, default=0) + _TICK < began
            if unchanged:
                break
        return found

    def _changed(self) -> list[int]:
        return [os.fstat(fd).st_mtime_ns for fd in self._folders.values()]

    def _list(self, number: int, folder: int, found: dict[bytes, bytes], twice: set[bytes]) -> None:
        start = bytes([number])
        shared: dict[bytes, bytes] = {}
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name[0] != "." and entry.is_file(follow_symlinks=False):
                    unique, colon, flags = os.fsencode(entry.name).partition(b":")
                    place = start + colon + flags
                    if unique in found:
                        twice.add(unique)
                    found[unique] = shared.setdefault(place, place)

    def count(self, found: dict[bytes, bytes], counted: dict[bytes, tuple[int, int]]) -> bool:
        """Add the octets and stamps that are lacking; tell if a message was not in its place."""
        missed = False
        for unique, place in found.items():
            if unique not in counted:
                try:
                    fd = self.open(place, unique)
                except PermissionError as error:
                    _log.warn("a message is left out: {error}", error=error)
                    continue
                if fd is None:
                    missed = True
                else:
                    try:
                        counted[unique] = _count(fd)
                    finally:
                        os.close(fd)
        return missed

    def open(self, place: bytes, unique: bytes) -> int | None:
        """Return an open file descriptor, or None if no regular file is there."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(unique + place[1:], flags, dir_fd=self._folders[place[0]])
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
                return None
            raise
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        return None

    def unlink(self, place: bytes, unique: bytes) -> bool:
        """Remove a message; False if it is not there."""
        try:
            os.unlink(unique + place[1:], dir_fd=self._folders[place[0]])
        except FileNotFoundError:
            return False
        return True

    def sync(self) -> None:
        """Make removals durable."""
        for fd in self._folders.values():
            os.fsync(fd)


def _stamp(found: os.stat_result) -> int:
    """Return 64 bits that change when a file's content does."""
    return hash((found.st_size, found.st_mtime_ns)) & 0xFFFF_FFFF_FFFF_FFFF


def _count(fd: int) -> tuple[int, int]:
    """Return a file's octets and, from before they were read, its stamp."""
    counter = OctetCounter()
    stamp = _stamp(os.fstat(fd))
    while chunk := os.read(fd, _CHUNK):
        counter.feed(chunk)
    return counter.finish(), stamp


def _delivered(unique: bytes) -> tuple[int, bytes]:
    """Return what messages are put in order by."""
    seconds = unique.partition(b".")[0]
    return int(seconds) if seconds.isdigit() and len(seconds) < 20 else 0, unique


def _in_order(uniques: list[bytes]) -> list[bytes]:
    # One long sort() would let no other thread run: sort pieces, and merge them.
    pieces = (uniques[at : at + 4096] for at in range(0, len(uniques), 4096))
    return list(merge(*(sorted(piece, key=_delivered) for piece in pieces), key=_delivered))


class _FileBody:
    """The chunks of an open file: at once if the page cache has them, else from a thread."""

    def __init__(self, fd: int, run: Run) -> None:
        self._fd = fd
        self._run = run
        found = os.fstat(fd)
        self.stamp = _stamp(found)
        self._size = found.st_size
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
        os.close(self._fd)


def _cached(fd: int, octets: int, offset: int) -> bytes | None:
    """Return a part of a file if the page cache has it all."""
    buffer = bytearray(octets)
    try:
        got = os.preadv(fd, [buffer], offset, _NOWAIT)
    except OSError:
        return None
    return bytes(buffer) if got == octets else None


def _read(fd: int, octets: int, offset: int) -> bytes:
    chunk = os.pread(fd, octets, offset)
    if len(chunk) < octets:
        raise OSError(errno.EIO, "a message has become shorter")
    return chunk
