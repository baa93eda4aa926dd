"""A server certificate: key types, TLS versions, ciphers, ALPN."""

import hashlib
import ssl

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL

from popserv.tls.state import OpenSSLConnectionState
from tests.certificates import CLIENT, RSASSA_PSS, SERVER, issue, make_authority
from tests.tls.harness import (
    BROKEN_NAMES,
    CA,
    SERVER_CERTIFICATE,
    CertificatesTestCase,
    Handshake,
    client_context,
    openssl_pair,
    resume,
)


class HandshakeTests(CertificatesTestCase):
    """Handshakes with one certificate."""

    def test_one_file(self):
        """One PEM file may contain certificate and key; TLS 1.3 is used."""
        pair = Handshake(self.load())
        self.assertEqual(pair.presented(), SERVER_CERTIFICATE.der())
        self.assertEqual(pair.client.version(), "TLSv1.3")
        self.assertEqual(pair.exchange_data(), (b"from the server", b"from the client"))

    def test_two_files(self):
        """The key may be in a separate file, after its parameters."""
        certificate = self.write("cert.pem", SERVER_CERTIFICATE.certificate_pem())
        key = self.write(
            "key.pem",
            b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
            + SERVER_CERTIFICATE.key_pem(),
        )
        self.assertEqual(
            Handshake(self.load(certificate, key)).presented(), SERVER_CERTIFICATE.der()
        )

    def test_chain(self):
        """Intermediate certificates are sent to the client."""
        below = make_authority("a CA below", CA)
        server = issue("pop.example.org", issuer=below)
        pair = Handshake(self.load(self.write("a.pem", server.pem())))
        self.assertEqual(pair.presented(), server.der())

    def test_key_types(self):
        """RSA and Ed25519 keys can be used, with TLS 1.2 and 1.3."""
        for kind in ("rsa", "ed25519"):
            server = issue("pop.example.org", issuer=CA, kind=kind)
            certificates = self.load(self.write("a.pem", server.pem()))
            for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                pair = Handshake(certificates, client_context(maximum_version=version))
                self.assertEqual(pair.presented(), server.der())

    def test_rsassa_pss(self):
        """A key of type id-RSASSA-PSS can be used, with TLS 1.2 and 1.3 (RFC 8446 4.2.3)."""
        certificates = self.load(self.write("a.pem", RSASSA_PSS))
        certificate = x509.load_pem_x509_certificate(RSASSA_PSS)
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = client_context(maximum_version=version)
            context.load_verify_locations(cadata=RSASSA_PSS.decode().partition("-----BEGIN P")[0])
            pair = Handshake(certificates, context)
            self.assertEqual(pair.presented(), certificate.public_bytes(Encoding.DER))
            state = OpenSSLConnectionState(pair.server)
            self.assertEqual(
                state.channel_binding(b"tls-server-end-point"),
                certificate.fingerprint(hashes.SHA256()),
            )

    def test_rsassa_pss_mismatch(self):
        """A key of type rsaEncryption does not fit a certificate of type id-RSASSA-PSS."""
        plain = load_pem_private_key(RSASSA_PSS.partition(b"-----END CERTIFICATE-----\n")[2], None)
        key = plain.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        path = self.write("a.pem", RSASSA_PSS.partition(b"-----BEGIN PRIVATE")[0] + key)
        self.assert_rejected(f"^{path}: (OpenSSL rejects it|no client could connect)", path)

    def test_versions(self):
        """Versions before TLS 1.2 are rejected (RFC 8996)."""
        old = client_context()
        old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.set_ciphers("ALL:@SECLEVEL=0")
        self.assertRaisesRegex(ssl.SSLError, "(?i)protocol.version", Handshake, self.load(), old)
        # The constants of old versions are deprecated.
        self.flushWarnings()

    def test_ciphers(self):
        """With TLS 1.2, only ECDHE with AEAD is available, and the client chooses."""
        weak = client_context(maximum_version=ssl.TLSVersion.TLSv1_2)
        certificates = self.load(
            self.write("a.pem", issue("pop.example.org", issuer=CA, kind="rsa").pem())
        )
        for ciphers in ("AES128-GCM-SHA256", "ECDHE+AES128+SHA256:!AESGCM", "DHE+AESGCM"):
            weak.set_ciphers(ciphers)
            self.assertRaisesRegex(
                ssl.SSLError, "(?i)handshake.failure", Handshake, certificates, weak
            )
        for ciphers in (
            "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-CHACHA20-POLY1305",
            "ECDHE-RSA-CHACHA20-POLY1305:ECDHE-RSA-AES256-GCM-SHA384",
        ):
            weak.set_ciphers(ciphers)
            self.assertEqual(
                Handshake(certificates, weak).client.cipher()[0], ciphers.split(":")[0]
            )

    def test_no_renegotiation(self):
        """A client cannot renegotiate (RFC 9325 section 3.5)."""
        client, server = openssl_pair(self.load(), SSL.TLS1_2_VERSION)
        client.renegotiate()
        self.assertRaises(SSL.WantReadError, client.do_handshake)
        server.bio_write(client.bio_read(1 << 16))
        self.assertRaises(SSL.WantReadError, server.recv, 100)
        client.bio_write(server.bio_read(1 << 16))
        with self.assertRaisesRegex(SSL.Error, "no renegotiation"):
            client.do_handshake()

    def test_resumption(self):
        """Sessions of TLS 1.3 can be resumed (RFC 8446 section 2.2)."""
        certificates, context = self.load(), client_context()
        session = None
        for expected in (False, True, True):
            pair, session = resume(certificates, context, session)
            self.assertEqual(pair.client.session_reused, expected)
            self.assertEqual(session.ticket_lifetime_hint, 7200)
            state = OpenSSLConnectionState(pair.server)
            self.assertEqual(
                state.channel_binding(b"tls-server-end-point"),
                hashlib.sha256(SERVER_CERTIFICATE.der()).digest(),
            )
            self.assertIsNotNone(state.channel_binding(b"tls-exporter"))

    def test_no_resumption(self):
        """Sessions of TLS 1.2 are not resumed: a stolen key would decrypt recorded ones."""
        certificates = self.load()
        context = client_context(maximum_version=ssl.TLSVersion.TLSv1_2)
        _, session = resume(certificates, context)
        self.assertFalse(session.has_ticket)
        self.assertFalse(resume(certificates, context, session)[0].client.session_reused)

    def test_alpn(self):
        """The ALPN protocol is pop3 (RFC 7301); a client may omit ALPN."""
        for offered, selected in (((), None), (["pop3"], "pop3"), (["imap", "pop3"], "pop3")):
            pair = Handshake(self.load(), client_context(alpn=offered))
            self.assertEqual(pair.client.selected_alpn_protocol(), selected)

    def test_other_alpn(self):
        """A client that offers other protocols only is rejected (RFC 9325 section 3.8)."""
        browser = client_context(alpn=["h2", "http/1.1"])
        self.assertRaisesRegex(
            ssl.SSLError, "(?i)no.application.protocol", Handshake, self.load(), browser
        )

    def test_alpn_with_sni(self):
        """ALPN is the same for every certificate that SNI selects."""
        self.write("certs/a.pem", issue("a.example.org", issuer=CA).pem())
        self.write("certs/b.pem", SERVER_CERTIFICATE.pem())
        certificates = self.load(self.path("certs"))
        pair = Handshake(certificates, client_context(alpn=["pop3"]))
        self.assertEqual(pair.client.selected_alpn_protocol(), "pop3")
        self.assertRaisesRegex(
            ssl.SSLError,
            "(?i)no.application.protocol",
            Handshake,
            certificates,
            client_context(alpn=["h2"]),
        )


