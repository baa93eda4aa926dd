"""The life of a connection: greeting, TLS, and the ways in which it ends."""

import gc
import weakref

from OpenSSL import SSL
from twisted.cred.credentials import UsernamePassword
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer, ISSLTransport
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import directlyProvides
from zope.interface.verify import verifyObject

from popserv.auth.throttle.login_throttle import ClientThrottle
from popserv.commands import rfc1725
from popserv.errors import LoginFailed
from popserv.runtime.timeouts import TimeoutQueue
from popserv.server import connection, reply_writer
from popserv.server.protocol import POP3Server
from popserv.testing import MemoryClient, MemoryTransport
from tests.commands.harness import FakeTLSState
from tests.server.harness import REMOTE_PEER, ServerTestCase
from tests.server.test_body import Body


class GreetingTests(ServerTestCase):
    """The greeting (RFC 1725 section 4), and TLS from the first octet."""

    def test_interfaces(self):
        """The protocol provides the interfaces that its transport requires."""
        server = MemoryClient(self.factory).server
        self.assertTrue(verifyObject(IHalfCloseableProtocol, server))
        self.assertTrue(verifyObject(IPushProducer, server))

    def test_cleartext(self):
        """Cleartext passwords from other hosts are rejected, unless allow_plaintext is set."""
        client = self.connect(peer=REMOTE_PEER)
        for line in (b"USER ann", b"PASS pw"):
            self.assertEqual(
                client.send(line + b"\r\n"),
                b"-ERR cleartext passwords are not allowed without TLS\r\n",
            )
        self.factory = self.make_factory(allow_plaintext=True)
        client = self.connect(b"USER ann", peer=REMOTE_PEER)
        self.assertIn(b"+OK", client.send(b"PASS pw\r\n"))
        client.lose()

    def test_tls(self):
        """With TLS the greeting is sent after the handshake, and passwords are accepted."""
        server = self.factory.buildProtocol(None)
        server.callLater = Clock().callLater
        transport = MemoryTransport(peerAddress=REMOTE_PEER)
        directlyProvides(transport, ISSLTransport)
        transport.getHandle = lambda: SSL.Connection(SSL.Context(SSL.TLS_METHOD))
        server.makeConnection(transport)
        self.assertEqual((transport.value(), transport.producer), (b"", None))
        self.assertIsNone(server.tls_version())
        server.handshakeCompleted()
        self.assertEqual(transport.value(), b"+OK POP3 server ready\r\n")
        self.assertEqual((transport.producer, transport.streaming), (server, True))
        server.dataReceived(b"USER ann\r\nPASS pw\r\n")
        self.assertIn(b"maildrop has 2 messages", transport.value())

    def test_tls_version(self):
        """The version of TLS is known from the handshake until the connection is lost."""
        client = self.connect()
        server, transport = client.server, client.transport
        self.assertIsNone(server.tls_version())
        # As STLS does.
        transport.unregisterProducer()
        directlyProvides(transport, ISSLTransport)
        transport.getHandle = lambda: SSL.Connection(SSL.Context(SSL.TLS_METHOD))
        self.assertIsNone(server.tls_version())
        server.handshakeCompleted()
        for _ in range(2):
            self.assertTrue(server.tls_version().startswith("TLS"))
            server.end_session()

    def test_no_delay(self):
        """Replies do not wait for the acknowledgment of those before them."""
        delays = []
        self.patch(connection, "disable_nagle", delays.append)
        client = self.connect()
        self.assertEqual(delays, [client.transport])

    def test_handshake_fails(self):
        """The reason of a failed handshake is logged, unless the client has disconnected."""
        for error, completes, reason in [
            (ValueError("unusual"), False, "unusual"),
            (ValueError(), False, "ValueError"),
            (ValueError("unusual"), True, None),
            (ConnectionLost(), False, None),
        ]:
            server = self.factory.buildProtocol(None)
            transport = MemoryTransport(peerAddress=REMOTE_PEER)
            directlyProvides(transport, ISSLTransport)
            transport.getHandle = lambda: None
            server.makeConnection(transport)
            if completes:
                server.handshakeCompleted()
            server.connectionLost(Failure(error))
            logged = [event["reason"] for event in self.log if "reason" in event]
            self.assertEqual(logged, [reason] if reason else [])
            self.log._events.clear()


