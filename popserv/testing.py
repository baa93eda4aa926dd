"""Support for the tests of servers and stores that are built on popserv.

:class:`MailboxContract` has the tests that every store must pass.  :class:`MemoryClient`
connects to a server in memory, with a clock that the test advances.
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
from popserv.messages.downgrade.downgrader import Downgrader
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
"""Messages that a store may contain; together they exercise every rule of the wire form."""


class MemoryTransport(StringTransport):
    """A transport in memory, which records whether the connection was aborted."""

    aborted = False

    def unregisterProducer(self) -> None:
        """Unregister the producer, if there is one; StringTransport raises if there is none."""
        self.producer = None

    def abortConnection(self) -> None:
        """Record that the connection was aborted, and close it."""
        self.aborted = True
        self.loseConnection()


class MemoryClient:
    """A client that is connected to a server in memory.

    Time passes only when the test calls ``clock.advance(seconds)``.  ``peer`` is the client's
    address; the default is an address of the loopback interface.
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
        """Send octets as one packet, and return the octets that the server has sent."""
        self.server.dataReceived(octets)
        # Run the calls that the server has scheduled for the next turn of the reactor.
        self.clock.advance(0)
        return self.received()

    def received(self) -> bytes:
        """Return the octets that the server has sent since the last call."""
        octets: bytes = self.transport.value()
        self.transport.clear()
        return octets

    def lose(self) -> None:
        """Lose the connection, as if the client had disconnected."""
        self.server.connectionLost(Failure(ConnectionDone()))

    @property
    def closed(self) -> bool:
        """Whether the server has closed the connection."""
        return self.transport.disconnecting