class KeyErrorTests(CertificatesTestCase):
    """Keys and names that cannot be used are rejected."""

    def test_weak(self):
        """An RSA key of 1024 bits is rejected, whatever the OpenSSL library allows."""
        weak = self.write("weak.pem", issue("pop.example.org", kind="rsa1024").pem())
        self.assert_rejected(f"^{weak}: OpenSSL rejects it \\(ee key too small\\); ", weak)

    def test_chain(self):
        """A chain with a CA key of 1024 bits is rejected: OpenSSL would refuse each handshake."""
        below = make_authority("a weak CA", CA, kind="rsa1024")
        weak = self.write("weak.pem", issue("pop.example.org", issuer=below).pem())
        self.assert_rejected(
            f"^{weak}: no client could connect with TLS 1.2 \\(ca key too small\\); use .* a CA",
            weak,
        )

    def test_useless(self):
        """A key that no cipher of TLS can use is rejected."""
        for kind in ("dsa", "secp256k1"):
            useless = self.write("a.pem", issue("pop.example.org", issuer=CA, kind=kind).pem())
            self.assert_rejected(
                f"^{useless}: no client could connect with TLS 1.2 \\(no shared cipher\\); use",
                useless,
            )
            self.assert_rejected(
                f"^{useless}: no client could connect with TLS 1.3 \\(.+\\); use",
                useless,
                profile="modern",
            )

    def test_reload(self):
        """A renewed certificate that no client could use is not loaded."""
        certificates = self.load()
        self.pass_check_interval()
        path = self.write("server.pem", issue("pop.example.org", issuer=CA, kind="dsa").pem())
        self.assertEqual(Handshake(certificates).presented(), SERVER_CERTIFICATE.der())
        (line,) = self.take_log()
        self.assertRegex(
            line, f"^TLS certificates not reloaded, .*: {path}: no client could connect with TLS"
        )

    def test_usage(self):
        """A certificate whose extended key usage excludes servers is rejected."""
        for usage in ([SERVER], [CLIENT, SERVER]):
            path = self.write("a.pem", issue("pop.example.org", issuer=CA, usage=usage).pem())
            self.assertTrue(Handshake(self.load(path)).presented())
        # GnuTLS accepts it, OpenSSL does not.
        usage = [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]
        self.load(self.write("a.pem", issue("pop.example.org", issuer=CA, usage=usage).pem()))
        path = self.write("a.pem", issue("pop.example.org", issuer=CA, usage=[CLIENT]).pem())
        self.assert_rejected(f"^{path}: the certificate is not for servers; request", path)

    def test_no_executable_memory(self):
        """MemoryDenyWriteExecute=yes, with which cffi makes no callbacks, is named."""

        def fail(*arguments):
            raise MemoryError

        self.patch(SSL.Context, "set_alpn_select_callback", fail)
        path = self.write("a.pem", SERVER_CERTIFICATE.pem())
        self.assert_rejected(f"^{path}: TLS requires memory .*; remove MemoryDenyWrite", path)

    def test_x25519(self):
        """A key that cannot sign is rejected."""
        useless = self.write("x.pem", issue("x", kind="x25519", issuer=CA).pem())
        self.assert_rejected(f"^{useless}: OpenSSL rejects it \\(.+\\); ", useless)

    def test_unknown_curve(self):
        """A key on an unknown curve is rejected."""
        known, unknown = bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d03017f")
        modified = x509.load_der_x509_certificate(SERVER_CERTIFICATE.der().replace(known, unknown))
        path = self.write(
            "modified.pem", modified.public_bytes(Encoding.PEM) + SERVER_CERTIFICATE.key_pem()
        )
        self.assert_rejected(f"^{path}: the certificate's key is of an unknown type; ", path)

    def test_names(self):
        """A certificate with invalid names is rejected, because SNI could not select it."""
        path = self.write("a.pem", issue(extension=BROKEN_NAMES).pem())
        self.assert_rejected(f"^{path}: the names in the certificate are invalid; ", path)
