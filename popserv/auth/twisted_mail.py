"""An adapter from twisted.mail's IMailboxPOP3 to IMailbox, so that existing realms can be used.

``deleteMessage`` is called at QUIT only, because some avatars remove a message immediately, such
as twisted.mail's own Maildir.  The sizes are counted from the messages, because the sizes of
``listMessages`` are those of the stored messages, which differ from those of the sent messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from inspect import isawaitable
from typing import IO, Any

from twisted.internet.task import coiterate
from twisted.mail.interfaces import IMailboxPOP3
from zope.interface import implementer

from popserv.core.snapshot import Message, Snapshot, valid_unique_id
from popserv.errors import NoSuchMessage, RemovalFailed
from popserv.interfaces import IMailbox
from popserv.messages.sizes import MessageCounter, Sizes

_CHUNK = 1 << 16

# IMailboxPOP3 documents the first two; avatars that store files often raise the third as well.
_NO_SUCH_MESSAGE = (ValueError, IndexError, FileNotFoundError)


async def adapt(avatar: IMailboxPOP3) -> IMailbox:
    """Return an IMailbox for an avatar, after reading all its messages to count their sizes."""
    stored_sizes = await _result(avatar.listMessages())
    # In IMailboxPOP3, a size of 0 means that the message is deleted.
    indices = [index for index, size in enumerate(stored_sizes) if size]
    sizes: list[Sizes] = []
    await coiterate(_count(avatar, indices, sizes))
    uids = [valid_unique_id(avatar.getUidl(index)) for index in indices]
    return _AdaptedMailbox(avatar, indices, Snapshot.from_sizes(sizes, uids))


def _count(avatar: IMailboxPOP3, indices: list[int], sizes: list[Sizes]) -> Iterator[None]:
    for index in indices:
        counter = MessageCounter()
        for chunk in _Chunks(avatar.getMessage(index)):
            counter.feed(chunk)
            yield
        sizes.append(counter.finish())


@implementer(IMailbox)
class _AdaptedMailbox:
    def __init__(self, avatar: IMailboxPOP3, indices: list[int], messages: Snapshot) -> None:
        self.messages = messages
        self._avatar = avatar
        self._indices = indices

    async def open(self, message: Message) -> Iterable[bytes]:
        try:
            return _Chunks(self._avatar.getMessage(self._indices[message.position]))
        except _NO_SUCH_MESSAGE as error:
            raise NoSuchMessage from error

    async def remove(self, messages: Iterable[Message]) -> None:
        marked = list(messages)
        try:
            for message in marked:
                # A message that another program has removed counts as removed.
                with suppress(*_NO_SUCH_MESSAGE):
                    self._avatar.deleteMessage(self._indices[message.position])
            await _result(self._avatar.sync())
        except Exception as error:
            # Otherwise the next sync() would remove messages that QUIT reported as remaining.
            with suppress(Exception):
                self._avatar.undeleteMessages()
            raise RemovalFailed(len(marked)) from error

    async def release(self) -> None:
        """Do nothing: the logout function of the avatar releases the mailbox."""


class _Chunks(Iterator[bytes]):
    # Not a generator: closing a generator that was never started would not close the file.

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def __next__(self) -> bytes:
        chunk = b"" if self._file.closed else self._file.read(_CHUNK)
        if not chunk:
            self.close()
            raise StopIteration
        return chunk

    def close(self) -> None:
        self._file.close()


async def _result(outcome: Any) -> Any:
    return await outcome if isawaitable(outcome) else outcome