class MailboxContract:
    """The tests that every store must pass, to mix into a ``twisted.trial.unittest.TestCase``.

    Define ``make_factory(messages)``.  It returns an IMaildropFactory, or an awaitable of one,
    whose mailboxes contain the messages of each user, in this order and unchanged.  Override
    :meth:`remove_externally` if other programs can remove messages from the store.
    """

    make_factory: Callable[[dict[bytes, list[bytes]]], object]
    """Returns a store of the messages, which are a list for each user name."""

    def remove_externally(self, factory: IMaildropFactory, user: bytes, index: int) -> bool:
        """Remove a user's message as another program would, and return True.

        ``index`` is the position of the message.  The default returns False: no other program
        can remove messages from the store.
        """
        return False

    # The assertions of the TestCase that this class is mixed into.
    @property
    def _case(self) -> TestCase:
        return cast(TestCase, self)

    async def _open(self, messages: list[bytes]) -> tuple[IMaildropFactory, IMailbox]:
        factory = await self._make_store({b"ann": messages})
        return factory, await factory.open_maildrop(b"ann")

    async def _make_store(self, messages: dict[bytes, list[bytes]]) -> IMaildropFactory:
        store = self.make_factory(messages)
        return cast(IMaildropFactory, await store if isawaitable(store) else store)

    async def _read_messages(self, mailbox: IMailbox) -> list[bytes]:
        return [await read_all(await mailbox.open(message)) for message in mailbox.messages]

    async def test_interfaces(self) -> None:
        """The factory and its mailboxes provide their interfaces."""
        factory, mailbox = await self._open([b"x\n"])
        self._case.assertTrue(verifyObject(IMaildropFactory, factory))
        self._case.assertTrue(verifyObject(IMailbox, mailbox))
        await mailbox.release()

    async def test_no_mail(self) -> None:
        """A user without mail has an empty mailbox."""
        factory = await self._make_store({})
        mailbox = await factory.open_maildrop(b"nobody")
        self._case.assertEqual(len(mailbox.messages), 0)
        await mailbox.remove([])
        await mailbox.release()

    async def test_messages_as_stored(self) -> None:
        """Messages are in the order of delivery, with their octets as stored."""
        _, mailbox = await self._open(SAMPLE_MESSAGES)
        self._case.assertEqual(await self._read_messages(mailbox), SAMPLE_MESSAGES)
        await mailbox.release()

    async def test_octets(self) -> None:
        """The octets of a message are those of its wire form (RFC 1725 section 10)."""
        _, mailbox = await self._open(SAMPLE_MESSAGES)
        self._case.assertEqual(
            [message.octets for message in mailbox.messages],
            [naive_octets(message) for message in SAMPLE_MESSAGES],
        )
        await mailbox.release()

    async def test_sizes(self) -> None:
        """A store that measures downgraded forms does so for each message."""
        _, mailbox = await self._open(SAMPLE_MESSAGES)
        messages = mailbox.messages
        if messages.downgraded or messages.header_only:
            downgrader = Downgrader if messages.downgraded else None
            measured = [measure([message], downgrader) for message in SAMPLE_MESSAGES]
            self._case.assertEqual(list(messages.sizes()), measured)
        await mailbox.release()

    async def test_unique_ids(self) -> None:
        """Unique-ids are valid, unique, and the same in later sessions (RFC 1725 section 7)."""
        factory, mailbox = await self._open([b"same\n", b"same\n", b"other\n"])
        first = [message.uid for message in mailbox.messages]
        for uid in first:
            self._case.assertTrue(re.fullmatch(rb"[\x21-\x7e]{1,70}", uid), uid)
        self._case.assertEqual(len(set(first)), 3)
        await mailbox.remove([mailbox.messages[0]])
        await mailbox.release()
        mailbox = await factory.open_maildrop(b"ann")
        self._case.assertEqual([message.uid for message in mailbox.messages], first[1:])
        await mailbox.release()

    async def test_equal_messages(self) -> None:
        """Of messages with the same octets, each has its unique-id until it is removed."""
        for at in range(3):
            factory, mailbox = await self._open([b"same\n"] * 3)
            uids = [message.uid for message in mailbox.messages]
            await mailbox.remove([mailbox.messages[at]])
            await mailbox.release()
            for _ in range(2):
                mailbox = await factory.open_maildrop(b"ann")
                self._case.assertEqual(
                    [message.uid for message in mailbox.messages], uids[:at] + uids[at + 1 :]
                )
                await mailbox.release()

    async def test_exclusive(self) -> None:
        """A second session cannot open a mailbox until the first releases the lock (section 4)."""
        factory, mailbox = await self._open([b"x\n"])
        with self._case.assertRaises(MaildropBusy):
            await factory.open_maildrop(b"ann")
        await mailbox.release()
        mailbox = await factory.open_maildrop(b"ann")
        await mailbox.release()

    async def test_users_are_independent(self) -> None:
        """The lock and the removals of one user do not affect another."""
        factory = await self._make_store({b"ann": [b"a\n"], b"bob": [b"b\n"]})
        anns = await factory.open_maildrop(b"ann")
        bobs = await factory.open_maildrop(b"bob")
        await anns.remove(anns.messages)
        self._case.assertEqual(await self._read_messages(bobs), [b"b\n"])
        await anns.release()
        await bobs.release()

    async def test_reading_removes_nothing(self) -> None:
        """Reading and releasing a mailbox removes no messages (section 6)."""
        factory, mailbox = await self._open(SAMPLE_MESSAGES)
        await self._read_messages(mailbox)
        await mailbox.release()
        mailbox = await factory.open_maildrop(b"ann")
        self._case.assertEqual(await self._read_messages(mailbox), SAMPLE_MESSAGES)
        await mailbox.release()

    async def test_remove(self) -> None:
        """Removed messages are absent from the next session; the others keep their order."""
        factory, mailbox = await self._open([b"1\n", b"2\n", b"3\n", b"4\n"])
        await mailbox.remove([mailbox.messages[2], mailbox.messages[0]])
        await mailbox.release()
        mailbox = await factory.open_maildrop(b"ann")
        self._case.assertEqual(await self._read_messages(mailbox), [b"2\n", b"4\n"])
        await mailbox.release()

    async def test_retrieved(self) -> None:
        """A store with IRetrievalRecord returns the last retrieved message that remains."""
        factory, mailbox = await self._open([b"1\n", b"2\n", b"3\n"])
        record = IRetrievalRecord(mailbox, None)
        if record is not None:
            self._case.assertTrue(verifyObject(IRetrievalRecord, mailbox))
            await record.record_retrieved(mailbox.messages[:2])
            await mailbox.release()
            record = mailbox = await self._reopen(factory)
            self._case.assertEqual(await record.last_retrieved(), mailbox.messages[1])
            await mailbox.remove(mailbox.messages[:1])
            await mailbox.release()
            record = mailbox = await self._reopen(factory)
            self._case.assertEqual(await record.last_retrieved(), mailbox.messages[0])
            self._case.assertEqual(await self._read_messages(mailbox), [b"2\n", b"3\n"])
        await mailbox.release()

    async def _reopen(self, factory: IMaildropFactory) -> Any:
        return await factory.open_maildrop(b"ann")

    async def test_snapshot(self) -> None:
        """Removing messages does not change the snapshot of the session."""
        _, mailbox = await self._open([b"1\n", b"2\n"])
        before = list(mailbox.messages)
        await mailbox.remove([mailbox.messages[0]])
        self._case.assertEqual(list(mailbox.messages), before)
        await mailbox.release()

    async def test_removed_externally(self) -> None:
        """A message that another program removed cannot be opened; removing it is no error."""
        factory, mailbox = await self._open([b"1\n", b"2\n"])
        if self.remove_externally(factory, b"ann", 0):
            with self._case.assertRaises(NoSuchMessage):
                await mailbox.open(mailbox.messages[0])
            body = await mailbox.open(mailbox.messages[1])
            self._case.assertEqual(await read_all(body), b"2\n")
            await mailbox.remove(mailbox.messages)
        await mailbox.release()


async def read_all(body: Iterable[Chunk]) -> bytes:
    """Return the octets of a message that a mailbox has opened, and close it."""
    chunks = [chunk if isinstance(chunk, bytes) else await chunk for chunk in body]
    close = getattr(body, "close", None)
    if close is not None:
        close()
    return b"".join(chunks)


def naive_octets(message: bytes) -> int:
    """Return the octets of a message's wire form, counted in the simplest way, as an oracle."""
    lines = message.replace(b"\r\n", b"\n").split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    return sum(len(line) + 2 for line in lines)
