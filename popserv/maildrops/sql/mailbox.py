"""The mailbox of a session: a snapshot, and a lease."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from zope.interface import implementer

from popserv.core.snapshot import Message
from popserv.errors import MaildropUnavailable, NoSuchMessage, RemovalFailed
from popserv.interfaces import IMessageDetails, IReadOnlyMailbox, IRetrievalRecord
from popserv.maildrops.sql.digests import digest_of
from popserv.maildrops.sql.flags import flags_in
from popserv.maildrops.sql.leases import Execute, Lease, Leases
from popserv.maildrops.sql.objects import ObjectStore
from popserv.maildrops.sql.snapshots import Index
from popserv.maildrops.sql.statements import DETAILS, LAST_SEEN, MARK_SEEN, REMOVE, RETRIEVE
from popserv.messages.details import NO_DETAILS, MessageDetails
from popserv.messages.framing import Chunk
from popserv.texts import Text

_CANNOT_BE_READ = Text("message cannot be read, contact your administrator")

_AS_IT_IS = 0
"""The form of a message that is stored as it was delivered."""

_CHUNK = 1 << 16


@implementer(IRetrievalRecord, IMessageDetails)
class SQLMailbox:
    """A maildrop whose lease is held until :meth:`release`.

    ``grace`` is for how many seconds the objects of removed messages are kept; ``objects`` has the
    octets of large messages.
    """

    # There is one for each client that is logged in.
    __slots__ = ("_execute", "_grace", "_lease", "_leases", "_objects", "index", "messages")

    def __init__(
        self,
        execute: Execute,
        leases: Leases,
        lease: Lease,
        index: Index,
        grace: int,
        objects: ObjectStore | None = None,
    ) -> None:
        self.index = index
        self.messages = index.messages
        self._execute = execute
        self._leases = leases
        self._lease = lease
        self._grace = grace
        self._objects = objects

    @property
    def lease(self) -> Lease:
        """The lock, for deliveries that require it."""
        return self._lease

    async def open(self, message: Message) -> Iterable[Chunk]:
        """See IMailbox."""
        at = message.position
        key = self.index.id(at)
        parameters = (self._lease.maildrop, self.index.position(at), key)
        rows = await self._execute(RETRIEVE, parameters)
        if not rows:
            raise NoSuchMessage
        [(inline, form, stored, digest, body)] = rows
        if form != _AS_IT_IS:
            raise _unreadable(f"{key} has the form {form}, which this version does not know")
        if not inline:
            if self._objects is not None:
                return await self._objects.get(key, stored, digest)
            raise _unreadable(f"{key} is in an object store, and none is configured")
        if body is None or len(body) != stored or (digest and digest_of(body) != digest):
            raise _unreadable(f"{key} is damaged in the table body; restore it from a backup")
        return [body[at : at + _CHUNK] for at in range(0, len(body), _CHUNK)]

    async def remove(self, messages: Iterable[Message]) -> None:
        """See IMailbox: all of the messages are removed, or none."""
        marked = [message.position for message in messages]
        if not marked:
            return
        parameters = (
            self._lease.maildrop,
            self._lease.token,
            [self.index.position(at) for at in marked],
            [self.index.id(at) for at in marked],
            self._grace,
        )
        try:
            held = await self._execute(REMOVE, parameters, durable=True)
        except Exception as error:
            raise RemovalFailed(len(marked)) from error
        if not held:
            raise RemovalFailed(len(marked)) from LeaseLost()

    async def last_retrieved(self) -> Message | None:
        """See IRetrievalRecord."""
        [(position,)] = await self._execute(LAST_SEEN, (self._lease.maildrop, self.index.last))
        if position is None:
            return None
        # Of a message that is not shown, the one before it: LAST includes all lower numbers.
        shown = self.index.find(position + 1)
        return self.messages[shown - 1] if shown else None

    async def record_retrieved(self, messages: Iterable[Message]) -> None:
        """See IRetrievalRecord."""
        retrieved = [message.position for message in messages]
        parameters = (
            self._lease.maildrop,
            [self.index.position(at) for at in retrieved],
            [self.index.id(at) for at in retrieved],
        )
        await self._execute(MARK_SEEN, parameters, durable=True)

    async def details(self) -> Sequence[MessageDetails]:
        """See IMessageDetails."""
        rows = await self._execute(DETAILS, (self._lease.maildrop,))
        found = {
            position: MessageDetails(delivered, flags_in(flags))
            for position, delivered, flags in rows
        }
        return [found.get(self.index.position(at), NO_DETAILS) for at in range(len(self.messages))]

    async def release(self) -> None:
        """See IMailbox."""
        self._leases.release(self._lease)

    async def released(self) -> None:
        """Wait until the lock, which was given back, is released in the database."""
        await self._leases.released(self._lease.name)


@implementer(IReadOnlyMailbox)
class ReadOnlySQLMailbox(SQLMailbox):
    """A maildrop in which nothing changes but its lease."""

    __slots__ = ()

    async def remove(self, messages: Iterable[Message]) -> None:
        """See IMailbox: no message is removed, and the session marks none."""
        if messages := list(messages):
            raise RemovalFailed(len(messages))

    async def record_retrieved(self, messages: Iterable[Message]) -> None:
        """See IRetrievalRecord: nothing is recorded."""


class LeaseLost(Exception):
    """The lease of a session was given to another one, or forgotten by the database."""


def _unreadable(problem: str) -> MaildropUnavailable:
    error = MaildropUnavailable(_CANNOT_BE_READ)
    error.__cause__ = ValueError(f"message {problem}")
    return error
