"""The messages that a session has accessed, for LAST (RFC 1460 section 5)."""

from __future__ import annotations

from collections.abc import Iterable

from twisted.logger import Logger

from popserv.core.printable import one_line
from popserv.core.snapshot import Message
from popserv.errors import POPError
from popserv.interfaces import IMailbox, IRetrievalRecord


class AccessRecord:
    """The highest message-number accessed in a session, and the messages retrieved.

    If the mailbox provides :class:`~popserv.interfaces.IRetrievalRecord`, messages that earlier
    sessions retrieved count as accessed, until :meth:`reset_to_zero`.
    """

    log = Logger()

    def __init__(self, mailbox: IMailbox) -> None:
        self._record: IRetrievalRecord | None = IRetrievalRecord(mailbox, None)
        # The same record until it has been read, then None.
        self._unread_record: IRetrievalRecord | None = self._record
        self._highest = 0
        self._retrieved: dict[int, Message] = {}

    async def highest(self) -> int:
        """Return the highest message-number accessed, or 0 if none was."""
        if self._unread_record is not None:
            last = await self._unread_record.last_retrieved()
            self._unread_record = None
            if last is not None:
                self.record_access(last.position + 1)
        return self._highest

    def record_access(self, number: int) -> None:
        """Record that the message of this number was accessed."""
        self._highest = max(self._highest, number)

    def record_retrieval(self, message: Message) -> None:
        """Record that a message was accessed and has been sent."""
        self.record_access(message.position + 1)
        self._retrieved[message.position] = message

    def reset_to_start(self) -> None:
        """Return to the state at the start of the session."""
        self._unread_record = self._record
        self._highest = 0
        self._retrieved.clear()

    def reset_to_zero(self) -> None:
        """Discard all accesses, those of earlier sessions included."""
        self.reset_to_start()
        self._unread_record = None

    async def save(self, removed: Iterable[Message]) -> None:
        """Record in the mailbox the messages retrieved, except those removed."""
        for message in removed:
            self._retrieved.pop(message.position, None)
        if self._record is None or not self._retrieved:
            return
        # If this fails, the session has succeeded, and LAST of later ones will not count them.
        try:
            await self._record.record_retrieved(self._retrieved.values())
        except POPError as error:
            reason = one_line(str(error.__cause__ or error.text))
            self.log.warn("cannot record the retrieved messages: {reason}", reason=reason)
        except Exception:
            self.log.failure("cannot record the retrieved messages")
