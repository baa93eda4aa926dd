"""The certificates with Twisted's transports and with OpenSSL's client."""

import hashlib
import os

from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.interfaces import (
    IHandshakeListener,
    INegotiated,
    IPushProducer,
    ISSLTransport,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import (
    PrivateCertificate,
    optionsForClientTLS,
    trustRootFromCertificates,
)
from twisted.internet.utils import getProcessOutput
from twisted.protocols.basic import LineReceiver
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import TestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from popserv.tls.certificates import Certificates
from popserv.tls.state import OpenSSLConnectionState
from tests.tls.harness import (
    CA,
    OTHER_CA,
    SERVER_CERTIFICATE,
)


@implementer(IHandshakeListener, IPushProducer)
class Upgrading(LineReceiver):
    """A server with STLS, which is its transport's producer and notes what it is told."""

    def connectionMade(self):
        """Be the producer at once, as a POP3 server is."""
        self.told = self.factory.told
        self.sendLine(b"+OK ready")
        self.transport.registerProducer(self, True)

    def lineReceived(self, line):
        """Begin TLS, or echo."""
        if line == b"STLS":
            self.sendLine(b"+OK begin")
            self.transport.startTLS(self.factory.certificates)
            self.told.append("started")
            if self.factory.writes_early:
                self.sendLine(b"early")
        else:
            self.sendLine(line)

    def handshakeCompleted(self):
        """TLS is there."""
        self.told.append("handshakeCompleted")
        assert ISSLTransport.providedBy(self.transport)
        self.factory.tls_state = OpenSSLConnectionState(self.transport.getHandle())

    def pauseProducing(self):
        """What is written is not sent yet."""
        self.told.append("pauseProducing")

    def resumeProducing(self):
        """What was written is sent."""
        self.told.append("resumeProducing")

    def stopProducing(self):
        """The connection is lost."""
        self.told.append("stopProducing")

    def connectionLost(self, reason):
        """It is."""
        self.told.append("connectionLost")
        self.factory.lost.callback(reason.value)


class Upgrader(LineReceiver):
    """A client that asks for TLS, then says hello."""

    def __init__(self, options):
        self.options = options
        self.lines = []
        self.over = Deferred()

    def lineReceived(self, line):
        """Ask for TLS, speak through it, and go."""
        self.lines.append(line)
        if line == b"+OK ready":
            self.sendLine(b"STLS")
        elif line == b"+OK begin":
            self.transport.startTLS(self.options)
            self.sendLine(b"hello")
        elif line == b"hello":
            self.transport.loseConnection()

    def connectionLost(self, reason):
        """Over."""
        self.over.callback(None)


class Echo(Protocol):
    """Says over what TLS it is, then echoes."""

    def dataReceived(self, data):
        """Echo."""
        self.transport.write(repr(self.transport.negotiatedProtocol).encode() + b" " + data)


class SocketCase(TestCase):
    """Real connections, through the reactor."""

    def setUp(self):
        """Certificates, and what a Twisted client needs to believe in them."""
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(SERVER_CERTIFICATE.pem())
        self.certificates = Certificates(path)
        self.options = optionsForClientTLS(
            "pop.example.org",
            trustRootFromCertificates([PrivateCertificate.loadPEM(CA.pem())]),
        )

    def listen(self, factory):
        """Listen, and return the port's number."""
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return port.getHost().port


class StartTLSTests(SocketCase):
    """transport.startTLS in mid-connection, as STLS has it (RFC 2595)."""

    def upgrading(self, writes_early=False):
        """A server with STLS."""
        factory = Factory.forProtocol(Upgrading)
        factory.certificates, factory.writes_early = self.certificates, writes_early
        factory.told, factory.lost, factory.tls_state = [], Deferred(), None
        return factory

    async def upgrade(self, options, writes_early=False):
        """Return what the server was told, and the client's lines."""
        factory = self.upgrading(writes_early)
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.listen(factory))
        client = await connectProtocol(endpoint, Upgrader(options))
        await client.over
        self.reason = await factory.lost
        self.tls_state = factory.tls_state
        return factory.told, client.lines

    async def test_quiet(self):
        """A producer that writes nothing until the handshake is over is never paused."""
        told, lines = await self.upgrade(self.options)
        self.assertEqual(lines, [b"+OK ready", b"+OK begin", b"hello"])
        self.assertEqual(told[:2], ["started", "handshakeCompleted"])
        self.assertNotIn("pauseProducing", told)
        self.assertEqual(
            self.tls_state.channel_binding(b"tls-server-end-point"),
            hashlib.sha256(SERVER_CERTIFICATE.der()).digest(),
        )

    async def test_early(self):
        """One that writes before is paused by its write, and resumed after the handshake."""
        told, lines = await self.upgrade(self.options, writes_early=True)
        self.assertEqual(lines, [b"+OK ready", b"+OK begin", b"early", b"hello"])
        self.assertEqual(
            told[:4], ["started", "pauseProducing", "handshakeCompleted", "resumeProducing"]
        )

    async def test_failed(self):
        """A handshake that fails is no handshake completed, and the connection is lost."""
        options = optionsForClientTLS(
            "pop.example.org",
            trustRootFromCertificates([PrivateCertificate.loadPEM(OTHER_CA.pem())]),
        )
        told, lines = await self.upgrade(options)
        self.assertEqual(lines, [b"+OK ready", b"+OK begin"])
        self.assertEqual(told[-1], "connectionLost")
        self.assertNotIn("handshakeCompleted", told)

    async def test_other_protocol(self):
        """Who asks for another protocol is turned away in Twisted's own way, as an SSL.Error."""
        options = optionsForClientTLS(
            "pop.example.org",
            trustRootFromCertificates([PrivateCertificate.loadPEM(CA.pem())]),
            acceptableProtocols=[b"http/1.1"],
        )
        told, _ = await self.upgrade(options)
        self.assertNotIn("handshakeCompleted", told)
        self.assertIsInstance(self.reason, SSL.Error)
        self.assertIn("no application protocol", str(self.reason))

    async def test_stranger(self):
        """OpenSSL's own client gets through STLS, too."""
        factory = self.upgrading()
        said = await s_client(self.listen(factory), "-starttls", "pop3", "-alpn", "pop3")
        self.assertIn(b"CONNECTION ESTABLISHED", said)
        await factory.lost
        self.assertIn("handshakeCompleted", factory.told)


