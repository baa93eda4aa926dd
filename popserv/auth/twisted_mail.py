"""An adapter from twisted.mail's IMailboxPOP3 to IMailbox, so that existing realms can be used.

It accepts what twisted.mail's own server accepts, and what twisted.mail's own mailboxes do: a
unique-id may be a str, and a message a text file, an object with ``read`` alone, or a Deferred.

``deleteMessage`` is called at QUIT only, because some avatars remove a message immediately, such
as twisted.mail's own Maildir.  The sizes are counted from the messages, because the sizes of
``listMessages`` are those of the stored messages, which differ from those of the sent messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from inspect import isawaitable
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import coiterate
from twisted.mail.interfaces import IMailboxPOP3
from zope.interface import implementer

from popserv.core.snapshot import Message, Snapshot, valid_unique_id
from popserv.errors import NoSuchMessage, RemovalFailed
from popserv.interfaces import IMailbox
from popserv.messages.sizes import MakeDowngrader, MessageCounter, Sizes

_CHUNK = 1 << 16

# IMailboxPOP3 documents the first two; avatars that store files often raise the third as well.
_NO_SUCH_MESSAGE = (ValueError, IndexError, FileNotFoundError)


async def adapt(avatar: IMailboxPOP3, downgrader: MakeDowngrader | None = None) -> IMailbox:
    """Return an IMailbox for an avatar, after reading all its messages to count their sizes."""
    stored_sizes = await _result(avatar.listMessages())
    # In IMailboxPOP3, a size of 0 means that the message is deleted.
    indices = [index for index, size in enumerate(stored_sizes) if size]
    sizes: list[Sizes] = []
    await coiterate(_count(avatar, indices, sizes, downgrader))
    uids = [valid_unique_id(_octets(avatar.getUidl(index))) for index in indices]
    return _AdaptedMailbox(avatar, indices, Snapshot.from_sizes(sizes, uids))


def _count(
    avatar: IMailboxPOP3,
    indices: list[int],
    sizes: list[Sizes],
    downgrader: MakeDowngrader | None,
) -> Iterator[Deferred[None] | None]:
    for index in indices:
        counter = MessageCounter(downgrader)
        file = avatar.getMessage(index)
        if isawaitable(file):
            opened: list[Any] = []
            # The cooperator waits for it.
            yield ensureDeferred(_result(file)).addCallback(opened.append)
            (file,) = opened
        for chunk in _Chunks(file):
            counter.feed(chunk)
            yield None
        sizes.append(counter.finish())


@implementer(IMailbox)
class _AdaptedMailbox:
    def __init__(self, avatar: IMailboxPOP3, indices: list[int], messages: Snapshot) -> None:
        self.messages = messages
        self._avatar = avatar
        self._indices = indices

    async def open(self, message: Message) -> Iterable[bytes]:
        try:
            file = await _result(self._avatar.getMessage(self._indices[message.position]))
        except _NO_SUCH_MESSAGE as error:
            raise NoSuchMessage from error
        return _Chunks(file)

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

    def __init__(self, file: Any) -> None:
        # A text file decodes octets, and MaildirMailbox opens one; its buffer has them as stored.
        self._read: Any = getattr(getattr(file, "buffer", None), "read", file.read)
        self._close = getattr(file, "close", None)

    def __next__(self) -> bytes:
        chunk = _octets(self._read(_CHUNK)) if self._read else b""
        if not chunk:
            self.close()
            raise StopIteration
        return chunk

    def close(self) -> None:
        self._read = None
        if self._close is not None:
            self._close()


def _octets(text: bytes | str) -> bytes:
    return text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text


async def _result(outcome: Any) -> Any:
    return await outcome if isawaitable(outcome) else outcome
