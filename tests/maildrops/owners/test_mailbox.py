"""Tests of popserv.maildrops.owners.mailbox."""

from operator import length_hint

from twisted.internet.defer import succeed
from zope.interface import implementer
from zope.interface.verify import verifyObject

from popserv.core.snapshot import Message, Snapshot
from popserv.interfaces import (
    ICachedMessages,
    IDeliveryTimes,
    IMailbox,
    IMessageDetails,
    IRetrievalRecord,
    ISizeCache,
)
from popserv.maildrops.owners.mailbox import OwnedMailbox
from popserv.runtime.file_credentials import current
from popserv.testing import read_all
from tests.maildrops.maildir.harness import result
from tests.runtime.harness import ANN, CredentialsCase

INTERFACES = (ICachedMessages, IDeliveryTimes, IMessageDetails, IRetrievalRecord, ISizeCache)

MESSAGE = Message(1, b"x", 0)


def as_whom(*args):
    """Return the arguments, and the credentials of this thread."""
    return (*args, current())


async def soon(*args):
    """Return the same in a coroutine."""
    return as_whom(*args)


@implementer(*INTERFACES)
class Watched:
    """A mailbox whose methods return as whom they are called."""

    messages = Snapshot()
    read_cached = details = delivery_times = staticmethod(as_whom)
    remove = release = discard_sizes = last_retrieved = record_retrieved = staticmethod(soon)
    body = ()

    async def open(self, message):
        """Return the body of the test."""
        return self.body


class Body:
    """A body whose chunks say as whom they were read."""

    def __init__(self, *chunks):
        self.chunks = chunks
        self.seen = []

    def __iter__(self):
        self.seen.append(current())
        for chunk in self.chunks:
            self.seen.append(current())
            yield chunk

    def close(self):
        """Note as whom it is closed."""
        self.seen.append(current())


class OwnedMailboxTests(CredentialsCase):
    """All methods of a mailbox run with its owner's credentials, and return what they return."""

    def setUp(self):
        """Make a mailbox of Ann's."""
        super().setUp()
        self.inner = Watched()
        self.mailbox = OwnedMailbox(self.inner, ANN)

    def test_interfaces(self):
        """It provides what the mailbox provides, and nothing else."""
        for interface in INTERFACES:
            verifyObject(interface, self.mailbox)
        only = implementer(IMailbox)(type("Only", (), {"messages": Snapshot()}))
        self.assertFalse(any(each.providedBy(OwnedMailbox(only(), ANN)) for each in INTERFACES))
        self.assertIs(self.mailbox.messages, self.inner.messages)

    def test_methods(self):
        """Each method runs as Ann."""
        box = self.mailbox
        self.assertEqual(box.read_cached(MESSAGE, 7), (MESSAGE, 7, ANN))
        self.assertEqual(box.details(), (ANN,))
        self.assertEqual(box.delivery_times(), (ANN,))
        for method in (box.release, box.discard_sizes, box.last_retrieved):
            self.assertEqual(result(method()), (ANN,))
        for method in (box.remove, box.record_retrieved):
            self.assertEqual(result(method([MESSAGE])), ([MESSAGE], ANN))

    def test_exception(self):
        """After an exception the thread has its own credentials."""
        self.inner.read_cached = self.inner.details = lambda *_: 1 // 0
        self.assertRaises(ZeroDivisionError, self.mailbox.read_cached, MESSAGE, 1)
        self.assertRaises(ZeroDivisionError, self.mailbox.details)

    def open(self, body):
        """Return the body of a message."""
        self.inner.body = body
        return result(self.mailbox.open(MESSAGE))

    def test_whole_body(self):
        """A body that has been read is passed on."""
        body = (b"x\n",)
        self.assertIs(self.open(body), body)

    def test_body(self):
        """Chunks are read as Ann, those in a thread as well, and the body is closed as Ann."""
        awaited = []

        async def chunk():
            awaited.append(current())
            return b"2\n"

        inner = Body(b"1\n", chunk(), succeed(b"3\n"))
        self.assertEqual(result(read_all(self.open(inner))), b"1\n2\n3\n")
        self.assertEqual(awaited, [ANN])
        self.assertEqual(inner.seen, [ANN] * 5)

    def test_no_close(self):
        """A body need not have a method close."""
        body = self.open([b"1\n"])
        self.assertEqual([*body], [b"1\n"])
        body.close()

    def test_length_hint(self):
        """What is known of the number of chunks is passed on, and nothing else is claimed."""
        self.assertEqual(length_hint(iter(self.open([b"1", b"2"])), 1), 2)
        chunks = iter(self.open([b"1"]))
        next(chunks)
        self.assertEqual(length_hint(chunks, 1), 0)
        self.assertEqual(length_hint(iter(self.open(Body(b"1"))), 7), 1)
        self.assertIs(iter(chunks), chunks)
