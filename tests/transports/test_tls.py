"""TLS on a transport: what is sent together, back-pressure, and how a connection ends."""

import contextlib
import ssl

from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IHandshakeListener,
    INegotiated,
    IProtocolFactory,
    IReactorTCP,
    ISSLTransport,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import CertificateOptions
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from popserv.tls.certificates import Certificates
from popserv.transports import tls
from popserv.transports.tls import TLSFactory, TLSTransport
from tests.tls.harness import SERVER_CERTIFICATE, client_context
from tests.transcripts import SocketPeer


def load(test):
    """Return the server's certificates."""
    path = test.mktemp()
    with open(path, "wb") as file:
        file.write(SERVER_CERTIFICATE.pem())
    return Certificates(path)


@implementer(IHandshakeListener)
class Recorder(Protocol):
    """Greets after the handshake, records input, and does what a test says for each piece."""

    def __init__(self):
        self.received = b""
        self.reason = None
        self.ended = Deferred()
        self.on_data = lambda data: None
        self.early = b""

    def connectionMade(self):
        """Write what must wait for the handshake."""
        if self.early:
            self.transport.write(self.early)

    def handshakeCompleted(self):
        """Greet."""
        self.transport.write(b"greeting ")

    def dataReceived(self, data):
        """Record the data."""
        self.received += data
        self.on_data(data)

    def connectionLost(self, reason):
        """Record the reason."""
        self.reason = reason.type
        self.ended.callback(None)


class Wire(StringTransport):
    """A transport that records each write."""

    def __init__(self):
        super().__init__()
        self.pieces = []

    def write(self, data):
        """Record a piece."""
        self.pieces.append(data)


class Client:
    """Python's TLS client, in memory."""

    def __init__(self):
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = client_context().wrap_bio(
            self.incoming, self.outgoing, server_hostname="pop.example.org"
        )
        self.write, self.version = self._tls.write, self._tls.version

    def handshake(self):
        """Continue the handshake; return what must be sent."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        return self.outgoing.read()

    def close(self):
        """Return a close_notify."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        return self.outgoing.read()

    def read(self, pieces):
        """Return the data in these pieces, and whether a close_notify follows it."""
        for piece in pieces:
            self.incoming.write(piece)
        data = b""
        with contextlib.suppress(ssl.SSLWantReadError):
            while octets := self._tls.read(1 << 16):
                data += octets
            return data, True
        return data, False


class MemoryTestCase(SynchronousTestCase):
    """A server on a transport in memory."""

    def setUp(self):
        """Make the factory."""
        self.protocol = Recorder()
        self.factory = TLSFactory(load(self), Factory.forProtocol(lambda: self.protocol))

    def connect(self, client=None):
        """Connect a client, and complete the handshake unless there is no client."""
        self.wire = Wire()
        self.tls = self.factory.buildProtocol(None)
        self.tls.makeConnection(self.wire)
        if client is not None:
            self.tls.dataReceived(client.handshake())
            for piece in self.take():
                client.incoming.write(piece)
            self.tls.dataReceived(client.handshake())

    def take(self):
        """Return the pieces that were written since the last call."""
        pieces, self.wire.pieces = self.wire.pieces, []
        return pieces

    def send(self, client, data):
        """Send data from the client."""
        client.write(data)
        self.tls.dataReceived(client.outgoing.read())


class InterfaceTests(MemoryTestCase):
    """The interfaces of the factory and of the transport."""

    def test_factory(self):
        """The factory provides the interface that ports require."""
        self.assertTrue(verifyObject(IProtocolFactory, self.factory))

    def test_class(self):
        """The transport has the interfaces of its class, not those of the TCP transport."""

        @implementer(IReactorTCP)
        class Declared(Wire):
            pass

        # Before anything else has asked for the interfaces of the class.
        self.assertIn("__provides__", vars(TLSTransport))
        transport = self.factory.buildProtocol(None)
        transport.makeConnection(Declared())
        self.assertTrue(ISSLTransport.providedBy(transport))
        self.assertFalse(IReactorTCP.providedBy(transport))


