"""The mailbox of a user who has no maildrop yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from zope.interface import implementer

from popserv.core.snapshot import Message, Snapshot
from popserv.errors import NoSuchMessage
from popserv.interfaces import IMailbox
from popserv.messages.framing import Chunk


@implementer(IMailbox)
class EmptyMailbox:
    """The mailbox of a user to whom nothing was ever delivered."""

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
