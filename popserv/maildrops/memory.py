"""Maildrops in memory, for tests and demonstrations: the reference implementation of a store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from itertools import count
from typing import Any, BinaryIO, TypeVar

from zope.interface import implementer

from popserv.core.snapshot import Message, Snapshot
from popserv.core.user_settings import UserSettings
from popserv.errors import MaildropBusy, NoSuchMessage
from popserv.interfaces import (
    IConfigurableStore,
    IDelivery,
    IDeliveryStore,
    IFinalDelivery,
    IMailbox,
    IMessageDetails,
    IRetrievalRecord,
    IUserListing,
)
from popserv.maildrops.read_only import ReadOnlyMailbox
from popserv.maildrops.spooling import spool
from popserv.messages.details import NO_DETAILS, Flags, MessageDetails
from popserv.messages.framing import Chunk
from popserv.messages.sizes import MakeDowngrader, measure

T = TypeVar("T")


async def _run_now(function: Callable[..., T], *args: Any) -> T:
    return function(*args)


@implementer(IConfigurableStore, IDeliveryStore, IFinalDelivery, IUserListing)
class MemoryMaildrops:
    """The maildrops of all users, in memory; a user without deliveries has an empty one.

    By user, ``stored`` has the messages as delivered, by unique-id; ``locked`` the users with an
    open session; ``retrieved`` the unique-ids of the messages recorded as retrieved; ``details``
    those of messages that :meth:`open_delivery` has delivered, by unique-id.

    ``downgrader`` is :class:`popserv.messages.downgrade.Downgrader`, for a server with UTF8.
    """

    restrictions: Sequence[str] = ()
    """See IDeliveryStore."""

    def __init__(self, downgrader: MakeDowngrader | None = None) -> None:
        self.downgrader = downgrader
        self.stored: dict[bytes, dict[bytes, bytes]] = {}
        self.locked: set[bytes] = set()
        self.retrieved: dict[bytes, set[bytes]] = {}
        self.details: dict[bytes, dict[bytes, MessageDetails]] = {}
        self._serial = count(1)

    def deliver(self, user: bytes, message: bytes) -> bytes:
        """Append a message to the user's maildrop and return its unique-id: m1, m2 and so on."""
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

    async def open_configured(self, user: bytes, settings: UserSettings) -> IMailbox:
        """See IConfigurableStore."""
        settings.reject_unsupported("read_only")
        mailbox = await self.open_maildrop(user)
        return IMailbox(ReadOnlyMailbox(mailbox) if settings.read_only else mailbox)

    async def users(self) -> Sequence[bytes]:
        """See IUserListing."""
        return sorted(self.stored)

    async def open_delivery(self, user: bytes) -> IDelivery:
        """See IDeliveryStore."""
        await self.open_maildrop(user)
        return IDelivery(MemoryDelivery(self, user))

    async def deliver_new(self, user: bytes, settings: UserSettings, message: BinaryIO) -> bytes:
        """See IFinalDelivery."""
        message.seek(0)
        return self.deliver(user, message.read())

    async def has_maildrop(self, user: bytes, settings: UserSettings) -> bool:
        """See IFinalDelivery: whether the user had mail, or a session."""
        return user in self.stored


@implementer(IDelivery)
class MemoryDelivery:
    """One user's maildrop, open for deliveries."""

    def __init__(self, maildrops: MemoryMaildrops, user: bytes) -> None:
        self._maildrops = maildrops
        self._user = user
        self._stored = maildrops.stored[user]
        self._retrieved = maildrops.retrieved[user]
        self._details = maildrops.details.setdefault(user, {})
        self._pending: dict[bytes, tuple[bytes, MessageDetails]] = {}

    @property
    def unique_ids(self) -> Collection[bytes]:
        """See IDelivery."""
        return self._stored.keys() | self._pending.keys()

    async def deliver(
        self,
        unique_id: bytes,
        details: MessageDetails,
        open_body: Callable[[], Awaitable[Iterable[Chunk]]],
    ) -> bool:
        """See IDelivery."""
        if unique_id in self.unique_ids:
            return False
        with await spool(await open_body(), _run_now) as file:
            self._pending[unique_id] = file.read(), details
        return True

    async def commit(self) -> None:
        """See IDelivery."""
        for unique_id, (message, details) in self._pending.items():
            self._stored[unique_id] = message
            self._details[unique_id] = details
            if Flags.SEEN in details.flags:
                self._retrieved.add(unique_id)
        self._pending.clear()

    async def release(self) -> None:
        """See IDelivery."""
        self._maildrops.locked.remove(self._user)


@implementer(IRetrievalRecord, IMessageDetails)
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

    def details(self) -> Sequence[MessageDetails]:
        """See IMessageDetails."""
        known = self._maildrops.details.get(self._user, {})
        return [
            MessageDetails(delivered, flags | Flags.SEEN if uid in self._retrieved else flags)
            for uid in self.messages.uids
            for delivered, flags in [known.get(uid, NO_DETAILS)]
        ]

    async def release(self) -> None:
        """See IMailbox."""
        self._maildrops.locked.remove(self._user)
