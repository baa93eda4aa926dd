"""Certificates: the server certificate that SNI selects, and client certificates."""

import hashlib
import os
import shutil
import ssl
from datetime import datetime, timezone

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import example, given
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.internet.interfaces import (
    IOpenSSLServerConnectionCreator,
)
from twisted.internet.ssl import (
    CertificateOptions,
)
from zope.interface.verify import verifyObject

from popserv.interfaces import IReloadable
from popserv.tls.certificates import TICKET_KEY_LIFETIME
from popserv.tls.state import OpenSSLConnectionState
from tests.certificates import CLIENT, SERVER, issue, make_authority
from tests.tls.harness import (
    CA,
    OTHER_CA,
    SERVER_CERTIFICATE,
    CertificatesTestCase,
    ClientCertificateTestCase,
    DirectoryTestCase,
    GivenConnection,
    client_context,
    resume,
)


class InterfaceTests(CertificatesTestCase):
    """The interface that Twisted requires."""

    def test_interface(self):
        """Certificates provides IOpenSSLServerConnectionCreator."""
        self.assertTrue(verifyObject(IOpenSSLServerConnectionCreator, self.load()))


class SNITests(DirectoryTestCase):
    """The server name that the client sends selects a certificate (RFC 6066 section 3)."""

    def test_choice(self):
        """Names are compared without case; a wildcard stands for exactly one label."""
        self.write_certificates(
            "b",
            a=["a.example.org"],
            b=["*.Example.NET", "xn--mller-kva.example.org"],
            c=["*.sub.example.net", "10.0.0.1", "one.example.net"],
        )
        certificates = self.load(self.root)
        for name, expected in [
            ("a.example.org", "a"),
            ("A.EXAMPLE.ORG", "a"),
            ("x.example.net", "b"),
            ("XN--Mller-KVA.example.org", "b"),
            ("one.example.net", "c"),
            ("x.sub.example.net", "c"),
            ("x.y.example.net", "a"),
            ("one.example.net.", "c"),
            ("x.example.net.", "b"),
            ("example.net", "a"),
            ("10.0.0.1", "a"),
            (None, "a"),
        ]:
            self.assertEqual(self.presented(certificates, name), expected, name)

    def test_overview(self):
        """File, names and end of each certificate are known."""
        self.write_certificates(a=["a.example.org"], b=["*.Example.NET", "b.example.org"])
        certificates = self.load(self.root)
        first, second = certificates.overview()
        for each, (file, end) in zip((first, second), certificates.ends(), strict=True):
            self.assertEqual(each["file"], file)
            self.assertEqual(datetime.fromisoformat(each["ends"]).timestamp(), end)
        self.assertEqual(first["names"], ["a.example.org"])
        self.assertEqual(second["names"], ["*.example.net", "b.example.org"])
        self.assertTrue(second["file"].startswith(str(self.root)))
        self.assertGreater(datetime.fromisoformat(first["ends"]), datetime.now(timezone.utc))

    def test_unknown_names(self):
        """Unknown names are not stored."""
        self.write_certificates(a=["a.example.org"])
        certificates = self.load(self.root)
        self.presented(certificates, "x.example.org")
        before = dict(certificates._by_name)
        self.presented(certificates, "y.example.org")
        self.assertEqual(certificates._by_name, before)

    def test_any_name(self):
        """The result is the same as that of a search through all names."""
        hosts = {"a": ["a.b.c", "*.d"], "b": ["*.b.c", "a"], "c": ["*.c", "*.b.c", "b.c"]}
        self.write_certificates(**hosts)
        certificates = self.load(self.root)

        class FakeConnection:
            context = certificates._server_certificates[0].context

            def __init__(self, name):
                self.name = name

            def get_servername(self):
                return self.name

            def set_context(self, context):
                self.context = context

        def search(name):
            labels = name.lower().removesuffix(".").split(".")
            for labels_of_name in (labels, ["*", *labels[1:]]):
                for file, names in hosts.items():
                    if labels_of_name in [each.split(".") for each in names]:
                        return file
            return "a"

        @given(st.lists(st.sampled_from("abcdABCD*"), min_size=1, max_size=4).map(".".join))
        @example("")
        @example("x.b.c.")
        @example("x.b.c..")
        def check(name):
            connection = FakeConnection(name.encode())
            certificates._choose(connection)
            expected = "abc"[
                [one.context for one in certificates._server_certificates].index(connection.context)
            ]
            self.assertEqual(expected, search(name))

        check()
        connection = FakeConnection(b"\xff\x00.b.c")
        certificates._choose(connection)
        self.assertIs(connection.context, certificates._server_certificates[1].context)