class BatchTests(MemoryTestCase):
    """What is sent together."""

    def test_greeting(self):
        """The server sends nothing first, then two pieces: the greeting ends the second one."""
        client = Client()
        self.connect()
        self.assertEqual(self.take(), [])
        self.tls.dataReceived(client.handshake())
        (first,) = self.take()
        client.incoming.write(first)
        self.tls.dataReceived(client.handshake())
        self.assertEqual(client.version(), "TLSv1.3")
        (second,) = self.take()
        self.assertEqual(client.read([second]), (b"greeting ", False))

    def test_early(self):
        """What is written before the handshake is sent after it, and before the greeting."""
        self.protocol.early = b"early"
        client = Client()
        self.connect(client)
        data, _ = client.read(self.take())
        self.assertEqual(data, b"earlygreeting ")

    def test_immediate(self):
        """A write outside of dataReceived is sent at once, as one piece."""
        client = Client()
        self.connect(client)
        client.read(self.take())
        self.tls.write(b"x" * 60_000)
        (piece,) = self.take()
        self.assertEqual(client.read([piece])[0], b"x" * 60_000)

    def test_reply(self):
        """The writes of one read are sent together; a large reply is sent in bounded pieces."""
        client = Client()
        self.connect(client)
        client.read(self.take())
        self.protocol.on_data = lambda data: [self.tls.write(b"reply ") for _ in range(3)]
        self.send(client, b"a")
        (piece,) = self.take()
        self.assertEqual(client.read([piece])[0], b"reply " * 3)
        large = bytes(range(256)) * 4096
        self.protocol.on_data = lambda data: self.tls.write(large)
        self.send(client, b"b")
        pieces = self.take()
        self.assertLess(max(map(len, pieces)), 70_000)
        self.assertEqual(client.read(pieces)[0], large)

    def test_large_handshake(self):
        """Everything is sent, however much OpenSSL has."""
        self.patch(tls, "_READ_SIZE", 100)
        client = Client()
        self.connect(client)
        self.assertEqual(client.read(self.take()), (b"greeting ", False))

    def test_paused(self):
        """A handshake whose first message comes while it is paused waits."""
        client = Client()
        self.connect()
        self.tls.pauseProducing()
        hello = client.handshake()
        for piece in (hello[:9], hello[9:]):
            self.tls.dataReceived(piece)
        self.assertEqual((self.take(), self.wire.producerState), ([], "paused"))
        self.tls.resumeProducing()
        self.assertEqual(self.wire.producerState, "producing")
        for piece in self.take():
            client.incoming.write(piece)
        self.tls.dataReceived(client.handshake())
        self.assertEqual(client.read(self.take())[0], b"greeting ")

    def test_lost_while_paused(self):
        """It is forgotten if the connection is lost meanwhile."""
        self.connect()
        self.tls.pauseProducing()
        self.tls.dataReceived(Client().handshake())
        self.tls.connectionLost(Failure(ConnectionLost()))
        self.take()
        # Unlike this one, a TCP transport ignores it then.
        self.wire.resumeProducing = lambda: None
        self.tls.resumeProducing()
        self.assertEqual(self.take(), [])

    def test_quit(self):
        """The last reply and the close_notify are sent together."""
        client = Client()
        self.connect(client)
        client.read(self.take())

        def bye(data):
            self.tls.write(b"bye")
            self.tls.loseConnection()

        self.protocol.on_data = bye
        self.send(client, b"QUIT")
        (piece,) = self.take()
        self.assertEqual(client.read([piece]), (b"bye", True))
        self.assertFalse(self.wire.disconnecting)
        self.tls.dataReceived(client.close())
        self.assertTrue(self.wire.disconnecting)

    def test_any_writes(self):
        """Any writes arrive in order, whatever the cuts of the input."""

        @given(
            st.lists(st.one_of(st.integers(0, 100), st.sampled_from([16384, 65535, 200_000]))),
            st.lists(st.integers(1, 60), max_size=3),
        )
        def check(sizes, cuts):
            self.protocol = Recorder()
            client = Client()
            self.connect(client)
            client.read(self.take())
            expected = b"".join(bytes([at % 256]) * size for at, size in enumerate(sizes))
            written = []

            def write_all(data):
                if not written:
                    for at, size in enumerate(sizes):
                        written.append(size)
                        self.tls.write(bytes([at % 256]) * size)

            self.protocol.on_data = write_all
            client.write(b"abc")
            octets = client.outgoing.read()
            for cut in (*cuts, len(octets)):
                if octets:
                    self.tls.dataReceived(octets[:cut])
                    octets = octets[cut:]
            self.assertEqual(self.protocol.received, b"abc")
            self.assertEqual(client.read(self.take())[0], expected)

        check()


