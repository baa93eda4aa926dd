"""The TLS state of a connection: names in client certificates, channel bindings."""

import hashlib
import ssl

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

from popserv.tls.state import OpenSSLConnectionState
from tests.certificates import MD5, SHA1, issue, make_authority
from tests.tls.harness import (
    BROKEN_NAMES,
    CA,
    SERVER_CERTIFICATE,
    CertificatesTestCase,
    ClientCertificateTestCase,
    Handshake,
    client_context,
    openssl_pair,
)


class NameTests(ClientCertificateTestCase):
    """User names in client certificates; no other field replaces an invalid one (CVE-2019-3814)."""

    def test_mail(self):
        """The mail addresses in subjectAltName are the names; other fields are ignored."""
        self.assertEqual(
            self.names(
                "www.example.org",
                mail=["b@example.org", "a@example.org"],
                subject=[(NameOID.USER_ID, "uid"), (NameOID.COMMON_NAME, "cn")],
            ),
            [b"b@example.org", b"a@example.org"],
        )

    def test_subject(self):
        """Without a subjectAltName, the name is the UID, else emailAddress, else CN."""
        fields = [
            (NameOID.COMMON_NAME, "cn"),
            (NameOID.EMAIL_ADDRESS, "mail@example.org"),
            (NameOID.USER_ID, "üid"),
        ]
        self.assertEqual(self.names(subject=fields), ["üid".encode()])
        self.assertEqual(self.names(subject=fields[:2]), [b"mail@example.org"])
        self.assertEqual(self.names(subject=fields[:1]), [b"cn"])
        self.assertEqual(self.names(subject=[(NameOID.ORGANIZATION_NAME, "x")]), [])
        self.assertEqual(self.names(subject=[]), [])

    def test_hosts(self):
        """The CN of a host's certificate is not a user name; a UID always is."""
        self.assertEqual(
            self.names("root.example.org", subject=[(NameOID.COMMON_NAME, "root")]), []
        )
        self.assertEqual(self.names("a.example.org", subject=[(NameOID.USER_ID, "ann")]), [b"ann"])

    def test_duplicates(self):
        """If a field of the subject occurs twice, there is no name."""
        self.assertEqual(
            self.names(subject=[(NameOID.COMMON_NAME, "ann"), (NameOID.COMMON_NAME, "Users")]), []
        )
        self.assertEqual(
            self.names(
                subject=[
                    (NameOID.USER_ID, "ann"),
                    (NameOID.USER_ID, "bob"),
                    (NameOID.COMMON_NAME, "cn"),
                ]
            ),
            [],
        )

    def test_unprintable(self):
        """An unprintable name is ignored, and no other field replaces it."""
        for bad in ("ann\0", "ann\0.evil", "ann\r\n", "\x7f", "ann\u202e", "ann\x85"):
            cn = (NameOID.COMMON_NAME, "cn")
            self.assertEqual(self.names(subject=[(NameOID.USER_ID, bad), cn]), [], bad)
        self.assertEqual(
            self.names(mail=["a\0b@example.org", "ann@example.org"]), [b"ann@example.org"]
        )
        self.assertEqual(
            self.names(mail=["a\nb@example.org"], subject=[(NameOID.USER_ID, "u")]), []
        )

    def test_unreadable(self):
        """If the subjectAltName is invalid or of an unknown kind, there is no name."""
        subject = [(NameOID.USER_ID, "u")]
        x400 = x509.UnrecognizedExtension(BROKEN_NAMES.oid, bytes.fromhex("3002a300"))
        for names in (BROKEN_NAMES, x400):
            self.assertEqual(self.names(extension=names, subject=subject), [])


class CompletedConnection(SSL.Connection):
    """A connection that reports a completed handshake."""

    def __init__(self, context):
        super().__init__(context, None)

    def get_peer_finished(self):
        """Return any data."""
        return b"finished"


class VersionTests(CertificatesTestCase):
    """The version of TLS."""

    def test_version(self):
        """The version has the name that other servers log, too."""
        for version, name in ((SSL.TLS1_2_VERSION, "TLSv1.2"), (SSL.TLS1_3_VERSION, "TLSv1.3")):
            _, server = openssl_pair(self.load(), version)
            self.assertEqual(OpenSSLConnectionState(server).version(), name)


