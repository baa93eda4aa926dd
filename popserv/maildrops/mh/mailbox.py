"""The mailbox of an MH user."""

from __future__ import annotations

import errno
import os
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from functools import partial

from twisted.logger import Logger
from zope.interface import implementer

from popserv.core.snapshot import Message
from popserv.errors import MessageChanged, NoSuchMessage, RemovalFailed
from popserv.interfaces import IDeliveryTimes, IMessageDetails, IRetrievalRecord, ISizeCache
from popserv.maildrops.index_cache import IndexCache
from popserv.maildrops.mh.body import Body
from popserv.maildrops.mh.flags import flags_in, retrieved
from popserv.maildrops.mh.folder import (
    MAX_SCANS,
    RETRY_DELAYS,
    FileKey,
    Scan,
    key_of,
    open_number,
    scan,
    still_changing,
    unlink_if_same,
)
from popserv.maildrops.mh.index import Index, make_index, save_index
from popserv.maildrops.mh.sequences import (
    NAME,
    RETRIEVED,
    UNSEEN,
    locked_sequences,
    read_sequences,
)
from popserv.maildrops.path_problems import explain_in_directory
from popserv.maildrops.refusals import refusal
from popserv.messages.details import Flags, MessageDetails
from popserv.messages.framing import Chunk
from popserv.messages.sizes import MAX_MESSAGE, MakeDowngrader
from popserv.runtime.closing import close
from popserv.runtime.threads import RunInThread
from popserv.texts import Text

_log = Logger()

_CANNOT_BE_READ = Text("message cannot be read, contact your administrator")