class ClientTests(ServerTestCase):
    """What the login throttle knows of a connection."""

    def test_is_connected(self):
        """A client is connected until the connection is lost, or found to be broken."""
        client = self.connect()
        self.assertTrue(client.server.is_connected())
        self.patch(connection, "has_disconnected", lambda transport: True)
        self.assertFalse(client.server.is_connected())
        self.patch(connection, "has_disconnected", lambda transport: False)
        client.lose()
        self.assertFalse(client.server.is_connected())

    def test_details(self):
        """The address of the client is known while it logs in."""
        details = self.connect(peer=REMOTE_PEER).server.details()
        self.assertEqual(details.remote, ("192.0.2.1", 4321))

    def test_clock(self):
        """Calls and times are those of the clock that the connections of a server share."""
        clock, called = Clock(), []
        self.factory.timeouts = TimeoutQueue(600, clock)
        server = self.factory.buildProtocol(None)
        clock.advance(7)
        self.assertEqual(server.seconds(), 7)
        server.callLater(3, lambda: called.append(server.seconds()))
        clock.advance(2)
        self.assertEqual(called, [])
        clock.advance(1)
        self.assertEqual(called, [10])

    def test_name(self):
        """The throttle is told the name with which the client logs in, if there is one."""
        names = []

        async def refuse(throttle, name, credentials):
            names.append(name)
            raise LoginFailed

        self.patch(ClientThrottle, "authenticate", refuse)
        server = self.connect().server
        for name in (b"ann", None):
            server.session.name = name
            logging_in = Deferred.fromCoroutine(server.authenticate(None))
            self.failureResultOf(logging_in, LoginFailed)
        self.assertEqual(names, [b"ann", b""])


