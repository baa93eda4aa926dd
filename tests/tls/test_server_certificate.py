"""A server certificate: TLS versions, keys, ciphers, ALPN."""

import ssl

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from tests.certificates import issue, make_authority
from tests.tls.harness import (
    BROKEN_NAMES,
    CA,
    SERVER_CERTIFICATE,
    FilesCase,
    Pair,
    client_context,
    openssl_client,
)


class ShownTests(FilesCase):
    """One file, and what the protocol is."""

    def test_one_file(self):
        """One PEM file will do."""
        pair = Pair(self.serve())
        self.assertEqual(pair.shown(), SERVER_CERTIFICATE.der())
        self.assertEqual(pair.client.version(), "TLSv1.3")
        self.assertEqual(pair.talk(), (b"from the server", b"from the client"))

    def test_two_files(self):
        """The key may be in a file of its own, and come after its parameters."""
        certificate = self.write("cert.pem", SERVER_CERTIFICATE.certificate_pem())
        key = self.write(
            "key.pem",
            b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
            + SERVER_CERTIFICATE.key_pem(),
        )
        self.assertEqual(Pair(self.serve(certificate, key)).shown(), SERVER_CERTIFICATE.der())

    def test_chain(self):
        """What is between the certificate and the CA is sent along."""
        below = make_authority("a CA below", CA)
        server = issue("pop.example.org", issuer=below)
        pair = Pair(self.serve(self.write("a.pem", server.pem())))
        self.assertEqual(pair.shown(), server.der())

    def test_kinds_of_keys(self):
        """RSA and Ed25519 serve as well as P-256, and both in TLS 1.2."""
        for kind in ("rsa", "ed25519"):
            server = issue("pop.example.org", issuer=CA, kind=kind)
            certificates = self.serve(self.write("a.pem", server.pem()))
            for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                pair = Pair(certificates, client_context(maximum_version=version))
                self.assertEqual(pair.shown(), server.der())

    def test_versions(self):
        """TLS 1.2 is the oldest (RFC 8996)."""
        old = client_context()
        old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.set_ciphers("ALL:@SECLEVEL=0")
        self.assertRaisesRegex(ssl.SSLError, "(?i)protocol.version", Pair, self.serve(), old)
        # That there is a constant for it is deprecated.
        self.flushWarnings()

    def test_ciphers(self):
        """In TLS 1.2 there are ECDHE and AEAD alone, and the client has the choice."""
        weak = client_context(maximum_version=ssl.TLSVersion.TLSv1_2)
        certificates = self.serve(
            self.write("a.pem", issue("pop.example.org", issuer=CA, kind="rsa").pem())
        )
        for ciphers in ("AES128-GCM-SHA256", "ECDHE+AES128+SHA256:!AESGCM", "DHE+AESGCM"):
            weak.set_ciphers(ciphers)
            self.assertRaisesRegex(ssl.SSLError, "(?i)handshake.failure", Pair, certificates, weak)
        for ciphers in (
            "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-CHACHA20-POLY1305",
            "ECDHE-RSA-CHACHA20-POLY1305:ECDHE-RSA-AES256-GCM-SHA384",
        ):
            weak.set_ciphers(ciphers)
            self.assertEqual(Pair(certificates, weak).client.cipher()[0], ciphers.split(":")[0])

    def test_no_renegotiation(self):
        """A client cannot have another handshake (RFC 9325 section 3.5)."""
        client, server = openssl_client(self.serve(), SSL.TLS1_2_VERSION)
        client.renegotiate()
        self.assertRaises(SSL.WantReadError, client.do_handshake)
        server.bio_write(client.bio_read(1 << 16))
        self.assertRaises(SSL.WantReadError, server.recv, 100)
        client.bio_write(server.bio_read(1 << 16))
        with self.assertRaisesRegex(SSL.Error, "no renegotiation"):
            client.do_handshake()

    def test_no_resumption(self):
        """Each handshake is whole, so that each proves the client's certificate."""
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            certificates, context = self.serve(), client_context(maximum_version=version)
            pair = Pair(certificates, context)
            pair.talk()
            again = Pair(certificates, context, session=pair.client.session)
            self.assertFalse(again.client.session_reused)

    def test_alpn(self):
        """The name of the protocol is pop3 (RFC 7301), and to name none is no fault."""
        for offered, selected in (((), None), (["pop3"], "pop3"), (["imap", "pop3"], "pop3")):
            pair = Pair(self.serve(), client_context(alpn=offered))
            self.assertEqual(pair.client.selected_alpn_protocol(), selected)

    def test_alpn_of_others(self):
        """Who speaks something else, as a browser does, is turned away (RFC 9325 section 3.8)."""
        browser = client_context(alpn=["h2", "http/1.1"])
        self.assertRaisesRegex(
            ssl.SSLError, "(?i)no.application.protocol", Pair, self.serve(), browser
        )

    def test_alpn_behind_sni(self):
        """ALPN is the same whichever certificate is shown."""
        self.write("certs/a.pem", issue("a.example.org", issuer=CA).pem())
        self.write("certs/b.pem", SERVER_CERTIFICATE.pem())
        certificates = self.serve(self.path("certs"))
        pair = Pair(certificates, client_context(alpn=["pop3"]))
        self.assertEqual(pair.client.selected_alpn_protocol(), "pop3")
        self.assertRaisesRegex(
            ssl.SSLError,
            "(?i)no.application.protocol",
            Pair,
            certificates,
            client_context(alpn=["h2"]),
        )


class KeyErrorTests(FilesCase):
    """x"""

    def test_weak(self):
        """A key of 1024 bits is too weak, whatever the OpenSSL beneath would take."""
        weak = self.write("weak.pem", issue("pop.example.org", kind="rsa1024").pem())
        self.assertRefused(f"^{weak}: OpenSSL rejects it \\(ee key too small\\); ", weak)

    def test_useless_kind(self):
        """A key that cannot sign is none for a server."""
        useless = self.write("x.pem", issue("x", kind="x25519", issuer=CA).pem())
        self.assertRefused(f"^{useless}: OpenSSL rejects it \\(.+\\); ", useless)

    def test_unknown_kind(self):
        """Nor is one on a curve that nobody knows."""
        known, unknown = bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d03017f")
        odd = x509.load_der_x509_certificate(SERVER_CERTIFICATE.der().replace(known, unknown))
        path = self.write("odd.pem", odd.public_bytes(Encoding.PEM) + SERVER_CERTIFICATE.key_pem())
        self.assertRefused(f"^{path}: the certificate's key is of an unknown type; ", path)

    def test_names(self):
        """Names that cannot be read are told of, since SNI could not choose."""
        path = self.write("a.pem", issue(extension=BROKEN_NAMES).pem())
        self.assertRefused(f"^{path}: the names in the certificate are invalid; ", path)
