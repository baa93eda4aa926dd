"""A client that closes its end of a TLS connection."""

from types import SimpleNamespace

from OpenSSL import SSL
from twisted.internet.interfaces import IHalfCloseableProtocol
from zope.interface import implementer

from tests.tls.harness import SERVER_CERTIFICATE, CertificatesTestCase, openssl_pair


@implementer(IHalfCloseableProtocol)
class HalfCloseable:
    """A protocol that counts the calls."""

    calls = 0

    def readConnectionLost(self):
        """Count the call."""
        self.calls += 1

    def writeConnectionLost(self):
        """See IHalfCloseableProtocol."""


class ServerConnectionTests(CertificatesTestCase):
    """Connections of ``Certificates``."""

    def close_client(self, protocol, version=SSL.TLS1_3_VERSION):
        """Return the client and the server, after data and close_notify of the client."""
        path = self.write("server.pem", SERVER_CERTIFICATE.pem())
        transport = SimpleNamespace(wrappedProtocol=protocol)
        client, server = openssl_pair(self.load(path), version, transport)
        client.send(b"last")
        client.shutdown()
        server.bio_write(client.bio_read(1 << 16))
        self.assertEqual(server.recv(100), b"last")
        return client, server

    def test_half_closed(self):
        """A protocol that can be half-closed is told of it, and can write, and then close."""
        protocol = HalfCloseable()
        client, server = self.close_client(protocol)
        self.assertRaises(SSL.WantReadError, server.recv, 100)
        self.assertEqual(protocol.calls, 1)
        server.send(b"reply")
        self.assertTrue(server.shutdown())
        client.bio_write(server.bio_read(1 << 16))
        self.assertEqual(client.recv(100), b"reply")
        self.assertRaises(SSL.ZeroReturnError, client.recv, 100)

    def test_closed_before(self):
        """If the server has closed its end before, the connection is closed."""
        protocol = HalfCloseable()
        _, server = self.close_client(protocol)
        server.shutdown()
        self.assertRaises(SSL.ZeroReturnError, server.recv, 100)
        self.assertEqual(protocol.calls, 0)

    def test_other_protocol(self):
        """For a protocol that cannot be half-closed, the connection is closed."""
        _, server = self.close_client(SimpleNamespace())
        self.assertRaises(SSL.ZeroReturnError, server.recv, 100)

    def test_tls_1_2(self):
        """With TLS 1.2 the connection is closed (RFC 5246 section 7.2.1)."""
        protocol = HalfCloseable()
        _, server = self.close_client(protocol, SSL.TLS1_2_VERSION)
        self.assertRaises(SSL.ZeroReturnError, server.recv, 100)
        self.assertEqual(protocol.calls, 0)

    def test_turns(self):
        """A protocol is told which of its data are the first of a read of the TCP connection."""
        path, protocol = self.write("server.pem", SERVER_CERTIFICATE.pem()), SimpleNamespace()
        transport = SimpleNamespace(wrappedProtocol=protocol)
        client, server = openssl_pair(self.load(path), transport=transport)
        for _ in range(2):
            for record in (b"first", b"second", b"third"):
                client.send(record)
            server.bio_write(client.bio_read(1 << 16))
            for record, is_first in ((b"first", True), (b"second", False), (b"third", False)):
                self.assertEqual(server.recv(100), record)
                self.assertEqual(protocol.is_new_turn, is_first)
            self.assertRaises(SSL.WantReadError, server.recv, 100)
