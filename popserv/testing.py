"""For the tests of servers and stores built on popserv.

:class:`MailboxContract` is what every store must pass; mix it into a trial
TestCase.  :class:`Conversation` talks to a server in memory, on a clock that only
the test moves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from inspect import isawaitable
from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from popserv.errors import MaildropBusy, NoSuchMessage
from popserv.interfaces import IMailbox, IMaildropFactory, IRetrievalRecord
from popserv.messages.framing import Chunk
from popserv.messages.sizes import measure
from popserv.server.factory import POP3Factory
from popserv.server.protocol import POP3Server

SAMPLE_MESSAGES = [
    b"Subject: plain\n\nbody\n",
    b"Subject: crlf\r\n\r\nbody\r\n",
    b".first octet a dot\n\n.\n..\n.x\n",
    b"Subject: no end\n\nlast line",
    b"Subject: mixed\r\n\nlone \r here\n\r\n\r",
    b"Subject: 8-bit \xe9\n\n\x00\xff\n",
    b"Subject: UTF-8 \xc3\xa9\n\n\xc3\xa9\n",
    b"header alone\n",
    b"\n\nheaderless\n",
    b"",
    b"Subject: long\n\n" + b"x" * 200_000 + b"\n" + b".\n" * 70_000,
]
"""Messages as a store may hold them; between them they need every rule of the wire form."""


class MemoryTransport(StringTransport):
    """Keeps what is written, and says what was done to the connection."""

    aborted = False

    def unregisterProducer(self) -> None:
        """Forget the producer, if there is one, as real transports do."""
        self.producer = None

    def abortConnection(self) -> None:
        """Note that the connection was broken."""
        self.aborted = True
        self.loseConnection()


class MemoryClient:
    """A client's end of a connection that is all in memory.

    Time passes by ``clock.advance(seconds)`` alone.  ``peer`` is the client's
    address, this machine unless given.
    """

    def __init__(self, factory: POP3Factory, peer: object = None) -> None:
        self.clock = Clock()
        self.transport = MemoryTransport(
            peerAddress=cast(Any, peer or IPv4Address("TCP", "127.0.0.1", 54321))
        )
        self.server = cast(POP3Server, factory.buildProtocol(None))
        cast(Any, self.server).callLater = self.clock.callLater
        self.server.makeConnection(self.transport)

    def send(self, octets: bytes) -> bytes:
        """Send octets as one packet; return what the server has written since."""
        self.server.dataReceived(octets)
        # What the server puts off to the reactor's next round is due at once.
        self.clock.advance(0)
        return self.received()

    def received(self) -> bytes:
        """Return what the server has written, and forget it."""
        octets: bytes = self.transport.value()
        self.transport.clear()
        return octets

    def lose(self) -> None:
        """Lose the connection, as when a client's machine goes away."""
        self.server.connectionLost(Failure(ConnectionDone()))

    @property
    def closed(self) -> bool:
        """Whether the server has closed the connection."""
        return self.transport.disconnecting


