"""An avatar of twisted.mail's IMailboxPOP3 as an IMailbox, so that its realms work as they are.

Deletions reach the avatar at QUIT alone, so that one which removes at once, as
twisted.mail's own Maildir does, removes nothing before.  Sizes are counted from
the messages themselves: what ``listMessages`` says is what a store holds, which
is not what is sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from inspect import isawaitable
from typing import IO, Any

from twisted.internet.task import coiterate
from twisted.mail.interfaces import IMailboxPOP3
from zope.interface import implementer

from popserv.errors import NoSuchMessage, RemovalFailed
from popserv.interfaces import IMailbox
from popserv.maildrop import Message, Snapshot, legal_uid
from popserv.wire import OctetCounter

_CHUNK = 1 << 16


async def adapt(avatar: IMailboxPOP3) -> IMailbox:
    """Return the avatar as an IMailbox, its messages listed and counted."""
    listed = await _result(avatar.listMessages())
    # A size of 0 is how IMailboxPOP3 says that there is no such message any more.
    indices = [index for index, size in enumerate(listed) if size]
    octets: list[int] = []
    await coiterate(_count(avatar, indices, octets))
    uids = [legal_uid(avatar.getUidl(index)) for index in indices]
    return _AdaptedMailbox(avatar, indices, Snapshot(octets, uids))


def _count(avatar: IMailboxPOP3, indices: list[int], octets: list[int]) -> Iterator[None]:
    for index in indices:
        counter = OctetCounter()
        for chunk in _chunks(avatar.getMessage(index)):
            counter.feed(chunk)
            yield
        octets.append(counter.finish())


@implementer(IMailbox)
class _AdaptedMailbox:
    def __init__(self, avatar: IMailboxPOP3, indices: list[int], messages: Snapshot) -> None:
        self.messages = messages
        self._avatar = avatar
        self._indices = indices

    async def open(self, message: Message) -> Iterable[bytes]:
        try:
            return _chunks(self._avatar.getMessage(self._indices[message.position]))
        except (ValueError, IndexError) as gone:
            raise NoSuchMessage from gone

    async def remove(self, messages: Iterable[Message]) -> None:
        wanted = list(messages)
        try:
            for message in wanted:
                self._avatar.deleteMessage(self._indices[message.position])
            await _result(self._avatar.sync())
        except Exception as reason:
            raise RemovalFailed(len(wanted)) from reason

    async def release(self) -> None:
        """Do nothing: the avatar's own logout gives it up."""


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while chunk := file.read(_CHUNK):
            yield chunk


async def _result(outcome: Any) -> Any:
    return await outcome if isawaitable(outcome) else outcome
