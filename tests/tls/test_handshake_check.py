"""Handshakes in memory with which a server's context is tried."""

from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from popserv.tls import handshake_check
from popserv.tls.handshake_check import failed_handshake, openssl_reason
from tests.tls.harness import SERVER_CERTIFICATE


class HandshakeCheckTests(SynchronousTestCase):
    """What failed_handshake returns for a context."""

    def setUp(self):
        """Make a context without a certificate."""
        self.context = SSL.Context(SSL.TLS_SERVER_METHOD)

    def test_success(self):
        """A context with a certificate and its key serves each version."""
        self.context.use_certificate(SERVER_CERTIFICATE.certificate)
        self.context.use_privatekey(SERVER_CERTIFICATE.key)
        for minimum in (SSL.TLS1_VERSION, SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            self.assertIsNone(failed_handshake(self.context, minimum))

    def test_failure(self):
        """The first version that fails is returned, with the server's reason."""
        self.assertEqual(
            failed_handshake(self.context, SSL.TLS1_2_VERSION), ("TLS 1.2", "no shared cipher")
        )
        version, reason = failed_handshake(self.context, SSL.TLS1_3_VERSION)
        self.assertEqual(version, "TLS 1.3")
        self.assertTrue(reason)

    def test_endless(self):
        """A handshake that does not end has failed."""
        self.patch(handshake_check, "_MAX_FLIGHTS", 0)
        self.assertEqual(
            failed_handshake(self.context, SSL.TLS1_3_VERSION),
            ("TLS 1.3", "the handshake does not end"),
        )

    def test_reason(self):
        """Of OpenSSL's errors the last reason is returned, of others the text."""
        error = SSL.Error([("a", "b", "first"), ("a", "b", "last")])
        self.assertEqual(openssl_reason(error), "last")
        self.assertEqual(openssl_reason(TypeError("no such key")), "no such key")
