"""The server certificates by name, and the certificates of clients."""

import hashlib
import shutil
import ssl

from cryptography.hazmat.primitives.serialization import Encoding
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

from popserv.tls.state import OpenSSLConnectionState
from tests.certificates import CLIENT, SERVER, issue, make_authority
from tests.tls.harness import (
    CA,
    OTHER_CA,
    SERVER_CERTIFICATE,
    Already,
    ClientCase,
    DirectoryCase,
    FilesCase,
)


class InterfaceTests(FilesCase):
    """x"""

    def test_interface(self):
        """Twisted takes it for what it is."""
        self.assertTrue(verifyObject(IOpenSSLServerConnectionCreator, self.serve()))


class SNITests(DirectoryCase):
    """Several certificates, of which the client names one."""

    def test_choice(self):
        """The name chooses, in any case of letters; a wildcard stands for one label alone."""
        self.put(
            "b",
            a=["a.example.org"],
            b=["*.Example.NET", "xn--mller-kva.example.org"],
            c=["*.sub.example.net", "10.0.0.1", "one.example.net"],
        )
        certificates = self.serve(self.root)
        for name, shown in [
            ("a.example.org", "a"),
            ("A.EXAMPLE.ORG", "a"),
            ("x.example.net", "b"),
            ("XN--Mller-KVA.example.org", "b"),
            ("one.example.net", "c"),
            ("x.sub.example.net", "c"),
            ("x.y.example.net", "a"),
            ("example.net", "a"),
            ("10.0.0.1", "a"),
            (None, "a"),
        ]:
            self.assertEqual(self.shown(certificates, name), shown, name)

    def test_no_memory(self):
        """Names that nobody has leave nothing behind."""
        self.put(a=["a.example.org"])
        certificates = self.serve(self.root)
        self.shown(certificates, "x.example.org")
        before = dict(certificates._by_name)
        self.shown(certificates, "y.example.org")
        self.assertEqual(certificates._by_name, before)

    def test_any_name(self):
        """What is chosen is what a plain look through all the names would find."""
        hosts = {"a": ["a.b.c", "*.d"], "b": ["*.b.c", "a"], "c": ["*.c", "*.b.c", "b.c"]}
        self.put(**hosts)
        certificates = self.serve(self.root)

        class Asked:
            context = certificates._server_certificates[0].context

            def __init__(self, name):
                self.name = name

            def get_servername(self):
                return self.name

            def set_context(self, context):
                self.context = context

        def naive(name):
            labels = name.lower().split(".")
            for wanted in (labels, ["*", *labels[1:]]):
                for file, names in hosts.items():
                    if wanted in [each.split(".") for each in names]:
                        return file
            return "a"

        @given(st.lists(st.sampled_from("abcdABCD*"), min_size=1, max_size=4).map(".".join))
        @example("")
        def check(name):
            asked = Asked(name.encode())
            certificates._choose(asked)
            shown = "abc"[
                [one.context for one in certificates._server_certificates].index(asked.context)
            ]
            self.assertEqual(shown, naive(name))

        check()
        asked = Asked(b"\xff\x00.b.c")
        certificates._choose(asked)
        self.assertIs(asked.context, certificates._server_certificates[1].context)


