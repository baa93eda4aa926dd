"""An avatar of twisted.mail's IMailboxPOP3 as an IMailbox, so that its realms work as they are.

Deletions reach the avatar at QUIT alone, so that one which removes at once, as
twisted.mail's own Maildir does, removes nothing before.  Sizes are counted from
the messages themselves: what ``listMessages`` says is what a store holds, which
is not what is sent.
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

# IMailboxPOP3 names the first two; stores of files often let the third through.
_GONE = (ValueError, IndexError, FileNotFoundError)


async def adapt(avatar: IMailboxPOP3) -> IMailbox:
    """Return the avatar as an IMailbox, its messages listed and counted."""
    listed = await _result(avatar.listMessages())
    # A size of 0 is how IMailboxPOP3 says that there is no such message any more.
    indices = [index for index, size in enumerate(listed) if size]
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
        except _GONE as gone:
            raise NoSuchMessage from gone

    async def remove(self, messages: Iterable[Message]) -> None:
        wanted = list(messages)
        try:
            for message in wanted:
                # What has vanished by itself counts as removed.
                with suppress(*_GONE):
                    self._avatar.deleteMessage(self._indices[message.position])
            await _result(self._avatar.sync())
        except Exception as reason:
            # Or the avatar's next sync() would remove what the client is told remains.
            with suppress(Exception):
                self._avatar.undeleteMessages()
            raise RemovalFailed(len(wanted)) from reason

    async def release(self) -> None:
        """Do nothing: the avatar's own logout gives it up."""


class _Chunks(Iterator[bytes]):
    # Not a generator: one that was never started would not close its file.

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
