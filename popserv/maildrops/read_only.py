"""A mailbox that its user may only read, for stores whose own ones write nothing to be read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zope.interface import alsoProvides

from popserv.core.snapshot import Message
from popserv.errors import RemovalFailed
from popserv.interfaces import IReadOnlyMailbox
from popserv.maildrops.recent import SelectedMailbox


class ReadOnlyMailbox(SelectedMailbox):
    """Another mailbox, of which nothing is removed or recorded."""

    def __init__(self, mailbox: Any) -> None:
        super().__init__(mailbox, mailbox.messages, range(len(mailbox.messages)))
        alsoProvides(self, IReadOnlyMailbox)

    async def remove(self, messages: Iterable[Message]) -> None:
        """See IMailbox: no message is removed, and the session marks none."""
        if messages := list(messages):
            raise RemovalFailed(len(messages))

    async def record_retrieved(self, messages: Iterable[Message]) -> None:
        """See IRetrievalRecord: nothing is recorded."""