class ChannelBindingTests(CertificatesTestCase):
    """Client and server have the same channel binding data."""

    def test_exporter(self):
        """With TLS 1.3, tls-exporter is available (RFC 9266)."""
        client, server = openssl_pair(self.load())
        binding = OpenSSLConnectionState(server).channel_binding(b"tls-exporter")
        self.assertEqual(binding, client.export_keying_material(b"EXPORTER-Channel-Binding", 32))
        self.assertEqual(len(binding), 32)
        self.assertNotEqual(
            binding,
            OpenSSLConnectionState(openssl_pair(self.load())[1]).channel_binding(b"tls-exporter"),
        )

    def test_exporter_tls_1_2(self):
        """With TLS 1.2, tls-exporter is not available."""
        _, server = openssl_pair(self.load(), SSL.TLS1_2_VERSION)
        self.assertIsNone(OpenSSLConnectionState(server).channel_binding(b"tls-exporter"))
        self.assertEqual(
            OpenSSLConnectionState(server).channel_binding(b"tls-server-end-point"),
            hashlib.sha256(SERVER_CERTIFICATE.der()).digest(),
        )

    def test_unknown(self):
        """Other types are not available."""
        _, server = openssl_pair(self.load())
        self.assertIsNone(OpenSSLConnectionState(server).channel_binding(b"tls-unique"))
        self.assertIsNone(OpenSSLConnectionState(server).channel_binding(b""))

    def test_end_point_old_hash(self):
        """For signatures with MD5 or SHA-1, tls-server-end-point uses SHA-256."""
        for pem in (MD5, SHA1):
            context = SSL.Context(SSL.TLS_SERVER_METHOD)
            context.set_cipher_list(b"DEFAULT:@SECLEVEL=0")
            certificate = x509.load_pem_x509_certificate(pem)
            context.use_certificate(certificate)
            self.assertEqual(
                OpenSSLConnectionState(CompletedConnection(context)).channel_binding(
                    b"tls-server-end-point"
                ),
                hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest(),
            )

    def test_no_end_point(self):
        """tls-server-end-point is not available if the signature's hash is unknown or none."""
        ed25519 = make_authority(kind="ed25519")
        server = issue("pop.example.org", issuer=ed25519)
        pair = Handshake(self.load(self.write("a.pem", server.pem())), client_context(ed25519))
        self.assertIsNone(
            OpenSSLConnectionState(pair.server).channel_binding(b"tls-server-end-point")
        )
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        self.assertIsNone(
            OpenSSLConnectionState(CompletedConnection(context)).channel_binding(
                b"tls-server-end-point"
            )
        )
        # An unknown algorithm in place of ecdsa-with-SHA256.
        known, unknown = bytes.fromhex("2a8648ce3d040302"), bytes.fromhex("2a8648ce3d04037f")
        der = SERVER_CERTIFICATE.der().replace(known, unknown)
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_cipher_list(b"DEFAULT:@SECLEVEL=0")
        context.use_certificate(x509.load_der_x509_certificate(der))
        self.assertIsNone(
            OpenSSLConnectionState(CompletedConnection(context)).channel_binding(
                b"tls-server-end-point"
            )
        )

    def test_end_point(self):
        """tls-server-end-point uses the hash of the signature (RFC 5929 section 4.1)."""
        for algorithm, name in (
            (hashes.SHA256(), "sha256"),
            (hashes.SHA384(), "sha384"),
            (hashes.SHA512(), "sha512"),
            (hashes.SHA3_256(), "sha3_256"),
        ):
            server = issue("pop.example.org", issuer=CA, algorithm=algorithm)
            # Not every OpenSSL verifies all of them.
            lax = client_context(check_hostname=False, verify_mode=ssl.CERT_NONE)
            pair = Handshake(self.load(self.write("a.pem", server.pem())), lax)
            self.assertEqual(
                OpenSSLConnectionState(pair.server).channel_binding(b"tls-server-end-point"),
                hashlib.new(name, pair.presented()).digest(),
            )

    def test_sni(self):
        """With SNI, tls-server-end-point is that of the certificate that was presented."""
        self.write("certs/a.pem", issue("a.example.org", issuer=CA).pem())
        server = issue("pop.example.org", issuer=CA)
        self.write("certs/b.pem", server.pem())
        certificates = self.load(self.path("certs"))
        pair = Handshake(certificates)
        self.write("certs/b.pem", issue("pop.example.org", issuer=CA).pem())
        self.pass_check_interval()
        Handshake(certificates)
        self.assertEqual(pair.presented(), server.der())
        self.assertEqual(
            OpenSSLConnectionState(pair.server).channel_binding(b"tls-server-end-point"),
            hashlib.sha256(server.der()).digest(),
        )
