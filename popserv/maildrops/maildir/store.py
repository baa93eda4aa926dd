"""Maildir: a file a message in new/ and cur/, one Maildir a user.

Rules of this store, here and in folders.py:
 1. Other programs deliver, rename (flags, new/ to cur/) and remove at any time and
    lock nothing.  A message is found again by the unique part of its name, the
    part before ``:``, or it has vanished.
 2. Nothing is renamed or removed but what a session asks to remove, or to note as retrieved.
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
 8. Sizes outlive the server in a file (size_file.py), which is believed no further than that.
"""

from __future__ import annotations

import errno
import os
import time
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from twisted.logger import Logger
from zope.interface import implementer

from popserv.core.snapshot import Message, Snapshot, select
from popserv.errors import (
    MaildropBusy,
    MaildropUnavailable,
    NoSuchMessage,
    POPError,
    RemovalFailed,
    TryLater,
)
from popserv.interfaces import IMailbox, IMaildropFactory, IRetrievalRecord
from popserv.maildrops.maildir import size_file
from popserv.maildrops.maildir.base_names import merge_order, sort_base_names, unique_ids
from popserv.maildrops.maildir.folders import (
    TRIES,
    Counts,
    Folders,
    Run,
    Times,
    body_of,
    count_file,
    is_seen,
    stamp_of,
)
from popserv.maildrops.maildir.layout import Layout
from popserv.maildrops.maildir.size_file import Contents
from popserv.messages.framing import Chunk
from popserv.runtime.threads import BoundedThreadPool
from popserv.texts import Text

_log = Logger()

_disk = BoundedThreadPool("popserv-disk", threads=4)

_PATIENCE = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)
"""Seconds to wait, one after the other, for another program to be done with its renames."""

_PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOLCK, errno.ESTALE})
"""Errors that say nothing about the maildrop."""


class _File:
    """What is known of a maildrop's file of sizes.

    How many messages it has, how many it lacks that were counted, and whether it has times.
    """

    __slots__ = ("has", "has_times", "lacks")

    def __init__(self, has: int = 0, has_times: bool = False) -> None:
        self.has = has
        self.has_times = has_times
        self.lacks = 0


