"""Maildir: a file a message in new/ and cur/, one Maildir a user.

Rules of this store, here and in folders.py:
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
 7. What was found is shown again only while device, inode and times of new/ and cur/
    are those from before the scan, and only if any change since would have made others.
"""

from __future__ import annotations

import errno
import time
from array import array
from bisect import bisect
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from heapq import merge
from typing import NamedTuple

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
from popserv.maildrop import Message, Snapshot, legal_uid, picked
from popserv.maildrops.folders import TRIES, Counted, FileBody, Folders, Run, Times, count_file
from popserv.maildrops.layout import Layout
from popserv.texts import Text
from popserv.threads import Threads
from popserv.wire import Chunk

_disk = Threads("popserv-disk", threads=4)

_PATIENCE = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)
"""Seconds to wait, one after the other, for another program to be done with its renames."""

_PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOLCK, errno.ESTALE})
"""Errors that say nothing about the maildrop."""


class _Known(NamedTuple):
    """What a scan found, for the session that it was made for and for later ones.

    ``uniques`` are the messages' names up to the ``:``, in order: by the time of
    delivery that a name starts with, then by name.  Of the messages ``doubles`` there was
    more than one file.  ``times`` are None if the next session has to look again anyhow;
    ``warm`` tells whether it may look without a thread.
    """

    uniques: tuple[bytes, ...]
    places: tuple[bytes | None, ...]
    stamps: array[int]
    messages: Snapshot
    times: Times | None
    warm: bool
    doubles: frozenset[bytes] = frozenset()


_NOTHING = _Known((), (), array("Q"), Snapshot(), None, False)

_MAILDROP = 10
"""What a maildrop itself takes of memory, in messages."""