class TicketTests(DirectoryTestCase):
    """The key of session tickets; TLS 1.3 is tested with ServerCertificate."""

    def setUp(self):
        """Make two certificates, and a client for each."""
        super().setUp()
        self.write_certificates(a=["a.example.org"], b=["b.example.org"])
        self.certificates = self.load(self.root)
        self.context = client_context(check_hostname=False)
        _, self.session = resume(self.certificates, self.context)

    def is_resumed(self):
        """Return whether the session is resumed."""
        return resume(self.certificates, self.context, self.session)[0].client.session_reused

    def test_lifetime(self):
        """The key is changed after a day (RFC 9325 section 3.4)."""
        self.clock.advance(TICKET_KEY_LIFETIME - 1)
        # A client would not offer a session that has expired, but this clock is the server's.
        self.assertTrue(self.is_resumed())
        self.clock.advance(1)
        self.assertFalse(self.is_resumed())
        _, self.session = resume(self.certificates, self.context)
        self.clock.advance(TICKET_KEY_LIFETIME - 1)
        self.assertTrue(self.is_resumed())

    def test_unchanged(self):
        """Looking for changed files does not change the key."""
        self.pass_check_interval()
        self.assertTrue(self.is_resumed())

    def test_renewed(self):
        """When any certificate is renewed or removed, no earlier session is resumed.

        Its channel binding would be that of the earlier certificate (RFC 5929 section 4).
        """
        for change in (
            lambda: self.write_certificates(b=["b.example.org"]),
            lambda: self.write_certificates(a=["a.example.org"]),
            lambda: os.remove(self.path("b.pem")),
        ):
            _, self.session = resume(self.certificates, self.context)
            change()
            self.pass_check_interval()
            self.assertFalse(self.is_resumed())

    def test_client_certificates(self):
        """With client CAs no session is resumed: every handshake verifies the certificate."""
        ca = self.write("clients/ca.pem", CA.certificate_pem())
        self.certificates = self.load(self.root, client_ca=ca)
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            self.context.maximum_version = version
            _, self.session = resume(self.certificates, self.context)
            self.assertFalse(self.is_resumed())