class EndTests(ServerTestCase):
    """However a connection ends, the maildrop is released once and no mail is lost."""

    def test_lost_during_login(self):
        """A maildrop that is opened after the client has disconnected is released."""
        self.store.slow = {"login"}
        ann = self.connect(b"USER ann", b"PASS pw")
        ann.lose()
        self.store.waiting["login"].callback(None)
        self.assert_released()

    def test_freed(self):
        """Once a session and its connection have ended, Python need not look for cycles."""
        calls = Clock()
        self.patch(POP3Server, "callLater", lambda server, *call: calls.callLater(*call))
        gc.disable()
        self.addCleanup(gc.enable)
        for lines in ([], [b"USER ann", b"PASS pw", b"RETR 1", b"RETR 2", b"NOOP"], [b"QUIT"]):
            server = self.factory.buildProtocol(None)
            transport = MemoryTransport(peerAddress=IPv4Address("TCP", "127.0.0.1", 54321))
            server.makeConnection(transport)
            server.session.tls_state = FakeTLSState()
            server.session.tls_state.connection = server
            for line in lines:
                server.dataReceived(line + b"\r\n")
            transport.unregisterProducer()
            server.connectionLost(Failure(ConnectionDone()))
            reference = weakref.ref(server)
            del server
            self.assertIsNone(reference(), lines)

    def test_credentials_freed(self):
        """No object keeps a password after the reply to its login, whether accepted or refused."""
        references = []

        def make(*arguments):
            credentials = UsernamePassword(*arguments)
            references.append(weakref.ref(credentials))
            return credentials

        self.patch(rfc1725, "UsernamePassword", make)
        for password in (b"pw", b"wrong"):
            client = self.connect(b"USER ann")
            client.send(b"PASS " + password + b"\r\n")
            client.clock.advance(3)
            # A refusal has a traceback, whose frames are in a cycle.
            gc.collect()
            self.assertIsNone(references.pop()(), repr(password))
            client.lose()

    def test_last_reply(self):
        """The reply to QUIT leaves together with the end of the connection."""
        written = []

        def write(transport, octets, *, is_last=False):
            written.append((octets, is_last))

        self.patch(reply_writer, "write_now", write)
        self.connect(b"NOOP", b"QUIT")
        self.assertEqual([is_last for _, is_last in written], [False, False, True])

    def test_session_ended(self):
        """A subclass is told once that the session has ended and its mailbox is released."""
        ended = []
        ann = self.logged_in()
        ann.server.session_ended = lambda: ended.append(self.store.released)
        ann.send(b"QUIT\r\n")
        ann.lose()
        self.assertEqual(ended, [1])

    def test_lost_before_error(self):
        """A client may disconnect before the reply to a failed login."""
        ann = self.connect(b"USER ann", b"PASS wrong")
        ann.lose()
        ann.clock.advance(0)
        self.assertEqual(ann.clock.getDelayedCalls(), [])
        self.assert_released(0)

    def test_lost_before_late_error(self):
        """The delay of that reply may be as long as the idle timeout."""
        clock = Clock()
        self.factory = self.make_factory(idle_timeout=2)
        self.factory.timeouts = TimeoutQueue(2, clock)
        server = self.factory.buildProtocol(None)
        server.makeConnection(MemoryTransport(peerAddress=IPv4Address("TCP", "127.0.0.1", 54321)))
        server.dataReceived(b"USER ann\r\nPASS wrong\r\n")
        self.assertEqual(len(server.factory.timeouts._timeouts), 2)
        server.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(clock.getDelayedCalls(), [])
        self.assertTrue(server._has_ended)

    def test_lost_during_open(self):
        """A body that is opened after the client has disconnected is closed, and not sent."""
        ann = self.logged_in()
        waiting, body = Deferred(), Body(b"one\n")
        ann.server.session.mailbox.open = lambda message: waiting
        ann.send(b"RETR 1\r\n")
        ann.lose()
        waiting.callback(body)
        self.assertEqual((body.read, body.closed), (0, 1))
        self.assert_released()

    def test_lost_during_update(self):
        """A removal is completed after the client has disconnected; the lock is held until then."""
        self.store.slow = {"remove"}
        ann = self.logged_in()
        ann.send(b"DELE 1\r\nQUIT\r\n")
        ann.lose()
        self.assertEqual((self.store.locked, len(self.store.stored[b"ann"])), ({b"ann"}, 2))
        self.store.waiting["remove"].callback(None)
        self.assert_released()
        self.assertEqual(len(self.store.stored[b"ann"]), 1)

    def test_removal_fails(self):
        """QUIT replies -ERR if messages cannot be removed, and the connection closes."""
        self.store.slow = {"remove"}
        ann = self.logged_in()
        ann.send(b"DELE 1\r\nQUIT\r\nNOOP\r\n")
        self.store.waiting["remove"].errback(OSError("disk"))
        self.assertEqual(ann.received(), b"-ERR [SYS/TEMP] temporary failure, try again later\r\n")
        self.assertTrue(ann.closed)
        self.assert_released()
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_release_fails(self):
        """An error of release is logged."""
        self.store.slow = {"release"}
        ann = self.logged_in()
        ann.lose()
        self.store.waiting["release"].errback(OSError("disk"))
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_half_closed(self):
        """A client that closes its sending side gets all replies."""
        ann = self.connect()
        self.store.slow = {"login"}
        ann.send(b"USER ann\r\nPASS pw\r\nSTAT\r\nDELE 1\r\n")
        ann.server.readConnectionLost()
        self.assertFalse(ann.closed)
        # Over TLS, the end of the TCP connection must not be read.
        self.assertEqual(ann.transport.producerState, "paused")
        self.store.waiting["login"].callback(None)
        self.assertEqual(ann.received().count(b"+OK"), 3)
        self.assertTrue(ann.closed)
        ann.lose()
        self.assertEqual(len(self.store.stored[b"ann"]), 2)

    def test_half_closed_during_command(self):
        """While a command runs after that, a TLS transport does not read the end of TCP."""
        self.store.slow = {"login"}
        ann = self.connect(b"USER ann", b"PASS pw")
        self.assertEqual(ann.transport.producerState, "producing")
        ann.server.readConnectionLost()
        self.assertEqual(ann.transport.producerState, "paused")
        self.store.waiting["login"].callback(None)
        self.assertTrue(ann.closed)

    def test_half_closed_idle(self):
        """With no command pending, the server closes when the client closes its sending side."""
        ann = self.logged_in()
        ann.server.readConnectionLost()
        self.assertTrue(ann.closed)

    def test_half_closed_after_quit(self):
        """A client may close its sending side after QUIT."""
        ann = self.logged_in()
        ann.send(b"QUIT\r\n")
        ann.server.readConnectionLost()
        self.assertTrue(ann.closed)

    def test_half_closed_while_full(self):
        """A client that has closed its sending side may still read a body."""
        ann = self.logged_in()
        ann.server.pauseProducing()
        ann.send(b"HUGE\r\n")
        ann.server.readConnectionLost()
        self.assertFalse(ann.closed)
        ann.lose()
        self.assert_released()

    def test_write_side_lost(self):
        """A connection to which nothing can be sent is aborted."""
        ann = self.logged_in()
        ann.server.writeConnectionLost()
        self.assertTrue(ann.transport.aborted)

    def test_stop_producing(self):
        """After stopProducing no commands are run."""
        ann = self.logged_in()
        ann.server.stopProducing()
        self.assertEqual(ann.send(b"NOOP\r\n"), b"")

    def test_lines_after_quit(self):
        """Lines after the one that closes the connection are ignored."""
        ann = self.logged_in()
        ann.send(b"QUIT\r\n")
        ann.server.lineReceived(b"NOOP")
        self.assertEqual(ann.received(), b"")