class FactoryTests(SocketCase):
    """TLS from the first octet, by TLSMemoryBIOFactory."""

    def echo(self):
        """The port of a server that echoes."""
        return self.listen(TLSMemoryBIOFactory(self.certificates, False, Factory.forProtocol(Echo)))

    async def test_twisted(self):
        """Twisted's client and ours agree on what they speak."""
        options = optionsForClientTLS(
            "pop.example.org",
            trustRootFromCertificates([PrivateCertificate.loadPEM(CA.pem())]),
            acceptableProtocols=[b"pop3"],
        )
        endpoint = wrapClientTLS(options, TCP4ClientEndpoint(reactor, "127.0.0.1", self.echo()))
        heard = Deferred()
        client = Protocol()
        client.dataReceived = heard.callback
        lost = Deferred()
        client.connectionLost = lambda reason: lost.callback(None)
        await connectProtocol(endpoint, client)
        client.transport.write(b"hello")
        self.assertEqual(await heard, b"b'pop3' hello")
        self.assertTrue(verifyObject(INegotiated, client.transport))
        client.transport.loseConnection()
        await lost

    async def test_stranger(self):
        """What OpenSSL's own client makes of the server."""
        port = self.echo()
        said = await s_client(port)
        self.assertIn(b"Protocol version: TLSv1.3", said)
        said = await s_client(port, "-tls1_2")
        self.assertIn(b"Protocol version: TLSv1.2", said)
        self.assertIn(b"Ciphersuite: ECDHE-ECDSA-", said)
        said = await s_client(port, "-alpn", "http/1.1")
        self.assertIn(b"alert no application protocol", said)
        said = await s_client(port, "-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256")
        self.assertIn(b"alert handshake failure", said)


def s_client(port, *arguments):
    """Return, in time, what openssl s_client says of a server."""
    script = 'exec openssl s_client -brief -connect 127.0.0.1:"$@" </dev/null'
    arguments = ["-c", script, "sh", str(port), "-servername", "pop.example.org", *arguments]
    return getProcessOutput("/bin/sh", arguments, os.environ, errortoo=True)
