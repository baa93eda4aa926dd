"""The certificates with Twisted's transports, and with OpenSSL's client."""

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
from twisted.trial.unittest import TestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from popserv.tls.certificates import Certificates
from popserv.tls.state import OpenSSLConnectionState
from popserv.transports.tls import TLSFactory
from tests.tls.harness import (
    CA,
    OTHER_CA,
    SERVER_CERTIFICATE,
)


@implementer(IHandshakeListener, IPushProducer)
class STARTTLSServer(LineReceiver):
    """A server with STLS, which registers as a producer and records the calls that it gets."""

    def connectionMade(self):
        """Register as the producer immediately, as a POP3 server does."""
        self.calls = self.factory.calls
        self.sendLine(b"+OK ready")
        self.transport.registerProducer(self, True)

    def lineReceived(self, line):
        """Start TLS, or echo the line."""
        if line == b"STLS":
            self.sendLine(b"+OK begin")
            self.transport.startTLS(self.factory.certificates)
            self.calls.append("started")
            if self.factory.writes_early:
                self.sendLine(b"early")
        else:
            self.sendLine(line)

    def handshakeCompleted(self):
        """Keep the TLS state."""
        self.calls.append("handshakeCompleted")
        assert ISSLTransport.providedBy(self.transport)
        self.factory.tls_state = OpenSSLConnectionState(self.transport.getHandle())

    def pauseProducing(self):
        """See IPushProducer."""
        self.calls.append("pauseProducing")

    def resumeProducing(self):
        """See IPushProducer."""
        self.calls.append("resumeProducing")

    def stopProducing(self):
        """See IPushProducer."""
        self.calls.append("stopProducing")

    def connectionLost(self, reason):
        """Report the reason."""
        self.calls.append("connectionLost")
        self.factory.lost.callback(reason.value)


class STARTTLSClient(LineReceiver):
    """A client that starts TLS, then sends hello."""

    def __init__(self, options):
        self.options = options
        self.lines = []
        self.over = Deferred()

    def lineReceived(self, line):
        """Send STLS, start TLS, and close after the echo."""
        self.lines.append(line)
        if line == b"+OK ready":
            self.sendLine(b"STLS")
        elif line == b"+OK begin":
            self.transport.startTLS(self.options)
            self.sendLine(b"hello")
        elif line == b"hello":
            self.transport.loseConnection()

    def connectionLost(self, reason):
        """Report the end."""
        self.over.callback(None)


class Echo(Protocol):
    """Sends its ALPN protocol, then echoes."""

    def dataReceived(self, data):
        """Echo the data."""
        self.transport.write(repr(self.transport.negotiatedProtocol).encode() + b" " + data)


class SocketTestCase(TestCase):
    """Connections through the reactor."""

    def setUp(self):
        """Load the certificate, and the CA for Twisted's client."""
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(SERVER_CERTIFICATE.pem())
        self.certificates = Certificates(path)
        self.options = optionsForClientTLS(
            "pop.example.org",
            trustRootFromCertificates([PrivateCertificate.loadPEM(CA.pem())]),
        )

    def listen(self, factory):
        """Listen on a free port; return its number."""
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return port.getHost().port