@implementer(IMaildropFactory)
class MaildirMaildrops:
    """The Maildirs of a :class:`~popserv.maildrops.layout.Layout`.

    Up to ``remember`` messages are kept from session to session, those of the maildrops
    used last, at some 200 bytes of memory each: name, place, octets, stamp and lines of
    listings.  A maildrop counts as ten messages more.
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
        mailbox = self._open_warm(user, known) if known.warm else None
        if mailbox is None:
            mailbox = await self._run(self._open, user, known)
        if mailbox is not None:
            self._remember(user, mailbox.known)
            return mailbox
        if user in self._empty:
            raise MaildropBusy
        self._empty.add(user)
        return EmptyMailbox(partial(self._empty.remove, user))

    def _open_warm(self, user: bytes, known: _Known) -> MaildirMailbox | None:
        """Open what is as it was, if no disk must be waited for."""
        try:
            folders = Folders(self._layout.open_warm(user))
        except OSError:
            return None
        # Whatever is in the way, the thread finds out what to say of it.
        with suppress(OSError, MaildropBusy):
            folders.lock()
            if folders.are_as_at(known.times, warm=True):
                return self._mailbox(user, folders, known)
        folders.close()
        return None

    def _open(self, user: bytes, known: _Known) -> MaildirMailbox | None:
        """Open in a thread; None if nothing was ever delivered."""
        try:
            fd = self._layout.open(user)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise _unavailable(error) from error
        folders = Folders(fd)
        try:
            folders.lock()
            if not folders.are_as_at(known.times):
                known = _look(folders, known)
            return self._mailbox(user, folders, known)
        except BaseException as error:
            folders.close()
            if isinstance(error, OSError):
                raise _unavailable(error) from error
            raise

    def _mailbox(self, user: bytes, folders: Folders, known: _Known) -> MaildirMailbox:
        return MaildirMailbox(folders, known, self._run, partial(self._forget, user))

    def _forget(self, user: bytes) -> None:
        known = self._known.pop(user, None)
        if known is not None:
            self._room += _MAILDROP + len(known.uniques)

    def _remember(self, user: bytes, known: _Known) -> None:
        """Keep what was found, and let go of what was used least recently."""
        self._forget(user)
        # Octets are remembered by the unique part, which is not unique if there are doubles.
        if not known.doubles:
            self._room -= _MAILDROP + len(known.uniques)
            self._known[user] = known
        while self._room < 0:
            self._forget(next(iter(self._known)))


def _look(folders: Folders, known: _Known) -> _Known:
    """Return what is in the folders, and count what is not known; in a thread."""
    counted: dict[bytes, Counted] = {}
    for _ in range(TRIES):
        found = folders.scan()
        # What is left in there is new.
        places = [found.pop(unique, None) for unique in known.uniques]
        if not folders.count(found, counted):
            break
    fresh = _in_order([unique for unique in found if unique in counted])
    uniques = (*known.uniques, *fresh)
    kept = [at for at, place in enumerate(places) if place is not None]
    order = _merged(kept, uniques, len(known.uniques))
    sizes = [counted[unique][0] for unique in fresh]
    stamps = array("Q", [counted[unique][1] for unique in fresh])
    # Tuples, for the garbage collector need not look into them again and again.
    return _Known(
        picked(uniques, order),
        picked((*places, *(found[unique] for unique in fresh)), order),
        picked(known.stamps + stamps, order),
        known.messages.changed(sizes, [legal_uid(unique) for unique in fresh], order),
        folders.times,
        folders.times is not None and folders.never_ask(),
        folders.twice,
    )


def _unavailable(error: OSError | ValueError, *text: Text) -> POPError:
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
    """One Maildir, under its lock."""

    def __init__(
        self, folders: Folders, known: _Known, run: Run, forget: Callable[[], None]
    ) -> None:
        self.known = known
        self.messages = known.messages
        self._folders = folders
        self._run = run
        self._forget = forget
        self._uniques = known.uniques
        self._places = known.places
        self._stamps = known.stamps

    async def open(self, message: Message) -> Iterable[Chunk]:
        """See IMailbox."""
        at = message.position
        try:
            fd = self._open(at)
            if fd is None:
                await self._run(self._look_again)
                fd = self._open(at)
        except OSError as error:
            raise _unavailable(error, Text("message cannot be read, tell the operator")) from error
        if fd is None:
            raise NoSuchMessage
        body = FileBody(fd, self._run)
        if body.stamp != self._stamps[at]:
            try:
                await self._recount(message, fd)
            except BaseException:
                body.close()
                raise
        return body

    async def _recount(self, message: Message, fd: int) -> None:
        """Refuse a changed message if its sizes, told already, are not those to be sent."""
        sizes, stamp = await self._run(count_file, fd)
        if sizes != self.messages.sizes_of(message.position):
            self._forget()
            raise TryLater("the message has changed, log in again")
        self._stamps[message.position] = stamp

    def _open(self, at: int) -> int | None:
        place = self._places[at]
        return None if place is None else self._folders.open(place, self._uniques[at])

    def _look_again(self) -> bool:
        """Note where every message is now; tell whether what was not found is gone; in a thread."""
        found = self._folders.scan()
        self._places = tuple(
            # One that came twice is never looked for: what is found might be the other.
            place if unique in self.known.doubles else found.get(unique)
            for unique, place in zip(self._uniques, self._places, strict=True)
        )
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
            return place is not None and self._folders.unlink(place, self._uniques[at])
        except OSError as error:
            refused.append(error)
            return True

    async def release(self) -> None:
        """See IMailbox."""
        self._folders.close()


def _delivered(unique: bytes) -> tuple[int, bytes]:
    """Return what messages are put in order by."""
    seconds = unique.partition(b".")[0]
    return int(seconds) if seconds.isdigit() and len(seconds) < 20 else 0, unique


def _merged(kept: list[int], uniques: Sequence[bytes], fresh: int) -> list[int]:
    """Return in order where names are: those kept and those from ``fresh`` on, each in order."""
    if not kept:
        return list(range(fresh, len(uniques)))
    merged: list[int] = []
    begin = 0
    for at in range(fresh, len(uniques)):
        key = _delivered(uniques[at])
        end = bisect(kept, key, begin, key=lambda other: _delivered(uniques[other]))
        merged += kept[begin:end]
        merged.append(at)
        begin = end
    return merged + kept[begin:]


def _in_order(uniques: list[bytes]) -> list[bytes]:
    # One long sort() would let no other thread run: sort pieces, and merge them.
    pieces = (uniques[at : at + 4096] for at in range(0, len(uniques), 4096))
    return list(merge(*(sorted(piece, key=_delivered) for piece in pieces), key=_delivered))