class ClientCertificateTests(ClientCase):
    """Who is let in by a certificate."""

    def test_asked_not_demanded(self):
        """Without a certificate a client is let in, and is nobody."""
        certificates = self.serve(client_ca=self.ca)
        self.assertEqual(self.connect(certificates).certificate_names(), ())

    def test_verified(self):
        """A certificate of the CA's vouches, be it for clients or without a purpose."""
        for usage in ((), (CLIENT,), (CLIENT, SERVER)):
            for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                tls_state = self.connect(
                    self.serve(client_ca=self.ca),
                    issue(issuer=CA, mail=["ann@example.org"], usage=usage),
                    maximum_version=version,
                )
                self.assertEqual(tls_state.certificate_names(), [b"ann@example.org"])

    def test_refused(self):
        """Another CA's, one out of date or not for clients, one that is no CA's to give."""
        certificates = self.serve(client_ca=self.ca)
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
        """A CA below another will do without it, and the other's other certificates will not."""
        below = make_authority("below", CA)
        certificates = self.serve(
            client_ca=self.write("below.pem", below.certificate.public_bytes(Encoding.PEM))
        )
        tls_state = self.connect(certificates, issue(issuer=below, mail=["ann@example.org"]))
        self.assertEqual(tls_state.certificate_names(), [b"ann@example.org"])
        with self.assertRaises((ssl.SSLError, SSL.Error)):
            self.connect(certificates, issue(issuer=CA, mail=["ann@example.org"]))

    def test_not_ours(self):
        """Where no CAs are named nothing is vouched for, whatever a client sends."""
        ann = issue(issuer=CA, mail=["ann@example.org"])
        self.assertEqual(self.connect(self.serve(), ann).certificate_names(), ())
        lax = CertificateOptions(
            privateKey=None, certificate=None, verify=False, requireCertificate=False
        )
        lax.getContext().use_certificate(SERVER_CERTIFICATE.certificate)
        lax.getContext().use_privatekey(SERVER_CERTIFICATE.key)
        lax.getContext().set_verify(SSL.VERIFY_PEER, lambda *_: True)
        tls_state = self.connect(Already(SSL.Connection(lax.getContext(), None)), ann)
        self.assertIsNotNone(tls_state._connection.get_peer_certificate())
        self.assertEqual(tls_state.certificate_names(), ())
        self.assertEqual(
            tls_state.channel_binding(b"tls-server-end-point"),
            hashlib.sha256(SERVER_CERTIFICATE.der()).digest(),
        )

    def test_before_the_end(self):
        """Before the handshake is over, nothing is vouched for."""
        connection = self.serve(client_ca=self.ca).serverConnectionForTLS(None)
        connection.set_accept_state()
        tls_state = OpenSSLConnectionState(connection)
        self.assertEqual(tls_state.certificate_names(), ())
        self.assertIsNone(tls_state.channel_binding(b"tls-server-end-point"))
        self.assertIsNone(tls_state.channel_binding(b"tls-exporter"))

    def test_reload(self):
        """Another CA takes over at the next handshake; a broken file leaves the old one."""
        ann = issue(issuer=CA, mail=["ann@example.org"])
        bob = issue(issuer=OTHER_CA, mail=["bob@example.org"])
        certificates = self.serve(client_ca=self.ca)
        before = self.connect(certificates, ann)
        self.write("ca.pem", b"half")
        self.later()
        self.assertEqual(self.connect(certificates, ann).certificate_names(), [b"ann@example.org"])
        self.write("ca.pem", OTHER_CA.certificate_pem())
        self.later()
        self.assertEqual(self.connect(certificates, bob).certificate_names(), [b"bob@example.org"])
        self.assertRaises((ssl.SSLError, SSL.Error), self.connect, certificates, ann)
        self.assertEqual(before.certificate_names(), [b"ann@example.org"])

    def test_chosen_by_name(self):
        """Whatever certificate is shown, clients are verified by the CAs of now."""
        self.write("certs/a.pem", issue("a.example.org", issuer=CA).pem())
        self.write("certs/b.pem", issue("pop.example.org", issuer=CA).pem())
        certificates = self.serve(self.path("certs"), client_ca=self.ca)
        ann = issue(issuer=CA, mail=["ann@example.org"])
        bob = issue(issuer=OTHER_CA, mail=["bob@example.org"])
        self.assertEqual(self.connect(certificates, ann).certificate_names(), [b"ann@example.org"])
        self.assertRaises((ssl.SSLError, SSL.Error), self.connect, certificates, bob)
        self.write("ca.pem", OTHER_CA.certificate_pem())
        shutil.rmtree(self.path("certs"))
        self.later()
        self.assertEqual(self.connect(certificates, bob).certificate_names(), [b"bob@example.org"])
        self.assertRaises((ssl.SSLError, SSL.Error), self.connect, certificates, ann)