class StartTLSTests(SocketTestCase):
    """transport.startTLS in an established connection, as STLS requires (RFC 2595)."""

    def server_factory(self, writes_early=False):
        """Return the factory of a server with STLS."""
        factory = Factory.forProtocol(STARTTLSServer)
        factory.certificates, factory.writes_early = self.certificates, writes_early
        factory.calls, factory.lost, factory.tls_state = [], Deferred(), None
        return factory

    async def upgrade(self, options, writes_early=False):
        """Connect a client; return the calls that the server got, and the client's lines."""
        factory = self.server_factory(writes_early)
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.listen(factory))
        client = await connectProtocol(endpoint, STARTTLSClient(options))
        await client.over
        self.reason = await factory.lost
        self.tls_state = factory.tls_state
        return factory.calls, client.lines

    async def test_no_early_write(self):
        """A producer that writes nothing before the handshake completes is never paused."""
        calls, lines = await self.upgrade(self.options)
        self.assertEqual(lines, [b"+OK ready", b"+OK begin", b"hello"])
        self.assertEqual(calls[:2], ["started", "handshakeCompleted"])
        self.assertNotIn("pauseProducing", calls)
        self.assertEqual(
            self.tls_state.channel_binding(b"tls-server-end-point"),
            hashlib.sha256(SERVER_CERTIFICATE.der()).digest(),
        )

    async def test_early_write(self):
        """A producer that writes earlier is paused, and resumed after the handshake."""
        calls, lines = await self.upgrade(self.options, writes_early=True)
        self.assertEqual(lines, [b"+OK ready", b"+OK begin", b"early", b"hello"])
        self.assertEqual(
            calls[:4], ["started", "pauseProducing", "handshakeCompleted", "resumeProducing"]
        )

    async def test_failed(self):
        """If the handshake fails, handshakeCompleted is not called and the connection is lost."""
        options = optionsForClientTLS(
            "pop.example.org",
            trustRootFromCertificates([PrivateCertificate.loadPEM(OTHER_CA.pem())]),
        )
        calls, lines = await self.upgrade(options)
        self.assertEqual(lines, [b"+OK ready", b"+OK begin"])
        self.assertEqual(calls[-1], "connectionLost")
        self.assertNotIn("handshakeCompleted", calls)

    async def test_other_protocol(self):
        """A client that requests another protocol is rejected with an SSL.Error."""
        options = optionsForClientTLS(
            "pop.example.org",
            trustRootFromCertificates([PrivateCertificate.loadPEM(CA.pem())]),
            acceptableProtocols=[b"http/1.1"],
        )
        calls, _ = await self.upgrade(options)
        self.assertNotIn("handshakeCompleted", calls)
        self.assertIsInstance(self.reason, SSL.Error)
        self.assertIn("no application protocol", str(self.reason))

    async def test_openssl(self):
        """OpenSSL's client can use STLS."""
        factory = self.server_factory()
        output = await s_client(self.listen(factory), "-starttls", "pop3", "-alpn", "pop3")
        self.assertIn(b"CONNECTION ESTABLISHED", output)
        await factory.lost
        self.assertIn("handshakeCompleted", factory.calls)


class FactoryTests(SocketTestCase):
    """TLS from the first octet, with TLSFactory."""

    def listen_for_echo(self):
        """Return the port of a server that echoes."""
        return self.listen(TLSFactory(self.certificates, Factory.forProtocol(Echo)))

    async def test_twisted(self):
        """Twisted's client and the server agree on the ALPN protocol."""
        options = optionsForClientTLS(
            "pop.example.org",
            trustRootFromCertificates([PrivateCertificate.loadPEM(CA.pem())]),
            acceptableProtocols=[b"pop3"],
        )
        endpoint = wrapClientTLS(
            options, TCP4ClientEndpoint(reactor, "127.0.0.1", self.listen_for_echo())
        )
        received = Deferred()
        client = Protocol()
        client.dataReceived = received.callback
        lost = Deferred()
        client.connectionLost = lambda reason: lost.callback(None)
        await connectProtocol(endpoint, client)
        client.transport.write(b"hello")
        self.assertEqual(await received, b"b'pop3' hello")
        self.assertTrue(verifyObject(INegotiated, client.transport))
        client.transport.loseConnection()
        await lost

    async def test_openssl(self):
        """OpenSSL's client gets the expected versions, ciphers and alerts."""
        port = self.listen_for_echo()
        output = await s_client(port)
        self.assertIn(b"Protocol version: TLSv1.3", output)
        output = await s_client(port, "-tls1_2")
        self.assertIn(b"Protocol version: TLSv1.2", output)
        self.assertIn(b"Ciphersuite: ECDHE-ECDSA-", output)
        output = await s_client(port, "-alpn", "http/1.1")
        self.assertIn(b"alert no application protocol", output)
        output = await s_client(port, "-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256")
        self.assertIn(b"alert handshake failure", output)


def s_client(port, *arguments):
    """Run openssl s_client; return what it prints."""
    script = 'exec openssl s_client -brief -connect 127.0.0.1:"$@" </dev/null'
    arguments = ["-c", script, "sh", str(port), "-servername", "pop.example.org", *arguments]
    return getProcessOutput("/bin/sh", arguments, os.environ, errortoo=True)