class ErrorTests(MemoryTestCase):
    """Connections that break."""

    def test_garbage(self):
        """A record that is not authentic ends the connection with an alert."""
        client = Client()
        self.connect(client)
        client.read(self.take())
        self.tls.dataReceived(b"\x17\x03\x03\x00\x20" + bytes(32))
        (alert,) = self.take()
        self.assertEqual(alert[0], 0x17)
        self.assertTrue(self.wire.disconnecting)
        self.tls.write(b"dropped")
        self.assertEqual(self.take(), [])

    def test_aborted(self):
        """Nothing more is sent on a connection that is aborted, no close_notify either."""

        def write_and_abort(data):
            self.tls.write(b"unfinished")
            self.tls.abortConnection()

        for abort in (write_and_abort, lambda data: None):
            self.protocol = Recorder()
            client = Client()
            self.connect(client)
            client.read(self.take())
            self.protocol.on_data = abort
            self.send(client, b"x")
            self.tls.abortConnection()
            self.assertEqual(self.take(), [])
            self.assertTrue(self.wire.disconnected)

    def test_failed_write(self):
        """If OpenSSL cannot encrypt, the connection ends."""
        client = Client()
        self.connect(client)

        class Broken:
            def send(self, data):
                raise SSL.Error([("SSL routines", "", "internal error")])

            def bio_read(self, size):
                raise SSL.WantReadError

        self.tls._tlsConnection = Broken()
        self.tls.write(b"x")
        self.assertTrue(self.wire.disconnecting)

    def test_lost(self):
        """A protocol may lose its connection while it processes input."""
        client = Client()
        self.connect(client)
        client.read(self.take())
        lost = Failure(ConnectionLost())
        self.protocol.on_data = lambda data: self.tls.connectionLost(lost)
        self.send(client, b"x")
        self.assertIs(self.protocol.reason, ConnectionLost)
        self.assertEqual(self.take(), [])


class SocketTests(TestCase):
    """Connections over TCP."""

    async def connect(self):
        """Return a client without TLS, which is connected to a server with TLS."""
        self.protocol = Recorder()
        factory = TLSFactory(load(self), Factory.forProtocol(lambda: self.protocol))
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        peer = await SocketPeer.connect(port.getHost().port)
        peer.transport.startTLS(CertificateOptions())
        self.assertEqual(await peer.read(9), b"greeting ")
        return peer

    async def test_closed_by_client(self):
        """If the client closes, the server's end is closed, too."""
        peer = await self.connect()
        self.assertTrue(verifyObject(INegotiated, self.protocol.transport))
        peer.transport.loseConnection()
        await self.protocol.ended
        self.assertIs(self.protocol.reason, ConnectionDone)
        await peer.closed()

    async def test_closed_by_server(self):
        """If the server closes, its end is closed when the client's close_notify has come."""
        peer = await self.connect()
        self.protocol.on_data = lambda data: self.protocol.transport.loseConnection()
        peer.transport.write(b"QUIT")
        await self.protocol.ended
        self.assertIs(self.protocol.reason, ConnectionDone)
        await peer.closed()

    async def test_aborted(self):
        """A connection that is aborted while input is processed is not closed in order.

        Twisted reports it as lost.
        """
        peer = await self.connect()
        self.protocol.on_data = lambda data: self.protocol.transport.abortConnection()
        peer.transport.write(b"x")
        await self.protocol.ended
        self.assertIs(self.protocol.reason, ConnectionLost)
        await peer.closed()