class _Known(NamedTuple):
    """What a scan found, for the session that it was made for and for later ones.

    ``uniques`` are the messages' names up to the ``:``, in order: by the time of
    delivery that a name starts with, then by name.  Of the messages ``doubles`` there was
    more than one file.  ``times`` are None if the next session has to look again anyhow;
    ``warm`` tells whether it may look without a thread.
    """

    uniques: tuple[bytes, ...]
    places: tuple[bytes, ...]
    stamps: array[int]
    messages: Snapshot
    times: Times | None
    warm: bool
    file: _File
    doubles: frozenset[bytes] = frozenset()

    def is_worth_saving(self) -> bool:
        """Tell whether to write the file of sizes anew."""
        messages = len(self.uniques)
        return not self.doubles and (
            self.file.lacks >= max(_WORTH, messages // 100)
            or self.file.has >= max(_WORTH, 2 * messages)
            or (self.file.has > 0 and self.times is not None and not self.file.has_times)
        )


_MAILDROP = 10
"""What a maildrop itself takes of memory, in messages."""

_WORTH = 50
"""Messages whose sizes are worth a file, or to write it anew; of many messages it is one in 100."""


@implementer(IMaildropFactory)
class MaildirMaildrops:
    """The Maildirs of a :class:`~popserv.maildrops.maildir.layout.Layout`.

    Up to ``remember`` messages are kept from session to session, those of the maildrops
    used last, at some 200 bytes of memory each: name, place, octets, stamp and lines of
    listings.  A maildrop counts as ten messages more.
    """

    def __init__(
        self, template: str, *, cache_messages: int = 500_000, run: Run = _disk.run
    ) -> None:
        self._layout = Layout(template)
        self.run = run
        self._remembers = self._room = cache_messages
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._wary: set[bytes] = set()
        self._empty: set[bytes] = set()

    async def open_maildrop(self, user: bytes) -> IMailbox:
        """See IMaildropFactory."""
        known = self._known.get(user)
        mailbox = self._open_warm(user, known) if known is not None and known.warm else None
        if mailbox is None:
            mailbox = await self.run(self._open, user, known)
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
            folders = Folders(self._layout.open_cached(user))
        except OSError:
            return None
        # Whatever is in the way, the thread finds out what to say of it.
        with suppress(OSError, MaildropBusy):
            folders.lock()
            if folders.are_as_at(known.times, warm=True):
                return self._mailbox(user, folders, known)
        folders.close()
        return None

    def _open(self, user: bytes, known: _Known | None) -> MaildirMailbox | None:
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
            if known is None:
                known = _nothing(_File()) if user in self._wary else _restored(folders)
            if not folders.are_as_at(known.times):
                known = _look(folders, known)
            elif not known.warm:
                # It comes from the file, or asks somebody else as ever.
                known = known._replace(warm=folders.never_ask())
            return self._mailbox(user, folders, known)
        except BaseException as error:
            folders.close()
            if isinstance(error, OSError):
                raise _unavailable(error) from error
            raise

    def _mailbox(self, user: bytes, folders: Folders, known: _Known) -> MaildirMailbox:
        folders.rest()
        return MaildirMailbox(self, user, folders, known)

    async def disown(self, user: bytes, folders: Folders) -> None:
        """Remember nothing of a maildrop any more, for something of it is wrong."""
        self._forget(user)
        # Until the file is known to be gone.
        self._wary.add(user)
        if await self.run(size_file.remove, folders.maildir):
            self._wary.discard(user)

    def _forget(self, user: bytes) -> None:
        known = self._known.pop(user, None)
        if known is not None:
            self._room += _MAILDROP + len(known.uniques)

    def _remember(self, user: bytes, known: _Known) -> None:
        """Keep what was found, and let go of what was used least recently."""
        self._forget(user)
        room = _MAILDROP + len(known.uniques)
        # Octets are remembered by the unique part, which is not unique if there are doubles.
        # What is too large would drive out all others, and be gone before its next session.
        if not known.doubles and room <= self._remembers:
            self._room -= room
            self._known[user] = known
        while self._room < 0:
            self._forget(next(iter(self._known)))


def _nothing(file: _File) -> _Known:
    return _Known((), (), array("Q"), Snapshot(), None, False, file)


def _restored(folders: Folders) -> _Known:
    """Return what the file of sizes says; in a thread."""
    saved = size_file.load(folders.maildir)
    if saved is None:
        return _nothing(_File())
    uniques = tuple(saved.base_names)
    uids = unique_ids(uniques)
    return _Known(
        uniques,
        tuple(saved.locations),
        saved.stamps,
        Snapshot(saved.octets, uids, saved.downgraded, saved.header_only),
        saved.times,
        False,
        _File(len(uniques), saved.times is not None),
    )


def _look(folders: Folders, known: _Known) -> _Known:
    """Return what is in the folders, and count what is not known; in a thread."""
    for _ in range(TRIES):
        found = folders.scan()
        if folders.twice:
            # Whose sizes are known, nobody can tell.
            known = _nothing(known.file)
        # What is left in there is new.
        places = [found.pop(unique, b"") for unique in known.uniques]
        counts = folders.count(sort_base_names(list(found)), found)
        known = _updated(known, places, counts, found)
        if not counts.missed:
            break
    return known._replace(
        times=folders.times,
        warm=folders.times is not None and folders.never_ask(),
        doubles=folders.twice,
    )


def _updated(
    known: _Known, places: list[bytes], counts: Counts, found: Mapping[bytes, bytes]
) -> _Known:
    """Return what is known with its places now, empty for what is gone, and what was counted."""
    known.file.lacks += len(counts.uniques)
    fresh = tuple(counts.uniques)
    kept = [at for at, place in enumerate(places) if place]
    if not fresh and len(kept) == len(places):
        return known._replace(places=tuple(places))
    messages = Snapshot(counts.octets, unique_ids(fresh), counts.downgraded, counts.header_only)
    # Tuples, for the garbage collector need not look into them again and again.
    fresh_places = tuple([found[unique] for unique in fresh])
    if not kept:
        return known._replace(
            uniques=fresh, places=fresh_places, stamps=counts.stamps, messages=messages
        )
    uniques = (*known.uniques, *fresh)
    order = merge_order(kept, uniques, len(known.uniques))
    return known._replace(
        uniques=select(uniques, order),
        places=select((*places, *fresh_places), order),
        stamps=select(known.stamps + counts.stamps, order),
        messages=known.messages.updated(messages.sizes(), messages.uids, order),
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


@implementer(IRetrievalRecord)
class MaildirMailbox:
    """One Maildir, under its lock."""

    # One for each client that is logged in.
    __slots__ = ("_folders", "_is_right", "_maildrops", "_places", "_user", "known", "messages")

    def __init__(
        self, maildrops: MaildirMaildrops, user: bytes, folders: Folders, known: _Known
    ) -> None:
        self.known = known
        self.messages = known.messages
        self._maildrops = maildrops
        self._user = user
        self._folders = folders
        self._places: tuple[bytes | None, ...] = known.places
        self._is_right = True

    async def open(self, message: Message) -> Iterable[Chunk]:
        """See IMailbox."""
        at = message.position
        try:
            opened = self._open(at)
            if opened is None:
                await self._maildrops.run(self._look_again)
                opened = self._open(at)
        except OSError as error:
            raise _unavailable(
                error, Text("message cannot be read, contact your administrator")
            ) from error
        if opened is None:
            raise NoSuchMessage
        fd, found = opened
        if stamp_of(found) != self.known.stamps[at]:
            try:
                await self._recount(message, fd)
            except BaseException:
                os.close(fd)
                raise
        return body_of(fd, found.st_size, self._maildrops.run)

    async def _recount(self, message: Message, fd: int) -> None:
        """Refuse a changed message if its sizes, told already, are not those to be sent."""
        sizes, stamp = await self._maildrops.run(count_file, fd)
        if sizes != self.messages.sizes_of(message.position):
            self._is_right = False
            await self._maildrops.disown(self._user, self._folders)
            raise TryLater("message has changed, log in again")
        self.known.stamps[message.position] = stamp

    def _open(self, at: int) -> tuple[int, os.stat_result] | None:
        place = self._places[at]
        return None if place is None else self._folders.open(place, self.known.uniques[at])

    def _look_again(self) -> bool:
        """Note where every message is now; tell whether what was not found is gone; in a thread."""
        found = self._folders.scan()
        self._places = tuple(
            # One that came twice is never looked for: what is found might be the other.
            place if unique in self.known.doubles else found.get(unique)
            for unique, place in zip(self.known.uniques, self._places, strict=True)
        )
        return self._folders.at_rest

    async def remove(self, messages: Iterable[Message]) -> None:
        """See IMailbox."""
        await self._maildrops.run(self._remove, [message.position for message in messages])

    def _remove(self, wanted: list[int]) -> None:
        asked = len(wanted)
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
        self.known.file.lacks -= min(self.known.file.lacks, asked - len(refused) - len(wanted))
        if refused or wanted:
            raise RemovalFailed(len(refused) + len(wanted)) from [*refused, lost][0]

    def _unlink(self, at: int, refused: list[OSError]) -> bool:
        """Tell whether the message is dealt with; one that is not must be looked for."""
        place = self._places[at]
        try:
            return place is not None and self._folders.unlink(place, self.known.uniques[at])
        except OSError as error:
            refused.append(error)
            return True

    async def last_retrieved(self) -> Message | None:
        """See IRetrievalRecord: whatever program gave a message the flag S has shown it."""
        at = await self._maildrops.run(self._last_seen)
        return None if at is None else self.messages[at]

    def _last_seen(self) -> int | None:
        # Of places there are few.
        seen = {place for place in set(self.known.places) if is_seen(place)}
        places = enumerate(reversed(self.known.places))
        back = next((back for back, place in places if place in seen), None) if seen else None
        return None if back is None else len(self.known.places) - 1 - back

    async def record_retrieved(self, messages: Iterable[Message]) -> None:
        """See IRetrievalRecord."""
        await self._maildrops.run(self._mark_seen, [message.position for message in messages])

    def _mark_seen(self, wanted: list[int]) -> None:
        doubles = self.known.doubles
        wanted = [at for at in wanted if self.known.uniques[at] not in doubles]
        refused: list[OSError] = []
        moved = [at for at in wanted if not self._see(at, refused)]
        if moved:
            try:
                self._look_again()
            except OSError as error:
                refused.append(error)
            for at in moved:
                self._see(at, refused)
        if refused:
            _log.warn(
                "cannot mark retrieved messages as seen: {error}; messages: {count}",
                error=refused[0],
                count=len(refused),
            )

    def _see(self, at: int, refused: list[OSError]) -> bool:
        """Tell whether the message is dealt with; one that is not must be looked for."""
        place = self._places[at]
        try:
            return place is None or self._folders.mark_seen(place, self.known.uniques[at])
        except OSError as error:
            refused.append(error)
            return True

    async def release(self) -> None:
        """See IMailbox."""
        try:
            if self._is_right and self.known.is_worth_saving():
                # If all threads are busy, there will be another time.
                with suppress(TryLater):
                    await self._maildrops.run(self._save)
        finally:
            self._folders.close()

    def _save(self) -> None:
        """Write the file of sizes, or remove it if there is nothing to say; in a thread."""
        known, maildir = self.known, self._folders.maildir
        if known.uniques:
            columns = (known.messages.octets, known.stamps, known.messages.downgraded)
            size_file.save(
                maildir,
                Contents(
                    known.uniques, known.places, *columns, known.messages.header_only, known.times
                ),
            )
        else:
            size_file.remove(maildir)
        # What has failed is not tried again before there is more of it.
        known.file.lacks = 0
        known.file.has = len(known.uniques)
        known.file.has_times = known.times is not None
