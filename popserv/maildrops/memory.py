"""Maildrops in memory, for tests and demonstrations: the reference implementation of a store."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count

from zope.interface import implementer

from popserv.core.snapshot import Message, Snapshot
from popserv.errors import MaildropBusy, NoSuchMessage
from popserv.interfaces import IMaildropFactory, IRetrievalRecord
from popserv.messages.sizes import MakeDowngrader, measure


@implementer(IMaildropFactory)
class MemoryMaildrops:
    """The maildrops of all users, in memory; a user without deliveries has an empty one.

    By user, ``stored`` has the messages as delivered, by unique-id; ``locked`` the users with an
    open session; ``retrieved`` the unique-ids of the messages recorded as retrieved.

    ``downgrader`` is :class:`popserv.messages.downgrade.Downgrader`, for a server with UTF8.
    """

    def __init__(self, downgrader: MakeDowngrader | None = None) -> None:
        self.downgrader = downgrader
        self.stored: dict[bytes, dict[bytes, bytes]] = {}
        self.locked: set[bytes] = set()
        self.retrieved: dict[bytes, set[bytes]] = {}
        self._serial = count(1)

    def deliver(self, user: bytes, message: bytes) -> bytes:
        """Append a message to the user's maildrop and return its unique-id."""
        uid = b"m%d" % next(self._serial)
        self.stored.setdefault(user, {})[uid] = message
        return uid

    async def open_maildrop(self, user: bytes) -> MemoryMailbox:
        """See IMaildropFactory."""
        if user in self.locked:
            raise MaildropBusy
        mailbox = MemoryMailbox(self, user)
        self.locked.add(user)
        return mailbox


@implementer(IRetrievalRecord)
class MemoryMailbox:
    """One user's maildrop, with the messages that it had when it was opened."""

    def __init__(self, maildrops: MemoryMaildrops, user: bytes) -> None:
        self._maildrops = maildrops
        self._user = user
        self._stored = maildrops.stored.setdefault(user, {})
        self._retrieved = maildrops.retrieved.setdefault(user, set())
        sizes = [measure([message], maildrops.downgrader) for message in self._stored.values()]
        self.messages = Snapshot.from_sizes(sizes, list(self._stored))

    async def open(self, message: Message) -> Iterable[bytes]:
        """See IMailbox."""
        if message.uid not in self._stored:
            raise NoSuchMessage
        return [self._stored[message.uid]]

    async def remove(self, messages: Iterable[Message]) -> None:
        """See IMailbox."""
        for message in messages:
            self._stored.pop(message.uid, None)

    async def last_retrieved(self) -> Message | None:
        """See IRetrievalRecord."""
        retrieved = [message for message in self.messages if message.uid in self._retrieved]
        return retrieved[-1] if retrieved else None

    async def record_retrieved(self, messages: Iterable[Message]) -> None:
        """See IRetrievalRecord."""
        self._retrieved.update(message.uid for message in messages)

    async def release(self) -> None:
        """See IMailbox."""
        self._maildrops.locked.remove(self._user)
