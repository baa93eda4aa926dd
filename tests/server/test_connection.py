"""The life of a connection: greeting, TLS, and all ways in which it ends."""

from twisted.internet.address import UNIXAddress
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer, ISSLTransport
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import directlyProvides
from zope.interface.verify import verifyObject

from popserv.testing import MemoryClient, MemoryTransport
from tests.server.harness import STRANGER, ProtocolCase


class GreetingTests(ProtocolCase):
    """RFC 1725 section 4."""

    def test_interfaces(self):
        """The protocol is what its transport takes it for."""
        server = MemoryClient(self.factory).server
        self.assertTrue(verifyObject(IHalfCloseableProtocol, server))
        self.assertTrue(verifyObject(IPushProducer, server))

    def test_passwords_need_privacy(self):
        """A password from elsewhere is not taken in the clear, and the session lives."""
        stranger = self.connect(peer=STRANGER)
        for line in (b"USER ann", b"PASS pw"):
            self.assertEqual(
                stranger.send(line + b"\r\n"),
                b"-ERR cleartext passwords are not allowed without TLS\r\n",
            )
        self.factory = self.make_factory(allow_plaintext=True)
        stranger = self.connect(b"USER ann", peer=STRANGER)
        self.assertIn(b"+OK", stranger.send(b"PASS pw\r\n"))
        stranger.lose()

    def test_tls(self):
        """Over TLS the greeting waits for the handshake, and passwords are private."""
        server = self.factory.buildProtocol(None)
        server.callLater = Clock().callLater
        transport = MemoryTransport(peerAddress=STRANGER)
        directlyProvides(transport, ISSLTransport)
        transport.getHandle = lambda: None
        server.makeConnection(transport)
        self.assertEqual((transport.value(), transport.producer), (b"", None))
        server.handshakeCompleted()
        self.assertEqual(transport.value(), b"+OK POP3 server ready\r\n")
        self.assertIs(transport.producer, server)
        server.dataReceived(b"USER ann\r\nPASS pw\r\n")
        self.assertIn(b"maildrop has 2 messages", transport.value())

    def test_no_tls(self):
        """Why a handshake failed is logged, but not that a client went away in it."""
        for error, told in [
            (ValueError("odd"), "odd"),
            (ValueError(), "ValueError"),
            (ConnectionLost(), None),
        ]:
            server = self.factory.buildProtocol(None)
            transport = MemoryTransport(peerAddress=STRANGER)
            directlyProvides(transport, ISSLTransport)
            transport.getHandle = lambda: None
            server.makeConnection(transport)
            server.connectionLost(Failure(error))
            logged = [event["reason"] for event in self.log if "reason" in event]
            self.assertEqual(logged, [told] if told else [])
            self.log._events.clear()


class EndTests(ProtocolCase):
    """Whatever way a connection ends, the lock is given up once and no mail is lost."""

    def test_lost_while_logging_in(self):
        """A lock that is got after client disconnected is given up at once."""
        self.store.slow = {"login"}
        ann = self.connect(b"USER ann", b"PASS pw")
        ann.lose()
        self.store.waiting["login"].callback(None)
        self.assertReleased()

    def test_lost_while_refused(self):
        """A client that goes before it is refused is not missed."""
        ann = self.connect(b"USER ann", b"PASS wrong")
        ann.lose()
        ann.clock.advance(3)
        self.assertReleased(0)

    def test_lost_while_opening(self):
        """A body that nobody wants any more is closed."""
        self.store.slow = {"open"}
        ann = self.logged_in()
        ann.send(b"RETR 1\r\n")
        ann.lose()
        self.store.waiting["open"].callback(None)
        self.assertReleased()

    def test_lost_while_removing(self):
        """A removal that has begun is not interrupted, and the lock is held till it is over."""
        self.store.slow = {"remove"}
        ann = self.logged_in()
        ann.send(b"DELE 1\r\nQUIT\r\n")
        ann.lose()
        self.assertEqual((self.store.locked, len(self.store.stored[b"ann"])), ({b"ann"}, 2))
        self.store.waiting["remove"].callback(None)
        self.assertReleased()
        self.assertEqual(len(self.store.stored[b"ann"]), 1)

    def test_removal_fails(self):
        """QUIT says that deletions failed, and the connection closes all the same."""
        self.store.slow = {"remove"}
        ann = self.logged_in()
        ann.send(b"DELE 1\r\nQUIT\r\nNOOP\r\n")
        self.store.waiting["remove"].errback(OSError("disk"))
        self.assertEqual(ann.received(), b"-ERR [SYS/TEMP] temporary failure, try again later\r\n")
        self.assertTrue(ann.closed)
        self.assertReleased()
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_release_fails(self):
        """A lock that cannot be given up is logged."""
        ann = self.logged_in()

        async def release():
            raise OSError("disk")

        ann.server.session._release = release
        ann.lose()
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_half_closed(self):
        """A client that sends all and closes its side gets all its answers."""
        ann = self.connect()
        self.store.slow = {"login"}
        ann.send(b"USER ann\r\nPASS pw\r\nSTAT\r\nDELE 1\r\n")
        ann.server.readConnectionLost()
        self.assertFalse(ann.closed)
        self.store.waiting["login"].callback(None)
        self.assertEqual(ann.received().count(b"+OK"), 3)
        self.assertTrue(ann.closed)
        ann.lose()
        self.assertEqual(len(self.store.stored[b"ann"]), 2)

    def test_half_closed_idle(self):
        """A client that closes its side with nothing under way is gone."""
        ann = self.logged_in()
        ann.server.readConnectionLost()
        self.assertTrue(ann.closed)

    def test_half_closed_after_quit(self):
        """A client may close its side while the server closes the connection."""
        ann = self.logged_in()
        ann.send(b"QUIT\r\n")
        ann.server.readConnectionLost()
        self.assertTrue(ann.closed)

    def test_half_closed_while_full(self):
        """Answers that the client has yet to read are still for it to read."""
        ann = self.logged_in()
        ann.server.pauseProducing()
        ann.send(b"HUGE\r\n")
        ann.server.readConnectionLost()
        self.assertFalse(ann.closed)
        ann.lose()
        self.assertReleased()

    def test_write_side_lost(self):
        """A client that can be told nothing is let go."""
        ann = self.logged_in()
        ann.server.writeConnectionLost()
        self.assertTrue(ann.transport.aborted)

    def test_stop_producing(self):
        """A transport's last word stops input."""
        ann = self.logged_in()
        ann.server.stopProducing()
        self.assertEqual(ann.send(b"NOOP\r\n"), b"")

    def test_nothing_after_closing(self):
        """Lines behind the one that closes are not obeyed."""
        ann = self.logged_in()
        ann.send(b"QUIT\r\n")
        ann.server.lineReceived(b"NOOP")
        self.assertEqual(ann.received(), b"")


class LogTests(ProtocolCase):
    """What is logged of a session."""

    def test_session_line(self):
        """A session's end is logged with who it was and what was removed."""
        ann = self.logged_in()
        ann.send(b"DELE 2\r\nQUIT\r\n")
        ann.lose()
        event = next(event for event in self.log if "removed" in event)
        self.assertEqual(
            (event["peer"], event["user"], event["removed"], event["left"]),
            ("127.0.0.1:54321", b"ann", 1, 1),
        )

    def test_peer_without_port(self):
        """A peer on a UNIX socket has no port to log."""
        ann = self.connect(b"USER ann", b"PASS pw", b"QUIT", peer=UNIXAddress(b"/s"))
        ann.lose()
        event = next(event for event in self.log if "removed" in event)
        self.assertEqual(event["peer"], "UNIX socket")
