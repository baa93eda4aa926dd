"""popserv.delivery.connection: time-outs, back-pressure, and closing."""

from unittest import mock

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol, ITCPTransport
from zope.interface import alsoProvides
from zope.interface.verify import verifyObject

from popserv.delivery.connection import CLOSE_TIMEOUT
from tests.delivery.harness import LMTPCase


class ConnectionTests(LMTPCase):
    """OrderedConnection, as LMTP has it."""

    def test_idle(self):
        """A silent client is told so, and disconnected; input starts the time anew."""
        self.client.clock.advance(299)
        self.client.ask(b"NOOP")
        self.client.clock.advance(299)
        self.assertEqual(self.client.received(), b"")
        self.client.clock.advance(1)
        self.assertEqual(self.client.received(), b"421 4.4.2 timeout, closing the connection\r\n")
        self.assertTrue(self.client.transport.disconnecting)
        self.client.lose()
        self.assertEqual(self.client.clock.getDelayedCalls(), [])

    def test_close(self):
        """A client that does not read the last reply is disconnected all the same."""
        self.client.ask(b"QUIT")
        self.assertFalse(self.client.transport.aborted)
        # A transport with a producer would not close.
        self.assertIsNone(self.client.transport.producer)
        self.client.clock.advance(CLOSE_TIMEOUT)
        self.assertTrue(self.client.transport.aborted)

    def test_back_pressure(self):
        """Who does not read replies is not read either."""
        protocol, transport = self.client.protocol, self.client.transport
        self.assertEqual((transport.producer, transport.streaming), (protocol, True))
        protocol.pauseProducing()
        self.assertEqual(self.client.transport.producerState, "paused")
        self.assertEqual(self.client.ask(b"NOOP"), [])
        protocol.resumeProducing()
        self.assertEqual(self.client.received(), b"250 2.0.0 ok\r\n")
        self.assertEqual(self.client.transport.producerState, "producing")
        protocol.stopProducing()

    def test_back_pressure_while_busy(self):
        """Input goes on only if both reasons to wait are gone."""
        self.store.waiting = Deferred()
        self.begin()
        self.client.ask(b"x", b".", b"NOOP")
        self.client.protocol.pauseProducing()
        self.client.protocol.resumeProducing()
        self.assertEqual(self.client.transport.producerState, "paused")
        self.client.protocol.pauseProducing()
        self.store.waiting.callback(None)
        self.assertEqual(self.client.received(), b"250 2.0.0 message delivered\r\n")
        self.client.protocol.resumeProducing()
        self.assertEqual(self.client.received(), b"250 2.0.0 ok\r\n")

    def test_half_closed(self):
        """A client that closes its sending half gets all replies; then the server closes."""
        self.assertTrue(verifyObject(IHalfCloseableProtocol, self.client.protocol))
        self.store.waiting = Deferred()
        self.begin()
        # The last line has no end.
        self.client.send(b"x\r\n.\r\nNOOP\r\nRSET")
        self.client.protocol.readConnectionLost()
        self.assertFalse(self.client.transport.disconnecting)
        self.store.waiting.callback(None)
        replies = b"250 2.0.0 message delivered\r\n250 2.0.0 ok\r\n"
        self.assertEqual(self.client.received(), replies)
        self.assertTrue(self.client.transport.disconnecting)
        self.client.lose()
        self.assertEqual(len(self.store.messages(b"ann")), 1)
        self.assertEqual(self.client.clock.getDelayedCalls(), [])

    def test_half_closed_within_message(self):
        """A message without its end is not delivered."""
        self.begin()
        self.client.ask(b"x")
        self.client.protocol.readConnectionLost()
        self.assertTrue(self.client.transport.disconnecting)
        self.client.lose()
        self.assertEqual(self.store.messages(b"ann"), [])

    def test_half_closed_while_full(self):
        """Input that waits for the client to read is still processed."""
        self.client.protocol.pauseProducing()
        self.client.ask(b"NOOP")
        self.client.protocol.readConnectionLost()
        self.assertFalse(self.client.transport.disconnecting)
        self.client.protocol.resumeProducing()
        self.assertEqual(self.client.received(), b"250 2.0.0 ok\r\n")
        self.assertTrue(self.client.transport.disconnecting)

    def test_write_side_lost(self):
        """A connection to which nothing can be sent is aborted."""
        self.client.protocol.writeConnectionLost()
        self.assertTrue(self.client.transport.aborted)

    def test_fault(self):
        """A fault of this program ends the connection, once."""
        for is_lost in (False, True):
            client = self.connect()
            waiting = Deferred()

            async def fail(waiting=waiting):
                await waiting
                raise KeyError("secret")

            client.protocol.run(fail())
            if is_lost:
                client.lose()
            waiting.callback(None)
            reply = b"421 4.3.0 internal error, closing the connection\r\n"
            self.assertEqual(client.received(), b"" if is_lost else reply)
            self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_tcp(self):
        """Replies are not delayed."""
        client = self.connect()
        client.transport.setTcpNoDelay = mock.Mock()
        alsoProvides(client.transport, ITCPTransport)
        client.transport.unregisterProducer()
        client.protocol.connectionMade()
        client.transport.setTcpNoDelay.assert_called_once_with(True)