class MailboxContract:
    """What a store must do; mix it into a ``twisted.trial.unittest.TestCase``.

    Give it a ``make_factory(messages)``, which returns an IMaildropFactory, or an
    awaitable of one, that holds each user's messages, delivered in that order and
    kept as they are; and :meth:`forget_behind` if messages can vanish behind the
    store's back.
    """

    make_factory: Callable[[dict[bytes, list[bytes]]], object]

    def remove_externally(self, factory: IMaildropFactory, user: bytes, index: int) -> bool:
        """Make the user's ``index``-th message vanish as if another program had removed it.

        Return False, as this does, if nothing else can reach the store.
        """
        return False

    # Only a TestCase has these.
    @property
    def _case(self) -> TestCase:
        return cast(TestCase, self)

    async def _opened(self, messages: list[bytes]) -> tuple[IMaildropFactory, IMailbox]:
        factory = await self._made({b"ann": messages})
        return factory, await factory.open_maildrop(b"ann")

    async def _made(self, messages: dict[bytes, list[bytes]]) -> IMaildropFactory:
        made = self.make_factory(messages)
        return cast(IMaildropFactory, await made if isawaitable(made) else made)

    async def _bodies(self, mailbox: IMailbox) -> list[bytes]:
        return [await read_all(await mailbox.open(message)) for message in mailbox.messages]

    async def test_interfaces(self) -> None:
        """The factory and its mailboxes provide their interfaces."""
        factory, mailbox = await self._opened([b"x\n"])
        self._case.assertTrue(verifyObject(IMaildropFactory, factory))
        self._case.assertTrue(verifyObject(IMailbox, mailbox))
        await mailbox.release()

    async def test_empty(self) -> None:
        """A user without mail has a mailbox without messages."""
        factory = await self._made({})
        mailbox = await factory.open_maildrop(b"nobody")
        self._case.assertEqual(len(mailbox.messages), 0)
        await mailbox.remove([])
        await mailbox.release()

    async def test_bytes_and_order(self) -> None:
        """Messages come in the order of delivery, their bytes as stored."""
        _, mailbox = await self._opened(SAMPLE_MESSAGES)
        self._case.assertEqual(await self._bodies(mailbox), SAMPLE_MESSAGES)
        await mailbox.release()

    async def test_octets(self) -> None:
        """Octets are those of the wire form (RFC 1725 section 10)."""
        _, mailbox = await self._opened(SAMPLE_MESSAGES)
        self._case.assertEqual(
            [message.octets for message in mailbox.messages],
            [naive_octets(message) for message in SAMPLE_MESSAGES],
        )
        await mailbox.release()

    async def test_downgraded(self) -> None:
        """A store that tells of downgraded forms at all tells of each, and its octets."""
        _, mailbox = await self._opened(SAMPLE_MESSAGES)
        told = mailbox.messages
        if told.downgraded or told.header_only:
            measured = [measure([message]) for message in SAMPLE_MESSAGES]
            self._case.assertEqual(list(told.sizes()), measured)
        await mailbox.release()

    async def test_unique_ids(self) -> None:
        """Unique-ids are legal, all different, and stay (RFC 1725 section 7)."""
        factory, mailbox = await self._opened([b"same\n", b"same\n", b"other\n"])
        first = [message.uid for message in mailbox.messages]
        for uid in first:
            self._case.assertTrue(re.fullmatch(rb"[\x21-\x7e]{1,70}", uid), uid)
        self._case.assertEqual(len(set(first)), 3)
        await mailbox.remove([mailbox.messages[0]])
        await mailbox.release()
        mailbox = await factory.open_maildrop(b"ann")
        self._case.assertEqual([message.uid for message in mailbox.messages], first[1:])
        await mailbox.release()

    async def test_exclusive(self) -> None:
        """A second session is refused until the first gives the lock up (section 4)."""
        factory, mailbox = await self._opened([b"x\n"])
        with self._case.assertRaises(MaildropBusy):
            await factory.open_maildrop(b"ann")
        await mailbox.release()
        mailbox = await factory.open_maildrop(b"ann")
        await mailbox.release()

    async def test_users_are_apart(self) -> None:
        """One user's lock and removals are not another's."""
        factory = await self._made({b"ann": [b"a\n"], b"bob": [b"b\n"]})
        anns = await factory.open_maildrop(b"ann")
        bobs = await factory.open_maildrop(b"bob")
        await anns.remove(anns.messages)
        self._case.assertEqual(await self._bodies(bobs), [b"b\n"])
        await anns.release()
        await bobs.release()

    async def test_nothing_removed_unasked(self) -> None:
        """Reading and releasing removes nothing (section 6)."""
        factory, mailbox = await self._opened(SAMPLE_MESSAGES)
        await self._bodies(mailbox)
        await mailbox.release()
        mailbox = await factory.open_maildrop(b"ann")
        self._case.assertEqual(await self._bodies(mailbox), SAMPLE_MESSAGES)
        await mailbox.release()

    async def test_remove(self) -> None:
        """What is removed is gone at the next session; the rest keeps its order."""
        factory, mailbox = await self._opened([b"1\n", b"2\n", b"3\n", b"4\n"])
        await mailbox.remove([mailbox.messages[2], mailbox.messages[0]])
        await mailbox.release()
        mailbox = await factory.open_maildrop(b"ann")
        self._case.assertEqual(await self._bodies(mailbox), [b"2\n", b"4\n"])
        await mailbox.release()

    async def test_retrieved(self) -> None:
        """A store that remembers what was retrieved knows the last of it, whatever is removed."""
        factory, mailbox = await self._opened([b"1\n", b"2\n", b"3\n"])
        record = IRetrievalRecord(mailbox, None)
        if record is not None:
            self._case.assertTrue(verifyObject(IRetrievalRecord, mailbox))
            await record.record_retrieved(mailbox.messages[:2])
            await mailbox.release()
            record = mailbox = await self._reopened(factory)
            self._case.assertEqual(await record.last_retrieved(), mailbox.messages[1])
            await mailbox.remove(mailbox.messages[:1])
            await mailbox.release()
            record = mailbox = await self._reopened(factory)
            self._case.assertEqual(await record.last_retrieved(), mailbox.messages[0])
            self._case.assertEqual(await self._bodies(mailbox), [b"2\n", b"3\n"])
        await mailbox.release()

    async def _reopened(self, factory: IMaildropFactory) -> Any:
        return await factory.open_maildrop(b"ann")

    async def test_snapshot(self) -> None:
        """Removing changes nothing in what the session saw."""
        _, mailbox = await self._opened([b"1\n", b"2\n"])
        seen = list(mailbox.messages)
        await mailbox.remove([mailbox.messages[0]])
        self._case.assertEqual(list(mailbox.messages), seen)
        await mailbox.release()

    async def test_vanished(self) -> None:
        """A vanished message cannot be opened, the others can, and removing it is no error."""
        factory, mailbox = await self._opened([b"1\n", b"2\n"])
        if self.remove_externally(factory, b"ann", 0):
            with self._case.assertRaises(NoSuchMessage):
                await mailbox.open(mailbox.messages[0])
            body = await mailbox.open(mailbox.messages[1])
            self._case.assertEqual(await read_all(body), b"2\n")
            await mailbox.remove(mailbox.messages)
        await mailbox.release()


async def read_all(body: Iterable[Chunk]) -> bytes:
    """Return a body whole, and close it."""
    read = [chunk if isinstance(chunk, bytes) else await chunk for chunk in body]
    close = getattr(body, "close", None)
    if close is not None:
        close()
    return b"".join(read)


def naive_octets(message: bytes) -> int:
    """Count the octets of a message's wire form in the plainest way, to check others against."""
    lines = message.replace(b"\r\n", b"\n").split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    return sum(len(line) + 2 for line in lines)