class ClientCertificateTests(ClientCertificateTestCase):
    """Client certificates, verified by the file of client CAs."""

    def test_optional(self):
        """A client without a certificate is accepted, and has no names."""
        certificates = self.load(client_ca=self.ca)
        self.assertEqual(self.connect(certificates).certificate_names(), ())

    def test_verified(self):
        """A certificate that the CA has issued for clients, or without a purpose, is accepted."""
        for usage in ((), (CLIENT,), (CLIENT, SERVER)):
            for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                tls_state = self.connect(
                    self.load(client_ca=self.ca),
                    issue(issuer=CA, mail=["ann@example.org"], usage=usage),
                    maximum_version=version,
                )
                self.assertEqual(tls_state.certificate_names(), [b"ann@example.org"])

    def test_rejected(self):
        """An invalid certificate fails the handshake: other CA, expired, wrong purpose, weak."""
        certificates = self.load(client_ca=self.ca)
        below = issue(issuer=CA)
        for issued in (
            issue(issuer=OTHER_CA, mail=["ann@example.org"]),
            issue(mail=["ann@example.org"]),
            issue(issuer=CA, mail=["ann@example.org"], ends=-1),
            issue(issuer=CA, mail=["ann@example.org"], begins=1),
            issue(issuer=CA, mail=["ann@example.org"], usage=[SERVER]),
            issue(issuer=below, mail=["ann@example.org"]),
            issue(issuer=CA, mail=["ann@example.org"], kind="rsa1024"),
        ):
            with self.assertRaises((ssl.SSLError, SSL.Error)):
                self.connect(certificates, issued)

    def test_intermediate(self):
        """An intermediate CA may be given without its root, which is then not trusted."""
        below = make_authority("below", CA)
        certificates = self.load(
            client_ca=self.write("below.pem", below.certificate.public_bytes(Encoding.PEM))
        )
        tls_state = self.connect(certificates, issue(issuer=below, mail=["ann@example.org"]))
        self.assertEqual(tls_state.certificate_names(), [b"ann@example.org"])
        with self.assertRaises((ssl.SSLError, SSL.Error)):
            self.connect(certificates, issue(issuer=CA, mail=["ann@example.org"]))

    def test_no_client_ca(self):
        """Without client CAs, a client certificate has no names."""
        ann = issue(issuer=CA, mail=["ann@example.org"])
        self.assertEqual(self.connect(self.load(), ann).certificate_names(), ())
        lax = CertificateOptions(
            privateKey=None, certificate=None, verify=False, requireCertificate=False
        )
        lax.getContext().use_certificate(SERVER_CERTIFICATE.certificate)
        lax.getContext().use_privatekey(SERVER_CERTIFICATE.key)
        lax.getContext().set_verify(SSL.VERIFY_PEER, lambda *_: True)
        tls_state = self.connect(GivenConnection(SSL.Connection(lax.getContext(), None)), ann)
        self.assertIsNotNone(tls_state._connection.get_peer_certificate())
        self.assertEqual(tls_state.certificate_names(), ())
        self.assertEqual(
            tls_state.channel_binding(b"tls-server-end-point"),
            hashlib.sha256(SERVER_CERTIFICATE.der()).digest(),
        )

    def test_before_handshake(self):
        """Before the handshake is completed, there are no names and no channel bindings."""
        connection = self.load(client_ca=self.ca).serverConnectionForTLS(None)
        connection.set_accept_state()
        tls_state = OpenSSLConnectionState(connection)
        self.assertEqual(tls_state.certificate_names(), ())
        self.assertIsNone(tls_state.channel_binding(b"tls-server-end-point"))
        self.assertIsNone(tls_state.channel_binding(b"tls-exporter"))

    def test_reload(self):
        """New CAs are used for the next handshake; a broken file leaves the previous ones."""
        ann = issue(issuer=CA, mail=["ann@example.org"])
        bob = issue(issuer=OTHER_CA, mail=["bob@example.org"])
        certificates = self.load(client_ca=self.ca)
        before = self.connect(certificates, ann)
        self.write("ca.pem", b"half")
        self.pass_check_interval()
        self.assertEqual(self.connect(certificates, ann).certificate_names(), [b"ann@example.org"])
        self.write("ca.pem", OTHER_CA.certificate_pem())
        self.pass_check_interval()
        self.assertEqual(self.connect(certificates, bob).certificate_names(), [b"bob@example.org"])
        self.assertRaises((ssl.SSLError, SSL.Error), self.connect, certificates, ann)
        self.assertEqual(before.certificate_names(), [b"ann@example.org"])

    def test_reload_now(self):
        """On request, changed files are loaded at once, and problems are logged each time."""
        certificates = self.load(client_ca=self.ca)
        verifyObject(IReloadable, certificates)
        certificates.reload()
        self.assertEqual(self.take_log(), [])
        self.write("ca.pem", b"half")
        for _ in range(2):
            certificates.reload()
            (line,) = self.take_log()
            self.assertIn(f"{self.ca}: no certificate in this file", line)
        self.write("ca.pem", OTHER_CA.certificate_pem())
        certificates.reload()
        self.assertIn(f"{self.ca}: TLS certificates reloaded", self.take_log())

    def test_too_many(self):
        """So many CAs that no handshake could name them are rejected, also when reloaded."""
        long = [(NameOID.ORGANIZATIONAL_UNIT_NAME, "x" * 64)] * 16
        many = b"".join(issue(subject=long, authority=True).certificate_pem() for _ in range(70))
        path = self.write("many.pem", many)
        self.assert_rejected("no client could connect with TLS 1.2 .*; name fewer", client_ca=path)
        certificates = self.load(client_ca=self.ca)
        self.write("ca.pem", many)
        ann = issue(issuer=CA, mail=["ann@example.org"])
        for lines in (1, 0):
            self.pass_check_interval()
            self.assertEqual(
                self.connect(certificates, ann).certificate_names(), [b"ann@example.org"]
            )
            logged = [line for line in self.take_log() if "name fewer client CAs" in line]
            self.assertEqual(len(logged), lines)
        # Those before are also used with a certificate that is renewed then.
        self.write("server.pem", issue("pop.example.org", issuer=CA).pem())
        for _ in range(2):
            self.pass_check_interval()
            self.assertEqual(
                self.connect(certificates, ann).certificate_names(), [b"ann@example.org"]
            )
        self.write("ca.pem", OTHER_CA.certificate_pem())
        self.pass_check_interval()
        self.assertRaises((ssl.SSLError, SSL.Error), self.connect, certificates, ann)

    def test_sni(self):
        """The current client CAs are used with every certificate that SNI selects."""
        self.write("certs/a.pem", issue("a.example.org", issuer=CA).pem())
        self.write("certs/b.pem", issue("pop.example.org", issuer=CA).pem())
        certificates = self.load(self.path("certs"), client_ca=self.ca)
        ann = issue(issuer=CA, mail=["ann@example.org"])
        bob = issue(issuer=OTHER_CA, mail=["bob@example.org"])
        self.assertEqual(self.connect(certificates, ann).certificate_names(), [b"ann@example.org"])
        self.assertRaises((ssl.SSLError, SSL.Error), self.connect, certificates, bob)
        self.write("ca.pem", OTHER_CA.certificate_pem())
        shutil.rmtree(self.path("certs"))
        self.pass_check_interval()
        self.assertEqual(self.connect(certificates, bob).certificate_names(), [b"bob@example.org"])
        self.assertRaises((ssl.SSLError, SSL.Error), self.connect, certificates, ann)
