"""The mailbox of a Maildir user."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from contextlib import suppress

from zope.interface import implementer

from popserv.core.snapshot import Message
from popserv.errors import (
    MessageChanged,
    NoSuchMessage,
    RemovalFailed,
    TryLater,
)
from popserv.interfaces import (
    ICachedMessages,
    IDeliveryTimes,
    IMessageDetails,
    IReadOnlyMailbox,
    IRetrievalRecord,
    ISizeCache,
)
from popserv.maildrops.maildir.contents.body import read_body
from popserv.maildrops.maildir.contents.compressed import (
    STARTS,
    UnreadableContents,
    check_contents,
)
from popserv.maildrops.maildir.details import read_details
from popserv.maildrops.maildir.files import MessageFiles, stamp_of
from popserv.maildrops.maildir.flags import last_seen, mark_seen
from popserv.maildrops.maildir.folders import Folders
from popserv.maildrops.maildir.listing import size_file
from popserv.maildrops.maildir.listing.base_names import delivery_order
from popserv.maildrops.maildir.listing.cache import MaildirIndexCache
from popserv.maildrops.maildir.listing.counting import count_file
from popserv.maildrops.maildir.listing.index import Index
from popserv.maildrops.maildir.listing.texts import NO_TEXTS
from popserv.maildrops.maildir.removal import remove_files
from popserv.maildrops.page_cache import read_cached_file
from popserv.maildrops.path_problems import explain_file
from popserv.maildrops.refusals import refusal
from popserv.messages.details import MessageDetails
from popserv.messages.framing import Chunk
from popserv.runtime.closing import close
from popserv.runtime.threads import RunInThread
from popserv.texts import Text

_CANNOT_BE_READ = Text("message cannot be read, contact your administrator")


@implementer(ICachedMessages, IRetrievalRecord, ISizeCache, IDeliveryTimes, IMessageDetails)
class MaildirMailbox:
    """One Maildir, whose lock is held until :meth:`release`."""

    # There is one for each client that is logged in.
    __slots__ = (
        "_cache",
        "_files",
        "_is_accurate",
        "_run",
        "_trash",
        "_user",
        "_view",
        "index",
        "messages",
        "texts",
    )

    def __init__(
        self,
        cache: MaildirIndexCache,
        run: RunInThread,
        user: bytes,
        folders: Folders,
        index: Index,
        trash: str = "",
    ) -> None:
        self.index = index
        self._view = view = index.view or index
        self.messages = view.messages
        self._cache = cache
        self._run = run
        self._trash = trash
        self._user = user
        self._files = MessageFiles(
            folders, view.base_names, view.locations, view.stamps, index.duplicates
        )
        self._is_accurate = True
        self.texts = NO_TEXTS

    @property
    def maildir_fd(self) -> int:
        """The open Maildir, for programs that change what belongs to its lock."""
        return self._files.folders.maildir_fd

    @property
    def base_names(self) -> tuple[bytes, ...]:
        """The base names of ``messages``."""
        return self._view.base_names

    def read_cached(self, message: Message, maximum: int) -> bytes | None:
        """See ICachedMessages."""
        if self.texts:
            text = self.texts.pop(self._view.base_names[message.position], None)
            if text is not None:
                return text[:maximum]
        try:
            located = self._files.locate(message.position)
        except OSError:
            return None
        text = None if located is None else read_cached_file(*located, maximum)
        # What is not compressed after all can be opened, too.
        return None if text is None or text.startswith(STARTS) else text

    async def open(self, message: Message) -> Iterable[Chunk]:
        """See IMailbox."""
        position = message.position
        try:
            opened = self._files.open(position)
            if opened is None:
                await self._run(self._files.update_locations)
                opened = self._files.open(position)
        except OSError as error:
            raise refusal(error, _CANNOT_BE_READ) from error
        if opened is None:
            raise NoSuchMessage
        fd, status = opened
        try:
            if stamp_of(status) != self._view.stamps[position]:
                await self._recount(position, fd)
            if not self.messages.octets[position] and status.st_size:
                # It could not be decompressed; its start alone would seem a changed message.
                await self._run(check_contents, fd)
            return await read_body(fd, status.st_size, self._run)
        except BaseException as error:
            if isinstance(error, UnreadableContents):
                error = OSError(errno.EBADMSG, str(error))
            if not isinstance(error, OSError):
                close(fd)
                raise
            problem = explain_file(error, fd, self._view.base_names[position])
            close(fd)
            raise refusal(error, _CANNOT_BE_READ) from problem

    async def _recount(self, position: int, fd: int) -> None:
        """Count a message again whose file has changed, and refuse it if its sizes differ.

        The server may have sent the old sizes to the client.

        :raises MessageChanged: the sizes differ.
        """
        sizes, stamp = await self._run(count_file, fd, self.index.downgrader)
        if sizes != self.messages.sizes_of(position):
            await self.discard_sizes()
            raise MessageChanged
        self._view.stamps[position] = stamp

    async def discard_sizes(self) -> None:
        """See ISizeCache: drop the index from the cache, and remove the size file."""
        self._is_accurate = False
        self._cache.invalidate(self._user)
        if await self._run(size_file.remove, self._files.folders.maildir_fd):
            self._cache.trust_size_file(self._user)

    async def remove(self, messages: Iterable[Message]) -> None:
        """See IMailbox."""
        positions = [message.position for message in messages]
        remaining, error = await remove_files(self._files, positions, self._run, self._trash)
        # Removed messages are no reason to rewrite the size file.
        state = self.index.size_file_state
        state.unsaved -= min(state.unsaved, len(positions) - remaining)
        if remaining:
            raise RemovalFailed(remaining) from error

    async def last_retrieved(self) -> Message | None:
        """See IRetrievalRecord: a message with the flag S, whatever program has set it."""
        position = await self._run(last_seen, self._view.locations)
        return None if position is None else self.messages[position]

    async def record_retrieved(self, messages: Iterable[Message]) -> None:
        """See IRetrievalRecord."""
        await self._run(mark_seen, self._files, [message.position for message in messages])

    def delivery_times(self) -> Sequence[float]:
        """See IDeliveryTimes: the numbers at the start of the base names."""
        return [delivery_order(base_name)[0] for base_name in self._view.base_names]

    def details(self) -> Sequence[MessageDetails]:
        """See IMessageDetails."""
        return read_details(self._files)

    async def release(self) -> None:
        """See IMailbox."""
        self._cache.texts.drop(self)
        folders = self._files.folders
        try:
            if self._is_accurate and self.index.is_worth_saving():
                # If all threads are busy, a later session saves it.
                with suppress(TryLater):
                    await self._run(self.index.save, folders.maildir_fd)
        finally:
            folders.close()


@implementer(IReadOnlyMailbox)
class ReadOnlyMaildirMailbox(MaildirMailbox):
    """A Maildir into which nothing is written but its lock."""

    __slots__ = ()

    async def remove(self, messages: Iterable[Message]) -> None:
        """See IMailbox: no message is removed, and the session marks none."""
        if messages := list(messages):
            raise RemovalFailed(len(messages))

    async def record_retrieved(self, messages: Iterable[Message]) -> None:
        """See IRetrievalRecord: nothing is recorded."""

    async def discard_sizes(self) -> None:
        """See ISizeCache: the size file stays, and is not read in later sessions."""
        self._cache.invalidate(self._user)

    async def release(self) -> None:
        """See IMailbox: nothing is saved."""
        self._cache.texts.drop(self)
        self._files.folders.close()
