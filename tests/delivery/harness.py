"""An LMTP client in memory, and a store whose deliveries can wait or fail."""

from twisted.internet.address import UNIXAddress
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from popserv.delivery.factory import LMTPFactory
from popserv.delivery.recipients import Recipients
from popserv.maildrops.memory import MemoryMaildrops
from popserv.testing import MemoryTransport
from tests.maildrops.maildir.harness import run_inline


class Maildrops(MemoryMaildrops):
    """Maildrops in memory.

    ``errors`` are raised by deliveries to a user, and a ``waiting`` Deferred is awaited by all.
    """

    def __init__(self):
        super().__init__()
        self.errors = {}
        self.waiting = None

    async def deliver_new(self, user, settings, message):
        """See IFinalDelivery."""
        if self.waiting is not None:
            await self.waiting
        if user in self.errors:
            raise self.errors[user]
        return await super().deliver_new(user, settings, message)

    def messages(self, user):
        """Return the messages that a user has."""
        return list(self.stored.get(user, {}).values())


class Client:
    """A client that is connected to a server in memory."""

    def __init__(self, factory):
        self.clock = Clock()
        self.transport = MemoryTransport(peerAddress=UNIXAddress(None))
        self.protocol = factory.buildProtocol(None)
        self.protocol.callLater = self.clock.callLater
        self.protocol.makeConnection(self.transport)

    def send(self, octets):
        """Send octets, and return the replies."""
        self.protocol.dataReceived(octets)
        return self.received()

    def ask(self, *lines):
        """Send lines, and return the lines of the replies."""
        return self.send(b"".join(line + b"\r\n" for line in lines)).decode().splitlines()

    def received(self):
        """Return what the server has sent since the last call."""
        octets = self.transport.value()
        self.transport.clear()
        return octets

    def lose(self):
        """Lose the connection."""
        self.protocol.connectionLost(Failure(ConnectionDone()))


class LMTPCase(SynchronousTestCase):
    """A server for the users ann, bob and cid."""

    def setUp(self):
        """Make the server and a client that has sent LHLO."""
        self.store = Maildrops()
        for user in (b"ann", b"bob", b"cid"):
            self.store.stored[user] = {}
        self.factory = self.make_factory()
        self.client = self.connect()
        self.events = EventLoggingObserver()
        globalLogPublisher.addObserver(self.events)
        self.addCleanup(globalLogPublisher.removeObserver, self.events)

    def make_factory(self, **settings):
        """Return a factory whose users are those of the store."""
        recipients = Recipients(self.store, [], local_part_only=True)
        return LMTPFactory(
            self.store, recipients, host=b"mail.example.org", **{"run": run_inline, **settings}
        )

    def connect(self, factory=None):
        """Return a client that has sent LHLO."""
        client = Client(factory or self.factory)
        self.assertEqual(client.received(), b"220 mail.example.org LMTP server ready\r\n")
        self.assertEqual(client.ask(b"LHLO client")[-1][:4], "250 ")
        return client

    def begin(self, *recipients, client=None, sender=b"<sam@example.org>"):
        """Begin a message to recipients; it goes to ann by default."""
        replies = (client or self.client).ask(
            b"MAIL FROM:" + sender,
            *(b"RCPT TO:<%b@example.org>" % each for each in recipients or [b"ann"]),
            b"DATA",
        )
        self.assertEqual({each[:3] for each in replies[:-1]}, {"250"})
        self.assertEqual(replies[-1][:3], "354")

    def lines(self):
        """Return the lines that popserv.delivery has logged since the last call."""
        lines = [
            formatEvent(event)
            for event in self.events
            if event["log_namespace"] == "popserv.delivery"
        ]
        self.events._events.clear()
        for line in lines:
            self.assertTrue(line.startswith("UNIX socket: "), line)
        return [line.removeprefix("UNIX socket: ") for line in lines]
