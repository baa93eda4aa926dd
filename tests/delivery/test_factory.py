"""popserv.delivery.factory: the number of connections."""

from socket import gethostname

from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from popserv.delivery.factory import LMTPFactory
from popserv.interfaces import IFinalDelivery
from tests.delivery.harness import Client, LMTPCase


class FactoryTests(LMTPCase):
    """LMTPFactory."""

    def test_limit(self):
        """A connection above the limit is refused for now; one that ends makes room."""
        factory = self.make_factory(max_connections=2)
        first, _ = self.connect(factory), self.connect(factory)
        third = Client(factory)
        self.assertEqual(third.received(), b"421 4.3.2 too many connections, try again later\r\n")
        self.assertEqual(third.ask(b"LHLO x"), [])
        third.lose()
        first.lose()
        self.connect(factory)

    def test_host(self):
        """The default name is that of the machine; 100 connections are the default limit."""
        factory = LMTPFactory(self.store, self.factory.recipients)
        self.assertEqual(factory.host, gethostname().encode())
        self.assertEqual(factory.max_connections, 100)
        self.assertFalse(factory.noisy)
        verifyObject(IFinalDelivery, self.store)


class DrainTests(LMTPCase):
    """The last port is closed: connections end, and no message is lost or delivered twice."""

    STOPPING = "421 4.3.2 the server is stopping, try again later"

    def stop(self):
        """Close the port."""
        self.factory.doStart()
        self.factory.doStop()

    def test_idle(self):
        """A connection without a message is closed at once."""
        self.stop()
        self.assertEqual(self.client.received().decode(), f"{self.STOPPING}\r\n")
        self.assertTrue(self.client.transport.disconnecting)
        self.client.lose()
        self.assertEqual(len(self.factory.connections), 0)

    def test_message(self):
        """A message on its way is taken, and the connection closed after its reply."""
        self.begin(b"ann")
        self.stop()
        self.assertEqual(self.client.received(), b"")
        replies = self.client.send(b"x\r\n.\r\n").decode().splitlines()
        self.assertEqual(replies, ["250 2.0.0 message delivered", self.STOPPING])
        self.assertEqual(len(self.store.messages(b"ann")), 1)

    def test_delivery(self):
        """A delivery that has begun is waited for."""
        self.begin(b"ann")
        self.store.waiting = Deferred()
        self.client.send(b"x\r\n.\r\n")
        self.stop()
        self.assertEqual(self.client.received(), b"")
        self.store.waiting.callback(None)
        replies = self.client.received().decode().splitlines()
        self.assertEqual(replies, ["250 2.0.0 message delivered", self.STOPPING])

    def test_next(self):
        """A client that has sent more commands already is told at the next, or ends by itself."""
        for command, reply in ((b"MAIL FROM:<>", self.STOPPING), (b"QUIT", None)):
            self.factory = self.make_factory()
            self.client = self.connect()
            self.begin(b"ann")
            self.stop()
            replies = self.client.send(b"x\r\n.\r\n" + command + b"\r\nNOOP\r\n").decode()
            delivered, last = replies.splitlines()
            self.assertEqual(delivered[:3], "250")
            self.assertEqual(last, reply or "221 2.0.0 closing the connection")