@implementer(IRetrievalRecord, ISizeCache, IDeliveryTimes, IMessageDetails)
class MHMailbox:
    """One MH folder, whose lock is held until :meth:`release`."""

    __slots__ = ("_cache", "_downgrader", "_folder", "_run", "_user", "index", "messages")

    def __init__(
        self,
        cache: IndexCache[Index],
        run: RunInThread,
        user: bytes,
        folder: int,
        index: Index,
        downgrader: MakeDowngrader | None,
    ) -> None:
        self.index = index
        self.messages = index.messages
        self._cache = cache
        self._run = run
        self._user = user
        self._folder = folder
        self._downgrader = downgrader

    async def open(self, message: Message) -> Iterable[Chunk]:
        """See IMailbox."""
        entry = self.index.entries[message.position]
        if entry.key.length > MAX_MESSAGE:
            error = OSError(errno.EFBIG, f"it has more than {MAX_MESSAGE} octets")
            problem = explain_in_directory(error, self._folder, b"%d" % entry.number)
            raise refusal(error, _CANNOT_BE_READ) from problem
        try:
            fd = self._open_if_same(entry.number, entry.key)
            if fd is None:
                fd = await self._run(self._open_renumbered, message.position)
        except OSError as error:
            raise refusal(error, _CANNOT_BE_READ) from error
        except MessageChanged:
            self._cache.evict(self._user)
            raise
        return Body(fd, entry.key.length, self._run)

    def _open_renumbered(self, position: int) -> int:
        """Open the file of a message that no longer has its number.

        :raises NoSuchMessage: it has vanished.
        :raises MessageChanged: it has changed.
        :raises OSError: it is not found, and may be there.
        """
        wanted = self.index.entries[position].key
        found = self._scan([position])
        for number, key in found.files.items():
            if key == wanted:
                fd = self._open_if_same(number, key)
                if fd is not None:
                    return fd
        if any(key.inode == wanted.inode for key in found.files.values()):
            raise MessageChanged
        if not found.is_settled:
            raise explain_in_directory(still_changing(), self._folder)
        raise NoSuchMessage

    def _open_if_same(self, number: int, key: FileKey) -> int | None:
        try:
            fd = open_number(self._folder, number)
        except OSError as error:
            raise explain_in_directory(error, self._folder, b"%d" % number) from error
        if fd is not None and key_of(os.fstat(fd)) != key:
            close(fd)
            fd = None
        return fd

    def _scan(self, positions: Iterable[int]) -> Scan:
        """Scan the folder until it has the files of all messages, or certainly not."""
        wanted = {self.index.entries[position].key for position in positions}
        for delay in RETRY_DELAYS:
            found = scan(self._folder)
            if found.is_settled or wanted <= set(found.files.values()):
                break
            time.sleep(delay)
        return found

    async def remove(self, messages: Iterable[Message]) -> None:
        """See IMailbox."""
        positions = [message.position for message in messages]
        if not positions:
            return
        remaining = await self._run(self._remove, positions)
        removed = set(positions) - {position for position, _ in remaining}
        await self._forget(removed)
        # The reply to QUIT says that they are removed from the disk.
        await self._run(os.fsync, self._folder)
        if remaining:
            raise RemovalFailed(len(remaining)) from remaining[0][1]

    async def _forget(self, positions: Collection[int]) -> None:
        """Drop messages from the index of later sessions, so that no copy of one gets its uid."""
        entries = [entry for at, entry in enumerate(self.index.entries) if at not in positions]
        index = make_index(
            entries, None, self.index.unsaved, self.index.file_version, self.index.absent
        )
        keys = {entry.key for entry in entries}
        if any(self.index.entries[at].key in keys for at in positions):
            index = await self._run(save_index, self._folder, index, self._downgrader)
        self._cache.put(self._user, index)

    def _remove(self, positions: list[int]) -> list[tuple[int, OSError]]:
        """Remove messages; return the positions of those that remain, with the reasons."""
        left = positions
        remaining: list[tuple[int, OSError]] = []
        failure, name = still_changing(), None
        try:
            with locked_sequences(self._folder) as sequences:
                for _ in range(MAX_SCANS):
                    found = self._scan(left)
                    numbers, changed = self._locate(found, left)
                    kept = found.numbers - set(numbers.values())
                    read = retrieved(sequences, kept)
                    # First, so that no other message that gets a number seems retrieved.
                    sequences.keep_only(kept)
                    if UNSEEN not in sequences:
                        # Without unseen messages, the others would seem unread.
                        sequences.set(RETRIEVED, read)
                    sequences.write()
                    left, errors = self._unlink(numbers)
                    remaining += changed + errors
                    if not left:
                        break
        except OSError as error:
            failure, name = error, NAME
            if not left:
                # Only unlocking or closing has failed; the messages are removed.
                self._log_sequences(error)
        if left:
            problem = explain_in_directory(failure, self._folder, name)
            remaining += [(position, problem) for position in left]
        return remaining

    def _locate(
        self, found: Scan, positions: Iterable[int]
    ) -> tuple[dict[int, int], list[tuple[int, OSError]]]:
        """Return the numbers of messages by position, and those that must remain, with reasons."""
        by_key = defaultdict(list)
        for number, key in found.files.items():
            by_key[key].append(number)
        inodes = {key.inode for key in by_key}
        numbers = {}
        remaining: list[tuple[int, OSError]] = []
        for position in positions:
            entry = self.index.entries[position]
            same = by_key[entry.key]
            if same:
                number = entry.number if entry.number in same else same[0]
                same.remove(number)
                numbers[position] = number
            elif entry.key.inode in inodes or not found.is_settled:
                error = OSError(errno.EBUSY, "the message has changed")
                problem = explain_in_directory(error, self._folder, b"%d" % entry.number)
                remaining.append((position, problem))
        return numbers, remaining

    def _unlink(self, numbers: dict[int, int]) -> tuple[list[int], list[tuple[int, OSError]]]:
        """Unlink messages; return the positions of those without a file, and errors.

        A program that does not use the lock may have given those another number just now.
        """
        missing: list[int] = []
        errors: list[tuple[int, OSError]] = []
        for position, number in numbers.items():
            try:
                unlink_if_same(self._folder, number, self.index.entries[position].key)
            except FileNotFoundError:
                missing.append(position)
            except OSError as error:
                name = b"%d" % number
                errors.append((position, explain_in_directory(error, self._folder, name)))
        return missing, errors

    async def last_retrieved(self) -> Message | None:
        """See IRetrievalRecord."""
        position = await self._run(self._last_retrieved)
        return None if position is None else self.messages[position]

    def _last_retrieved(self) -> int | None:
        try:
            sequences = read_sequences(self._folder)
        except OSError as error:
            self._log_sequences(error)
            return None
        numbers, _ = self._locate(scan(self._folder), range(len(self.messages)))
        found = retrieved(sequences, set(numbers.values()))
        return max((at for at, number in numbers.items() if number in found), default=None)

    async def record_retrieved(self, messages: Iterable[Message]) -> None:
        """See IRetrievalRecord."""
        await self._run(self._record_retrieved, [message.position for message in messages])

    def _record_retrieved(self, positions: list[int]) -> None:
        try:
            with locked_sequences(self._folder) as sequences:
                found = self._scan(positions)
                located, _ = self._locate(found, positions)
                new = set(located.values())
                # nmh drops an empty sequence, after which all messages would seem unread.
                before = retrieved(sequences, found.numbers)
                sequences.set(RETRIEVED, before | new)
                sequences.set(UNSEEN, sequences.members(UNSEEN, found.numbers) - new)
                sequences.write()
        except OSError as error:
            self._log_sequences(error)

    def _log_sequences(self, error: OSError) -> None:
        problem = explain_in_directory(error, self._folder, NAME)
        _log.warn("MH sequences not used: {problem}", problem=problem)

    async def discard_sizes(self) -> None:
        """See ISizeCache: drop the index from the cache, and the sizes in the index file."""
        self._cache.evict(self._user)
        discard = partial(save_index, is_counted=False)
        await self._run(discard, self._folder, self.index, self._downgrader)

    def details(self) -> Sequence[MessageDetails]:
        """See IMessageDetails."""
        try:
            sequences = read_sequences(self._folder)
            positions = range(len(self.messages))
            found = self._scan(positions)
            numbers, remaining = self._locate(found, positions)
            if remaining and not found.is_settled:
                raise still_changing()
        except OSError as error:
            raise explain_in_directory(error, self._folder, error.filename) from error
        flags = flags_in(sequences, set(numbers.values()))
        return [
            MessageDetails(delivered, flags.get(numbers.get(at, 0), Flags.NONE))
            for at, delivered in enumerate(self.delivery_times())
        ]

    def delivery_times(self) -> Sequence[float]:
        """See IDeliveryTimes: the times at which the files were written."""
        return [entry.key.modified / 10**9 for entry in self.index.entries]

    async def release(self) -> None:
        """See IMailbox."""
        close(self._folder)
