"""Which messages a session has accessed, for LAST (RFC 1460 section 5)."""

from __future__ import annotations

from collections.abc import Iterable

from twisted.logger import Logger

from popserv.core.snapshot import Message
from popserv.interfaces import IMailbox, IRetrievalRecord


class AccessRecord:
    """The "highest number accessed" of one session, and what it has retrieved.

    What earlier sessions retrieved counts as accessed, if the mailbox remembers it
    (:class:`~popserv.interfaces.IRetrievalRecord`), until :meth:`begin_at_zero`.
    """

    log = Logger()

    def __init__(self, mailbox: IMailbox) -> None:
        self._record: IRetrievalRecord | None = IRetrievalRecord(mailbox, None)
        self._to_ask: IRetrievalRecord | None = self._record
        self._highest = 0
        self._retrieved: dict[int, Message] = {}

    async def highest(self) -> int:
        """Return the highest message-number accessed, 0 if none was."""
        if self._to_ask is not None:
            last = await self._to_ask.last_retrieved()
            self._to_ask = None
            if last is not None:
                self.record_access(last.position + 1)
        return self._highest

    def record_access(self, number: int) -> None:
        """Note that the message of that number was accessed."""
        self._highest = max(self._highest, number)

    def record_retrieval(self, message: Message) -> None:
        """Note that a message was accessed, and is being sent."""
        self.record_access(message.position + 1)
        self._retrieved[message.position] = message

    def reset_to_start(self) -> None:
        """Be as at the beginning of the session."""
        self._to_ask = self._record
        self._highest = 0
        self._retrieved.clear()

    def reset_to_zero(self) -> None:
        """Be as if nothing had ever been accessed."""
        self.reset_to_start()
        self._to_ask = None

    async def save(self, removed: Iterable[Message]) -> None:
        """Have the mailbox remember what was retrieved, but for what was ``removed``."""
        for message in removed:
            self._retrieved.pop(message.position, None)
        if self._record is None or not self._retrieved:
            return
        try:
            await self._record.record_retrieved(self._retrieved.values())
        except Exception:
            # What the client asked for was done; it will see these messages as new once more.
            self.log.failure("cannot record the retrieved messages")
