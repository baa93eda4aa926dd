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
"""

from __future__ import annotations

import errno
import time
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
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
from popserv.maildrop import Message, Snapshot, legal_uid
from popserv.maildrops.folders import TRIES, FileBody, Folders, Run, count_file
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
    """What an earlier session learnt of a maildrop: the messages' names, sizes and stamps."""

    uniques: Sequence[bytes]
    messages: Snapshot
    stamps: Sequence[int]


_NOTHING = _Known((), Snapshot(), ())


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
        folders = Folders(fd)
        try:
            folders.lock()
            return MaildirMailbox(folders, known, self._run, partial(self._forget, user))
        except BaseException as error:
            folders.close()
            if isinstance(error, OSError):
                raise _unavailable(error) from error
            raise

    def _forget(self, user: bytes) -> None:
        self._room += len(self._known.pop(user, _NOTHING).uniques)

    def _remember(self, user: bytes, known: _Known) -> None:
        """Keep what was learnt, and let go of what was used least recently."""
        self._forget(user)
        self._room -= len(known.uniques)
        self._known[user] = known
        while self._room < 0:
            _, oldest = self._known.popitem(last=False)
            self._room += len(oldest.uniques)


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
    """One Maildir, under its lock; made and asked to remove in a thread.

    ``uniques`` are the messages' names up to the ``:``, in order: by the time of
    delivery that a name starts with, then by name.
    """

    def __init__(
        self, folders: Folders, known: _Known, run: Run, forget: Callable[[], None]
    ) -> None:
        self._folders = folders
        self._run = run
        self._forget = forget
        learnt = zip(known.uniques, known.messages.sizes(), known.stamps, strict=True)
        counted = {unique: (sizes, stamp) for unique, sizes, stamp in learnt}
        for _ in range(TRIES):
            found = folders.scan()
            missed = folders.count(found, counted)
            if not missed:
                break
        self.uniques = _in_order([unique for unique in found if unique in counted])
        self._places: list[bytes | None] = [found[unique] for unique in self.uniques]
        # One that came twice is never looked for: what is found might be the other.
        self._doubles = folders.twice
        self._stamps = array("Q", [counted[unique][1] for unique in self.uniques])
        self.messages = Snapshot.of_sizes(
            [counted[unique][0] for unique in self.uniques],
            [legal_uid(unique) for unique in self.uniques],
        )

    def learnt(self) -> _Known:
        """Return what a later session may rely on."""
        if self._doubles:
            # Octets are remembered by the unique part, which is not unique here.
            return _NOTHING
        return _Known(self.uniques, self.messages, self._stamps)

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


def _delivered(unique: bytes) -> tuple[int, bytes]:
    """Return what messages are put in order by."""
    seconds = unique.partition(b".")[0]
    return int(seconds) if seconds.isdigit() and len(seconds) < 20 else 0, unique


def _in_order(uniques: list[bytes]) -> list[bytes]:
    # One long sort() would let no other thread run: sort pieces, and merge them.
    pieces = (uniques[at : at + 4096] for at in range(0, len(uniques), 4096))
    return list(merge(*(sorted(piece, key=_delivered) for piece in pieces), key=_delivered))
