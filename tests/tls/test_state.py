"""What a connection's TLS vouches for: names and bindings."""

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
    ClientCase,
    FilesCase,
    Pair,
    client_context,
    openssl_client,
)


class NameTests(ClientCase):
    """Whom a certificate vouches for; nothing makes up for a missing field (CVE-2019-3814)."""

    def test_mail(self):
        """Mail addresses in subjectAltName, in order, and then nothing else."""
        self.assertEqual(
            self.names(
                "www.example.org",
                mail=["b@example.org", "a@example.org"],
                subject=[(NameOID.USER_ID, "uid"), (NameOID.COMMON_NAME, "cn")],
            ),
            [b"b@example.org", b"a@example.org"],
        )

    def test_subject(self):
        """Without a subjectAltName: the UID, else emailAddress, else CN."""
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
        """The CN of a certificate for a host is no user's; a UID is, anywhere."""
        self.assertEqual(
            self.names("root.example.org", subject=[(NameOID.COMMON_NAME, "root")]), []
        )
        self.assertEqual(self.names("a.example.org", subject=[(NameOID.USER_ID, "ann")]), [b"ann"])

    def test_twice(self):
        """A field of the subject that is there twice vouches for neither, nor does the next."""
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

    def test_controls(self):
        """What cannot be printed, such as NULs, disqualifies a name, and nothing replaces it."""
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
        """Names that cannot be read, or are of a kind that is not known, vouch for nobody."""
        subject = [(NameOID.USER_ID, "u")]
        x400 = x509.UnrecognizedExtension(BROKEN_NAMES.oid, bytes.fromhex("3002a300"))
        for names in (BROKEN_NAMES, x400):
            self.assertEqual(self.names(extension=names, subject=subject), [])


class Completed(SSL.Connection):
    """A connection that takes itself for completed."""

    def __init__(self, context):
        super().__init__(context, None)

    def get_peer_finished(self):
        """Something."""
        return b"finished"


class BindingTests(FilesCase):
    """Both ends have the same channel binding data."""

    def test_exporter(self):
        """tls-exporter is RFC 9266's, in TLS 1.3."""
        client, server = openssl_client(self.serve())
        ours = OpenSSLConnectionState(server).channel_binding(b"tls-exporter")
        self.assertEqual(ours, client.export_keying_material(b"EXPORTER-Channel-Binding", 32))
        self.assertEqual(len(ours), 32)
        self.assertNotEqual(
            ours,
            OpenSSLConnectionState(openssl_client(self.serve())[1]).channel_binding(
                b"tls-exporter"
            ),
        )

    def test_exporter_of_old(self):
        """In TLS 1.2 nobody can tell whether it is safe, so there is none."""
        _, server = openssl_client(self.serve(), SSL.TLS1_2_VERSION)
        self.assertIsNone(OpenSSLConnectionState(server).channel_binding(b"tls-exporter"))
        self.assertEqual(
            OpenSSLConnectionState(server).channel_binding(b"tls-server-end-point"),
            hashlib.sha256(SERVER_CERTIFICATE.der()).digest(),
        )

    def test_unknown(self):
        """Other kinds are not to be had."""
        _, server = openssl_client(self.serve())
        self.assertIsNone(OpenSSLConnectionState(server).channel_binding(b"tls-unique"))
        self.assertIsNone(OpenSSLConnectionState(server).channel_binding(b""))

    def test_end_point_of_old(self):
        """In place of MD5 and SHA-1 stands SHA-256."""
        for pem in (MD5, SHA1):
            context = SSL.Context(SSL.TLS_SERVER_METHOD)
            context.set_cipher_list(b"DEFAULT:@SECLEVEL=0")
            certificate = x509.load_pem_x509_certificate(pem)
            context.use_certificate(certificate)
            self.assertEqual(
                OpenSSLConnectionState(Completed(context)).channel_binding(b"tls-server-end-point"),
                hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest(),
            )

    def test_no_end_point(self):
        """There is none for signatures that name no hash, none that is known, or none at all."""
        ed25519 = make_authority(kind="ed25519")
        server = issue("pop.example.org", issuer=ed25519)
        pair = Pair(self.serve(self.write("a.pem", server.pem())), client_context(ed25519))
        self.assertIsNone(
            OpenSSLConnectionState(pair.server).channel_binding(b"tls-server-end-point")
        )
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        self.assertIsNone(
            OpenSSLConnectionState(Completed(context)).channel_binding(b"tls-server-end-point")
        )
        # Where ecdsa-with-SHA256 is named, something that nobody knows.
        known, unknown = bytes.fromhex("2a8648ce3d040302"), bytes.fromhex("2a8648ce3d04037f")
        der = SERVER_CERTIFICATE.der().replace(known, unknown)
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_cipher_list(b"DEFAULT:@SECLEVEL=0")
        context.use_certificate(x509.load_der_x509_certificate(der))
        self.assertIsNone(
            OpenSSLConnectionState(Completed(context)).channel_binding(b"tls-server-end-point")
        )

    def test_end_point(self):
        """tls-server-end-point is the hash by the signature's own (RFC 5929 section 4.1)."""
        for algorithm, name in (
            (hashes.SHA256(), "sha256"),
            (hashes.SHA384(), "sha384"),
            (hashes.SHA512(), "sha512"),
            (hashes.SHA3_256(), "sha3_256"),
        ):
            server = issue("pop.example.org", issuer=CA, algorithm=algorithm)
            # Not every OpenSSL verifies all of them.
            lax = client_context(check_hostname=False, verify_mode=ssl.CERT_NONE)
            pair = Pair(self.serve(self.write("a.pem", server.pem())), lax)
            self.assertEqual(
                OpenSSLConnectionState(pair.server).channel_binding(b"tls-server-end-point"),
                hashlib.new(name, pair.shown()).digest(),
            )

    def test_chosen_by_name(self):
        """With SNI it is that of the certificate that was shown."""
        self.write("certs/a.pem", issue("a.example.org", issuer=CA).pem())
        server = issue("pop.example.org", issuer=CA)
        self.write("certs/b.pem", server.pem())
        certificates = self.serve(self.path("certs"))
        pair = Pair(certificates)
        self.write("certs/b.pem", issue("pop.example.org", issuer=CA).pem())
        self.later()
        Pair(certificates)
        self.assertEqual(pair.shown(), server.der())
        self.assertEqual(
            OpenSSLConnectionState(pair.server).channel_binding(b"tls-server-end-point"),
            hashlib.sha256(server.der()).digest(),
        )
