"""Labels of failed TLS handshakes, with handshakes in memory."""

import contextlib

from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from popserv.metrics.catalogue import HANDSHAKE_REASONS, OTHER
from popserv.metrics.handshakes import REASONS, handshake_label
from popserv.transports.starttls import short_reason
from tests.tls.harness import SERVER_CERTIFICATE


def limit_version(context):
    """Use TLS 1.1 only."""
    context.set_cipher_list(b"ALL:@SECLEVEL=0")
    context.set_min_proto_version(SSL.TLS1_1_VERSION)
    context.set_max_proto_version(SSL.TLS1_1_VERSION)


def limit_ciphers(context):
    """Use only a cipher that requires an RSA key."""
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(b"AES128-SHA256")


def verify(context):
    """Trust nobody."""
    context.set_verify(SSL.VERIFY_PEER)


def verify_in_tls_1_2(context):
    """Trust nobody, in the version before the present one."""
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    context.set_verify(SSL.VERIFY_PEER)


def new_server():
    """Return the server's end of a handshake, which has an elliptic curve key."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.use_certificate(SERVER_CERTIFICATE.certificate)
    context.use_privatekey(SERVER_CERTIFICATE.key)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    server = SSL.Connection(context, None)
    server.set_accept_state()
    return server


def failure_of(configure):
    """Return the error of a server in a handshake with a client whose context is configured."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    configure(context)
    client, server = SSL.Connection(context, None), new_server()
    client.set_connect_state()
    for _ in range(3):
        with contextlib.suppress(SSL.Error):
            client.do_handshake()
        server.bio_write(client.bio_read(1 << 16))
        try:
            server.do_handshake()
        except SSL.WantReadError:
            client.bio_write(server.bio_read(1 << 16))
        except SSL.Error as error:
            return error
    raise AssertionError("the handshake has not failed")


class HandshakeLabelTests(SynchronousTestCase):
    """The texts of OpenSSL have labels."""

    def test_no_tls(self):
        """Clients that do not use TLS."""
        for octets in (b"CAPA\r\n", b"GET / HTTP/1.0\r\n\r\n", b"PROXY UNKNOWN\r\n", b"\0" * 100):
            server = new_server()
            server.bio_write(octets)
            error = self.assertRaises(SSL.Error, server.do_handshake)
            self.assertEqual(handshake_label(short_reason(error)), "no-tls", octets)

    def test_clients(self):
        """Clients that cannot agree with the server, or do not trust it."""
        for configure, label in (
            (limit_version, "version"),
            (limit_ciphers, "algorithms"),
            (verify, "certificate"),
            (verify_in_tls_1_2, "certificate"),
        ):
            error = failure_of(configure)
            self.assertEqual(handshake_label(short_reason(error)), label, error)

    def test_client_certificate(self):
        """A client that has no certificate, although the server requires one."""
        for text in ("certificate verify failed", "peer did not return a certificate"):
            self.assertEqual(handshake_label(text), "client-certificate")

    def test_values(self):
        """All labels are in the catalogue; what is not known is "other"."""
        self.assertEqual(tuple(dict.fromkeys(REASONS.values())), HANDSHAKE_REASONS)
        self.assertEqual(handshake_label("unexpected message"), OTHER)
