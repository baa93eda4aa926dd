"""One user's mbox file during a session, while other programs append to it and rewrite it.

The methods wait for the disk, except for :meth:`MboxFile.is_unchanged` and :meth:`MboxFile.find`:
call them in a thread.

The module has more than 300 lines, because each change of a file depends on what was read of it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from popserv.errors import MessageChanged, NoSuchMessage
from popserv.maildrops.mbox.appending import Batch, has_journal, undo_append
from popserv.maildrops.mbox.details import details_at
from popserv.maildrops.mbox.header import MAX_HEADER, Header
from popserv.maildrops.mbox.index import (
    Identity,
    Index,
    find_messages,
    find_removable,
    read_index,
    without,
)
from popserv.maildrops.mbox.locks import FileLock, FileLocked
from popserv.maildrops.mbox.parser import Format, NotAnMbox, parse
from popserv.maildrops.mbox.quoting import Unquoter
from popserv.maildrops.mbox.rewriting import Edit, rewrite
from popserv.maildrops.mbox.spool import Spool
from popserv.maildrops.mbox.unique_ids import unique_ids_to_write
from popserv.maildrops.mbox.window import Window
from popserv.maildrops.page_cache import CHUNK
from popserv.maildrops.scans import Record, record_nothing
from popserv.messages.details import NO_DETAILS, MessageDetails
from popserv.messages.sizes import MakeDowngrader


class MboxFile:
    """An open mbox file and its index.

    ``at_login`` is the index whose messages the session has, and ``index`` the one of the file as
    it was last read.  ``reopen`` opens the user's file anew, if another one was put in its place.
    """

    __slots__ = ("_found", "_reopen", "at_login", "downgrader", "format", "index", "spool")

    def __init__(
        self,
        spool: Spool,
        reopen: Callable[[], Spool],
        mbox_format: Format,
        downgrader: MakeDowngrader | None,
        known: Index | None,
        record: Record = record_nothing,
    ) -> None:
        self.spool = spool
        self.format = mbox_format
        self.downgrader = downgrader
        self._reopen = reopen
        self.index = self.at_login = self._login(known, record)
        # The positions in the index, by those at login; None if they are the same.
        self._found: dict[int, int] | None = None

    def _login(self, known: Index | None, record: Record) -> Index:
        """Return the index; the file is read only if ``known`` is not that of the same file.

        :raises FileLocked: another program has a lock on the file.
        :raises OSError: the file cannot be read, or is not an mbox file.
        """
        if known is not None and known.identity == self.spool.identity():
            if known.is_settled:
                return known
            known = None
        with self._locked() as lock:
            return self._read(lock, known, record)

    @contextmanager
    def _locked(self) -> Iterator[FileLock]:
        """Lock the file, and remove what an interrupted delivery or copy has appended.

        :raises FileLocked: another program has a lock on the file.
        :raises OSError: the file cannot be locked or changed.
        """
        spool = self.spool
        with spool.locked() as lock:
            if has_journal(spool.parent, spool.name):
                self._require_writable()
                try:
                    undo_append(spool.fd, spool.parent, spool.name, lock.touch)
                except OSError as error:
                    raise spool.problem(error) from error
            yield lock

    def _read(self, lock: FileLock, known: Index | None, record: Record = record_nothing) -> Index:
        try:
            return read_index(
                self.spool.fd, self.format, self.downgrader, known, record, lock.touch
            )
        except NotAnMbox:
            raise self.spool.problem(
                "is not an mbox file, it does not start with a From_ line"
            ) from None
        except OSError as error:
            raise self.spool.problem(error) from error

    def is_unchanged(self) -> bool:
        """Return whether the file is still the one of which there is an index."""
        return self.spool.identity() == self.index.identity and self.spool.is_at_path()

    def read(self, position: int) -> bytes | None:
        """Return the octets of a message, by its position at login; None if it is large.

        :raises MessageChanged: it has changed, or the file since it was last read.
        :raises NoSuchMessage: as :meth:`find`.
        :raises OSError: the file cannot be read.
        """
        at = self.find(position)
        index = self.index
        start, end = index.starts[at], index.ends[at]
        fd = self.spool.fd
        if not index.is_whole:
            # A program may have moved octets from one message to another before mail was appended.
            self._verify(fd, index, at)
        if end - start > CHUNK:
            return None
        try:
            text = os.pread(fd, end - start, start)
        except OSError as error:
            raise self.spool.problem(error) from error
        if len(text) < end - start:
            raise MessageChanged
        # Octets of before and after a change might be as many as expected, and no message.
        if Identity.of(os.fstat(fd)) != index.identity:
            raise MessageChanged
        if not self.format.is_quoted:
            return text
        unquoter = Unquoter()
        return unquoter.feed(text) + unquoter.finish()

    def refresh(self, position: int) -> bytes | None:
        """Read the file again, which has changed, and then a message as :meth:`read` does.

        A lock on the file keeps other programs from changing it in between.

        :raises NoSuchMessage: as :meth:`find`, or the file was removed, and with it all messages.
        :raises MessageChanged: the message has changed, or another program ignores the lock.
        :raises MaildropBusy: as :meth:`remove`.
        :raises FileLocked: another program has a lock on the file.
        :raises OSError: the file cannot be read.
        """
        try:
            self._replace()
        except FileNotFoundError:
            raise NoSuchMessage from None
        with self._locked() as lock:
            self._update(self._read(lock, self.index))
            try:
                return self.read(position)
            except MessageChanged:
                if self.index.is_whole:
                    raise
            self._update(self._read(lock, None))
            return self.read(position)

    def _update(self, index: Index) -> None:
        self.index = index
        self._found = find_messages(self.at_login, index, range(len(self.at_login.marks)))

    def find(self, position: int) -> int:
        """Return the position in the index of a message, by that at login.

        :raises NoSuchMessage: another program has removed it.
        :raises MessageChanged: it has other octets than at login.
        """
        if self._found is None:
            return position
        found = self._found.get(position)
        if found is None:
            raise NoSuchMessage
        if self.index.messages.sizes_of(found) != self.at_login.messages.sizes_of(position):
            raise MessageChanged
        return found

    def check(self, fd: int, index: Index, position: int) -> None:
        """Check that an open file has a message where an index has it, and as long as it was.

        :raises MessageChanged: it has not.
        """
        if Identity.of(os.fstat(fd)) != index.identity:
            self._verify(fd, index, position)

    def _verify(self, fd: int, index: Index, position: int) -> None:
        size = os.fstat(fd).st_size
        try:
            entry = next(parse(Window(fd, size), index.offsets[position], self.format))
            # The fields that programs change are not in the digest.
            is_same = (entry.digest, entry.start, entry.sizes.octets) == (
                index.marks[position][0],
                index.starts[position],
                index.messages.octets[position],
            )
        except (NotAnMbox, StopIteration, OSError):
            is_same = False
        if not is_same:
            raise MessageChanged

    def remove(self, positions: Collection[int]) -> None:
        """Remove messages, except for those that other programs have removed.

        :raises FileLocked: another program has a lock on the file.
        :raises MaildropBusy: another session has the file that was put in place of this one.
        :raises OSError: nothing was removed.
        """
        try:
            self._replace()
        except FileNotFoundError:
            return
        with self._locked() as lock:
            index = self._current(lock)
            removed = find_removable(self.at_login, index, positions)
            if removed:
                self._remove(lock, index, removed)

    def mark_read(self, positions: Collection[int]) -> None:
        """Add R to Status of messages, except for those that other programs have removed.

        :raises FileLocked: another program has a lock on the file.
        :raises MaildropBusy: as :meth:`remove`.
        :raises OSError: no message was changed.
        """
        try:
            self._replace()
        except FileNotFoundError:
            return
        with self._locked() as lock:
            index = self._current(lock)
            found = find_messages(self.at_login, index, positions).values()
            unread = [at for at in found if not index.read[at]]
            edits = [self._edit(index, at, Header.status_edit) for at in unread]
            if edits:
                self._rewrite(lock, index, edits)
                self._update(index.first(min(unread)))

    def append(self, batch: Batch) -> None:
        """Append messages.

        :raises FileLocked: another program has a lock on the file.
        :raises MaildropBusy: as :meth:`remove`.
        :raises OSError: nothing was appended.
        """
        self._replace()
        self._require_writable()
        with self._locked() as lock:
            try:
                batch.append(self.spool.fd, lock.touch)
            except OSError as error:
                raise self.spool.problem(error) from error

    def details(self) -> list[MessageDetails]:
        """Return the details of the messages; none of those that other programs have changed.

        :raises FileLocked: another program has a lock on the file.
        :raises MaildropBusy: as :meth:`remove`.
        :raises OSError: the file cannot be read.
        """
        self._replace()
        with self._locked() as lock:
            index = self._current(lock)
            found = find_messages(self.at_login, index, range(len(self.at_login.marks)))
            return [
                details_at(self.spool.fd, index, found[at]) if at in found else NO_DETAILS
                for at in range(len(self.at_login.marks))
            ]

    def _require_writable(self) -> None:
        if not self.spool.is_writable():
            raise self.spool.problem(PermissionError(errno.EACCES, "cannot be written"))

    def _replace(self) -> None:
        """Open the file that another program has put in place of this one."""
        if not self.spool.is_at_path():
            spool = self._reopen()
            self.spool.close()
            self.spool = spool

    def _current(self, lock: FileLock) -> Index:
        """Return the index of the locked file, read whole if it may have changed in any way."""
        index = self.index
        if index.is_settled and index.is_whole and index.identity == self.spool.identity():
            return index
        self._update(self._read(lock, None))
        return self.index

    def _remove(self, lock: FileLock, index: Index, removed: Sequence[int]) -> None:
        gone = set(removed)
        kept = [at for at in range(len(index.marks)) if at not in gone]
        written = unique_ids_to_write(
            [index.marks[at] for at in kept], [index.messages.uids[at] for at in kept]
        )
        edits = [Edit(index.offsets[at], index.nexts[at]) for at in removed]
        edits += [
            self._edit(index, kept[number], partial(Header.x_uidl_edit, uid=uid))
            for number, uid in written.items()
        ]
        self._rewrite(lock, index, edits)
        if written:
            # Only messages after a removed one get an X-UIDL.
            self._update(index.first(removed[0]))
        else:
            # With what another program has appended meanwhile the file is longer, and read again.
            octets = sum(edit.end - edit.start for edit in edits)
            identity = self.spool.identity()._replace(size=index.identity.size - octets)
            self._update(without(index, removed, identity))

    def _edit(
        self, index: Index, position: int, edit: Callable[[Header], tuple[int, int, bytes]]
    ) -> Edit:
        """Return an edit of the header of a message."""
        offset = index.starts[position]
        octets = min(MAX_HEADER, index.ends[position] - offset)
        start, end, text = edit(Header(os.pread(self.spool.fd, octets, offset)))
        return Edit(offset + start, offset + end, text)

    def _rewrite(self, lock: FileLock, index: Index, edits: Iterable[Edit]) -> None:
        self._require_writable()
        if self.spool.identity() != index.identity:
            raise FileLocked(f"{self.spool.path} is being written without a lock")
        try:
            with self.spool.keeping_times():
                size, boundaries = index.identity.size, index.offsets
                rewrite(self.spool.fd, size, sorted(edits), boundaries, lock.touch)
        except OSError as error:
            # Another session reads all of it again.
            self._update(index.first(0))
            raise self.spool.problem(error) from error
