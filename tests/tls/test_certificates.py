"""What the server shows, and whom it takes at their certificate."""

import contextlib
import hashlib
import os
import shutil
import ssl
from datetime import datetime, timedelta, timezone

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import example, given
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.interfaces import (
    IHandshakeListener,
    INegotiated,
    IOpenSSLServerConnectionCreator,
    IPushProducer,
    ISSLTransport,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import (
    CertificateOptions,
    PrivateCertificate,
    optionsForClientTLS,
    trustRootFromCertificates,
)
from twisted.internet.task import Clock
from twisted.internet.testing import EventLoggingObserver
from twisted.internet.utils import getProcessOutput
from twisted.logger import formatEvent, globalLogPublisher
from twisted.protocols.basic import LineReceiver
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from popserv.tls.certificates import Certificates
from popserv.tls.files import CertificateError
from popserv.tls.state import OpenSSLConnectionState
from tests.certificates import CLIENT, SERVER, VERSION_1, issue, make_authority

CA = make_authority()
OTHER_CA = make_authority("another CA")
SERVER_CERTIFICATE = issue("pop.example.org", issuer=CA)
"""Made once: keys cost time."""
BROKEN_NAMES = x509.UnrecognizedExtension(
    x509.ObjectIdentifier("2.5.29.17"), bytes.fromhex("30038101ff")
)
"""A subjectAltName with a mail address that is not ASCII."""


class FilesCase(SynchronousTestCase):
    """Certificates in files, a clock to look at them by, and clients of three kinds."""

    def setUp(self):
        """Make a directory."""
        self.root = os.path.abspath(self.mktemp())
        os.mkdir(self.root)
        self.clock = Clock()
        self.log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)

    def path(self, name):
        """The path of a file below the root, its directory made."""
        path = os.path.join(self.root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def write(self, name, pem):
        """Write a file at once, as a renewal should; return its path."""
        path = self.path(name)
        with open(path + ".new", "wb") as file:
            file.write(pem)
        os.rename(path + ".new", path)
        return path

    def serve(self, certificate=None, *arguments, **options):
        """Certificates of a file, or of one with a chain and a key."""
        if certificate is None:
            certificate = self.write("server.pem", SERVER_CERTIFICATE.pem())
        return Certificates(certificate, *arguments, clock=self.clock.seconds, **options)

    def later(self):
        """Let as much time pass that files are looked at."""
        self.clock.advance(1)

    def logged(self):
        """What was logged since the last call, a line each."""
        lines = [formatEvent(event) for event in self.log]
        self.log._events.clear()
        return lines

    def assertRefused(self, pattern, *arguments, **options):
        """Construction fails with one line of this form."""
        with self.assertRaises(CertificateError) as caught:
            self.serve(*arguments, **options)
        self.assertRegex(str(caught.exception), pattern)
        self.assertNotIn("\n", str(caught.exception))


def client_context(*authorities, identity=None, alpn=(), **options):
    """Python's own TLS client, which knows these CAs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(
        cadata="".join(one.certificate_pem().decode() for one in authorities or [CA])
    )
    if identity:
        context.load_cert_chain(identity)
    if alpn:
        context.set_alpn_protocols(alpn)
    for name, value in options.items():
        setattr(context, name, value)
    return context


class Pair:
    """A server's and a client's end of TLS in memory, which have shaken hands."""

    def __init__(self, certificates, context=None, name="pop.example.org", session=None):
        self.server = certificates.serverConnectionForTLS(None)
        self.server.set_accept_state()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = (context or client_context()).wrap_bio(
            self._incoming, self._outgoing, server_hostname=name, session=session
        )
        done = set()
        while len(done) < 2:
            for end, handshake, waits in (
                ("client", self.client.do_handshake, ssl.SSLWantReadError),
                ("server", self.server.do_handshake, SSL.WantReadError),
            ):
                try:
                    handshake()
                    done.add(end)
                except waits:
                    pass
                except SSL.Error:
                    self._carry()
                    # So that the client has a say, too: what it says is the alert.
                    self.client.do_handshake()
                    self.client.read(1)
                    raise
                self._carry()

    def _carry(self):
        octets = self._outgoing.read()
        if octets:
            self.server.bio_write(octets)
        with contextlib.suppress(SSL.WantReadError):
            self._incoming.write(self.server.bio_read(1 << 16))

    def talk(self):
        """Return what arrives of what the server sends and what the client does."""
        self.server.send(b"from the server")
        self.client.write(b"from the client")
        self._carry()
        return self.client.read(100), self.server.recv(100)

    def shown(self):
        """The server's certificate, as the client saw it."""
        return self.client.getpeercert(True)


def openssl_client(certificates, version=SSL.TLS1_3_VERSION):
    """Return both ends as pyOpenSSL connections, the client's and the server's."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_max_proto_version(version)
    client, server = SSL.Connection(context, None), certificates.serverConnectionForTLS(None)
    client.set_connect_state()
    server.set_accept_state()
    for _ in range(4):
        for end, other in ((client, server), (server, client)):
            with contextlib.suppress(SSL.WantReadError):
                end.do_handshake()
            with contextlib.suppress(SSL.WantReadError):
                other.bio_write(end.bio_read(1 << 16))
    return client, server


class ShownTests(FilesCase):
    """One file, and what the protocol is."""

    def test_interface(self):
        """Twisted takes it for what it is."""
        self.assertTrue(verifyObject(IOpenSSLServerConnectionCreator, self.serve()))

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


class ErrorTests(FilesCase):
    """What is wrong at the start is said in a line: which file, what, and what mends it."""

    def test_files(self):
        """Files that are not there, or no files, or may not be read."""
        self.assertRefused("^/no/such: no such file; name", "/no/such")
        certificate = self.write("cert.pem", SERVER_CERTIFICATE.certificate_pem())
        self.assertRefused("^/no/such: no such file", certificate, "/no/such")
        self.assertRefused(": not a regular file; name", "/dev/null")
        self.assertRefused(": Not a directory", certificate + "/below")
        self.patch(os, "stat", self.forbid)
        self.assertRefused(f"^{certificate}: permission denied; make it readable", certificate)

    def forbid(self, path):
        """As for one who is not root."""
        raise PermissionError(13, "Permission denied", path)

    def test_certificate(self):
        """Files without a certificate, or with a damaged one."""
        key = self.write("key.pem", SERVER_CERTIFICATE.key_pem())
        self.assertRefused(f"^{key}: no certificate in this file; it must be PEM", key)
        pem = SERVER_CERTIFICATE.pem()
        cut = self.write("cut.pem", pem[:60] + pem[90:])
        self.assertRefused(f"^{cut}: invalid certificate; copy", cut)

    def test_key(self):
        """Files without a key, or with one that is damaged, encrypted or another's."""
        certificate = self.write("cert.pem", SERVER_CERTIFICATE.certificate_pem())
        self.assertRefused(f"^{certificate}: no private key in this file; add it", certificate)
        encrypted = self.write("enc.pem", SERVER_CERTIFICATE.pem(b"pw"))
        self.assertRefused(f"^{encrypted}: the private key is encrypted, .*; decrypt", encrypted)
        key = SERVER_CERTIFICATE.key_pem()
        cut = self.write("cut.pem", key[:60] + key[90:])
        self.assertRefused(f"^{cut}: invalid private key; copy", certificate, cut)
        other = self.write("other.pem", issue("x").key_pem())
        self.assertRefused(
            f"^{other}: the private key does not match the first certificate in {certificate}; ",
            certificate,
            other,
        )

    def test_no_key_in_messages(self):
        """Nothing of a key gets into a message, nor into what a traceback would show."""
        key = SERVER_CERTIFICATE.key_pem()
        for pem in (key[:60] + key[90:], SERVER_CERTIFICATE.key_pem(b"pw")):
            path = self.write("a.pem", SERVER_CERTIFICATE.certificate_pem() + pem)
            with self.assertRaises(CertificateError) as caught:
                self.serve(path)
            self.assertIsNone(caught.exception.__context__)
            for line in pem.splitlines()[1:-1]:
                self.assertNotIn(line.decode(), str(caught.exception))

    def test_damage(self):
        """Whatever happens to an octet, what is not loaded is told of in a line."""
        whole = [CA.der(), SERVER_CERTIFICATE.der()]
        key = SERVER_CERTIFICATE.key_pem()

        @given(st.integers(0, 1), st.integers(0), st.integers(0, 255))
        @example(0, whole[0].index(b"the CA"), 0xFF)
        @example(0, whole[0].index(b"the CA") - 2, 0x1E)
        def check(which, position, octet):
            ders = [bytearray(der) for der in whole]
            ders[which][position % len(ders[which])] = octet
            files = [
                self.write(name, ssl.DER_cert_to_PEM_cert(bytes(der)).encode() + key)
                for name, der in zip(["ca.pem", "server.pem"], ders, strict=True)
            ]
            try:
                self.serve(files[1], client_ca=files[0])
            except CertificateError as error:
                self.assertNotIn("\n", str(error))
            # Of what is odd, but not wrong enough.
            self.flushWarnings()

        check()

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

    def test_directory(self):
        """A directory needs certificates, and takes no other key."""
        self.assertRefused(f"^{self.root}: no certificate in this directory; add", self.root)
        self.assertRefused(
            f"^{self.root}: in a directory each certificate has its own key", self.root, "/k"
        )
        self.patch(os, "listdir", self.forbid)
        self.assertRefused(f"^{self.root}: Permission denied", self.root)

    def test_client_ca(self):
        """The CAs' file must hold CAs."""
        self.assertRefused("^/no/such: no such file", client_ca="/no/such")
        empty = self.write("empty.pem", b"")
        self.assertRefused(f"^{empty}: no certificate in this file", client_ca=empty)
        mixed = self.write("mixed.pem", CA.certificate_pem() + SERVER_CERTIFICATE.pem())
        self.assertRefused(
            f"^{mixed}: CN=somebody is not the certificate of a CA; name", client_ca=mixed
        )
        lines = self.write(
            "lines.pem", issue(subject=[(NameOID.COMMON_NAME, "a\nb")]).certificate_pem()
        )
        self.assertRefused(f"^{lines}: CN=a[?]b is not the certificate of a CA", client_ca=lines)
        broken = self.write("b.pem", issue(extension=BROKEN_NAMES, authority=True).pem())
        self.assertRefused(f"^{broken}: .* is not the certificate of a CA; ", client_ca=broken)


class SNITests(FilesCase):
    """Several certificates, of which the client names one."""

    def shown(self, certificates, name):
        """The file of the certificate that is shown for a name, as its subject has it."""
        context = client_context(check_hostname=False)
        certificate = x509.load_der_x509_certificate(Pair(certificates, context, name).shown())
        return certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value

    def put(self, *names, **hosts):
        """Put a file FILE.pem, or FILE/ as certbot has it, for some hosts."""
        for name, these in hosts.items():
            one = issue(*these, issuer=CA, subject=[(NameOID.COMMON_NAME, name)])
            if name in names:
                self.write(f"{name}/fullchain.pem", one.certificate_pem())
                self.write(f"{name}/privkey.pem", one.key_pem())
            else:
                self.write(f"{name}.pem", one.pem())

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

    def test_default(self):
        """Who names none is shown default.pem, or default/."""
        self.put(a=["a.example.org"], default=["b.example.org"], zz=["c.example.org"])
        self.assertEqual(self.shown(self.serve(self.root), "x.example.org"), "default")
        os.unlink(self.path("default.pem"))
        self.put("default", default=["b.example.org"])
        self.assertEqual(self.shown(self.serve(self.root), None), "default")

    def test_same_name(self):
        """Of two with one name, the first by file name is shown."""
        self.put(z=["x.example.org"], b=["x.example.org"], a=["y.example.org"])
        self.assertEqual(self.shown(self.serve(self.root), "x.example.org"), "b")

    def test_other_files(self):
        """Hidden files, READMEs and directories of something else are left alone."""
        self.put(b=["x.example.org"])
        self.write(".a.pem", b"half")
        self.write("README", b"read me")
        self.write("a/cert.pem", b"")
        os.mkdir(self.path("a.pem"))
        self.assertEqual(self.shown(self.serve(self.root), "x.example.org"), "b")

    def test_one_of_certbots(self):
        """The directory of one certificate is as good as the one above."""
        self.put("a", a=["a.example.org"])
        certificates = self.serve(self.path("a"))
        self.assertEqual(self.shown(certificates, "a.example.org"), "a")

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


class ReloadTests(FilesCase):
    """Files change while the server runs."""

    def renewed(self):
        """Another certificate for the same name."""
        return issue("pop.example.org", issuer=CA)

    def test_reload(self):
        """A new file is shown after a second, and a session under way goes on."""
        certificates = self.serve()
        before = Pair(certificates)
        new = self.renewed()
        path = self.write("server.pem", new.pem())
        self.assertEqual(Pair(certificates).shown(), SERVER_CERTIFICATE.der())
        self.later()
        self.assertEqual(Pair(certificates).shown(), new.der())
        self.assertEqual(self.logged(), [f"{path}: TLS certificates reloaded"])
        self.assertEqual(before.talk(), (b"from the server", b"from the client"))

    def test_in_mid_handshake(self):
        """A handshake that began before a change ends with what fits together."""
        certificates = self.serve()
        begun = certificates.serverConnectionForTLS(None)
        new = self.renewed()
        self.write("server.pem", new.pem())
        self.later()
        certificates.serverConnectionForTLS(None)
        self.assertEqual(Pair(Already(begun)).shown(), new.der())

    def test_unchanged(self):
        """What has not changed is not read."""
        certificates = self.serve()
        self.patch(certificates, "_loaded", dict(certificates._loaded))
        self.later()
        context = certificates.serverConnectionForTLS(None).get_context()
        self.later()
        self.assertIs(certificates.serverConnectionForTLS(None).get_context(), context)
        self.assertEqual(self.logged(), [])

    def test_half_written(self):
        """While certificate and key do not fit the old ones stay, and the log says so once."""
        certificate = self.write("cert.pem", SERVER_CERTIFICATE.certificate_pem())
        key = self.write("key.pem", SERVER_CERTIFICATE.key_pem())
        certificates = self.serve(certificate, key)
        new = self.renewed()
        self.write("cert.pem", new.certificate_pem())
        for lines in (1, 0, 0):
            self.later()
            self.assertEqual(Pair(certificates).shown(), SERVER_CERTIFICATE.der())
            logged = self.logged()
            self.assertEqual(len(logged), lines)
        self.write("cert.pem", b"")
        self.later()
        Pair(certificates)
        (line,) = self.logged()
        self.assertEqual(
            line,
            "TLS certificates not reloaded, the previous ones stay in use: "
            f"{certificate}: no certificate in this file; it must be PEM, with BEGIN CERTIFICATE",
        )
        self.write("cert.pem", new.certificate_pem())
        self.write("key.pem", new.key_pem())
        self.later()
        self.assertEqual(Pair(certificates).shown(), new.der())
        self.assertEqual(self.logged(), [f"{certificate}: TLS certificates reloaded"])

    def test_in_place(self):
        """A file that is written in place, through a link, counts as changed, too."""
        path = self.write("archive/1.pem", SERVER_CERTIFICATE.pem())
        link = self.path("live.pem")
        os.symlink(path, link)
        certificates = self.serve(link)
        new = self.renewed()
        with open(path, "wb") as file:
            file.write(new.pem())
        self.later()
        self.assertEqual(Pair(certificates).shown(), new.der())
        os.unlink(link)
        os.symlink(self.write("archive/2.pem", SERVER_CERTIFICATE.pem()), link)
        self.later()
        self.assertEqual(Pair(certificates).shown(), SERVER_CERTIFICATE.der())

    def test_gone(self):
        """Files that vanish are shown on, and seen again when they are back."""
        certificates = self.serve()
        os.unlink(self.path("server.pem"))
        for _ in range(2):
            self.later()
            self.assertEqual(Pair(certificates).shown(), SERVER_CERTIFICATE.der())
        self.assertEqual(len(self.logged()), 1)
        new = self.renewed()
        self.write("server.pem", new.pem())
        self.later()
        self.assertEqual(Pair(certificates).shown(), new.der())

    def test_directory(self):
        """In a directory files come and go, and a broken one does no harm to the others."""
        names = {}
        for name in "abcd":
            names[name] = issue(f"{name}.example.org", issuer=CA)
        for name in "ab":
            self.write(f"certs/{name}.pem", names[name].pem())
        certificates = self.serve(self.path("certs"))

        def shown(name):
            context = client_context(check_hostname=False)
            found = Pair(certificates, context, f"{name}.example.org").shown()
            return next(each for each in names if names[each].der() == found)

        self.assertEqual([shown(name) for name in "abcd"], list("abaa"))
        self.write("certs/c.pem", names["c"].pem())
        self.write("certs/b.pem", b"half")
        self.later()
        self.assertEqual([shown(name) for name in "abcd"], list("abca"))
        self.write("certs/d.pem", b"half")
        os.unlink(self.path("certs/b.pem"))
        self.later()
        self.assertEqual([shown(name) for name in "abcd"], list("aaca"))
        self.logged()
        self.write("certs/d.pem", names["d"].pem())
        os.unlink(self.path("certs/a.pem"))
        self.later()
        self.assertEqual([shown(name) for name in "abcd"], list("cccd"))
        self.assertEqual(self.logged(), [f"{self.path('certs/d.pem')}: TLS certificates reloaded"])

    def test_directory_emptied(self):
        """A directory that is emptied or goes away leaves what was there."""
        self.write("certs/a.pem", SERVER_CERTIFICATE.pem())
        certificates = self.serve(self.path("certs"))
        os.unlink(self.path("certs/a.pem"))
        self.later()
        self.assertEqual(Pair(certificates).shown(), SERVER_CERTIFICATE.der())
        self.assertIn("no certificate in this directory", self.logged()[0])
        shutil.rmtree(self.path("certs"))
        self.later()
        self.assertEqual(Pair(certificates).shown(), SERVER_CERTIFICATE.der())
        self.assertIn("no such file", self.logged()[0])


class Already:
    """Gives a connection that was made before."""

    def __init__(self, connection):
        self._connection = connection

    def serverConnectionForTLS(self, protocol):
        """Return that connection."""
        return self._connection


class ExpiryTests(FilesCase):
    """An operator is told before users are."""

    def test_warnings(self):
        """Certificates that ended or soon will are warned of when asked, as at the start."""
        ends = datetime.now(timezone.utc) + timedelta(days=13)
        a = self.write("certs/a.pem", issue("a.example.org", "b.example.org", ends=13).pem())
        b = self.write("certs/b.pem", issue(ends=-1).pem())
        self.write("certs/c.pem", issue("c.example.org", ends=15).pem())
        ca = self.write("ca.pem", make_authority("old", ends=-2).certificate_pem())
        certificates = self.serve(self.path("certs"), client_ca=ca)
        self.assertEqual(self.logged(), [])
        certificates.warn_of_expiry()
        lines = self.logged()
        names = "a.example.org, b.example.org"
        self.assertEqual(
            lines[0], f"{a}: the certificate for {names} expires on {ends:%Y-%m-%d}; renew it"
        )
        self.assertIn(f"{b}: the certificate for no name expired on ", lines[1])
        self.assertIn(f"{ca}: the certificate for CN=old expired on ", lines[2])
        self.assertEqual(len(lines), 3)
        certificates.warn_of_expiry()
        self.assertEqual(self.logged(), lines)
        self.serve(self.path("certs/c.pem")).warn_of_expiry()
        self.assertEqual(self.logged(), [])

    def test_reloaded(self):
        """What is loaded anew is looked at, too, and the rest is not told again."""
        self.write("certs/a.pem", issue("a.example.org", ends=1).pem())
        certificates = self.serve(self.path("certs"))
        self.logged()
        self.write("certs/b.pem", issue("b.example.org", ends=1).pem())
        self.later()
        certificates.serverConnectionForTLS(None)
        loaded, warned = self.logged()
        self.assertIn("b.pem: TLS certificates reloaded", loaded)
        self.assertIn("b.pem: the certificate for b.example.org expires on", warned)


class ClientCase(FilesCase):
    """A server that verifies clients."""

    def setUp(self):
        """Make the file of CAs."""
        super().setUp()
        self.ca = self.write("ca.pem", CA.certificate_pem())

    def connect(self, certificates, issued=None, **options):
        """The channel of a client with this certificate."""
        identity = self.write("client.pem", issued.pem()) if issued else None
        return OpenSSLConnectionState(
            Pair(certificates, client_context(identity=identity, **options)).server
        )

    def names(self, *arguments, **options):
        """The names that a client's certificate from the CA vouches for."""
        return list(
            self.connect(
                self.serve(client_ca=self.ca), issue(*arguments, issuer=CA, **options)
            ).certificate_names()
        )


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

    def test_version_1(self):
        """An old CA that cannot say that it is one is taken for one."""
        old = issue(issuer=None, authority=None)
        self.assertRefused(
            "not the certificate of a CA", client_ca=self.write("a.pem", old.certificate_pem())
        )
        Certificates(
            self.write("server.pem", SERVER_CERTIFICATE.pem()),
            client_ca=self.write("v1.pem", VERSION_1),
        )

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


@implementer(IHandshakeListener, IPushProducer)
class Upgrading(LineReceiver):
    """A server with STLS, which is its transport's producer and notes what it is told."""

    def connectionMade(self):
        """Be the producer at once, as a POP3 server is."""
        self.told = self.factory.told
        self.sendLine(b"+OK ready")
        self.transport.registerProducer(self, True)

    def lineReceived(self, line):
        """Begin TLS, or echo."""
        if line == b"STLS":
            self.sendLine(b"+OK begin")
            self.transport.startTLS(self.factory.certificates)
            self.told.append("started")
            if self.factory.writes_early:
                self.sendLine(b"early")
        else:
            self.sendLine(line)

    def handshakeCompleted(self):
        """TLS is there."""
        self.told.append("handshakeCompleted")
        assert ISSLTransport.providedBy(self.transport)
        self.factory.tls_state = OpenSSLConnectionState(self.transport.getHandle())

    def pauseProducing(self):
        """What is written is not sent yet."""
        self.told.append("pauseProducing")

    def resumeProducing(self):
        """What was written is sent."""
        self.told.append("resumeProducing")

    def stopProducing(self):
        """The connection is lost."""
        self.told.append("stopProducing")

    def connectionLost(self, reason):
        """It is."""
        self.told.append("connectionLost")
        self.factory.lost.callback(reason.value)


class Upgrader(LineReceiver):
    """A client that asks for TLS, then says hello."""

    def __init__(self, options):
        self.options = options
        self.lines = []
        self.over = Deferred()

    def lineReceived(self, line):
        """Ask for TLS, speak through it, and go."""
        self.lines.append(line)
        if line == b"+OK ready":
            self.sendLine(b"STLS")
        elif line == b"+OK begin":
            self.transport.startTLS(self.options)
            self.sendLine(b"hello")
        elif line == b"hello":
            self.transport.loseConnection()

    def connectionLost(self, reason):
        """Over."""
        self.over.callback(None)


class Echo(Protocol):
    """Says over what TLS it is, then echoes."""

    def dataReceived(self, data):
        """Echo."""
        self.transport.write(repr(self.transport.negotiatedProtocol).encode() + b" " + data)


class SocketCase(TestCase):
    """Real connections, through the reactor."""

    def setUp(self):
        """Certificates, and what a Twisted client needs to believe in them."""
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(SERVER_CERTIFICATE.pem())
        self.certificates = Certificates(path)
        self.options = optionsForClientTLS(
            "pop.example.org",
            trustRootFromCertificates([PrivateCertificate.loadPEM(CA.pem())]),
        )

    def listen(self, factory):
        """Listen, and return the port's number."""
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return port.getHost().port


class StartTLSTests(SocketCase):
    """transport.startTLS in mid-connection, as STLS has it (RFC 2595)."""

    def upgrading(self, writes_early=False):
        """A server with STLS."""
        factory = Factory.forProtocol(Upgrading)
        factory.certificates, factory.writes_early = self.certificates, writes_early
        factory.told, factory.lost, factory.tls_state = [], Deferred(), None
        return factory

    async def upgrade(self, options, writes_early=False):
        """Return what the server was told, and the client's lines."""
        factory = self.upgrading(writes_early)
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.listen(factory))
        client = await connectProtocol(endpoint, Upgrader(options))
        await client.over
        self.reason = await factory.lost
        self.tls_state = factory.tls_state
        return factory.told, client.lines

    async def test_quiet(self):
        """A producer that writes nothing until the handshake is over is never paused."""
        told, lines = await self.upgrade(self.options)
        self.assertEqual(lines, [b"+OK ready", b"+OK begin", b"hello"])
        self.assertEqual(told[:2], ["started", "handshakeCompleted"])
        self.assertNotIn("pauseProducing", told)
        self.assertEqual(
            self.tls_state.channel_binding(b"tls-server-end-point"),
            hashlib.sha256(SERVER_CERTIFICATE.der()).digest(),
        )

    async def test_early(self):
        """One that writes before is paused by its write, and resumed after the handshake."""
        told, lines = await self.upgrade(self.options, writes_early=True)
        self.assertEqual(lines, [b"+OK ready", b"+OK begin", b"early", b"hello"])
        self.assertEqual(
            told[:4], ["started", "pauseProducing", "handshakeCompleted", "resumeProducing"]
        )

    async def test_failed(self):
        """A handshake that fails is no handshake completed, and the connection is lost."""
        options = optionsForClientTLS(
            "pop.example.org",
            trustRootFromCertificates([PrivateCertificate.loadPEM(OTHER_CA.pem())]),
        )
        told, lines = await self.upgrade(options)
        self.assertEqual(lines, [b"+OK ready", b"+OK begin"])
        self.assertEqual(told[-1], "connectionLost")
        self.assertNotIn("handshakeCompleted", told)

    async def test_other_protocol(self):
        """Who asks for another protocol is turned away in Twisted's own way, as an SSL.Error."""
        options = optionsForClientTLS(
            "pop.example.org",
            trustRootFromCertificates([PrivateCertificate.loadPEM(CA.pem())]),
            acceptableProtocols=[b"http/1.1"],
        )
        told, _ = await self.upgrade(options)
        self.assertNotIn("handshakeCompleted", told)
        self.assertIsInstance(self.reason, SSL.Error)
        self.assertIn("no application protocol", str(self.reason))

    async def test_stranger(self):
        """OpenSSL's own client gets through STLS, too."""
        factory = self.upgrading()
        said = await s_client(self.listen(factory), "-starttls", "pop3", "-alpn", "pop3")
        self.assertIn(b"CONNECTION ESTABLISHED", said)
        await factory.lost
        self.assertIn("handshakeCompleted", factory.told)


class FactoryTests(SocketCase):
    """TLS from the first octet, by TLSMemoryBIOFactory."""

    def echo(self):
        """The port of a server that echoes."""
        return self.listen(TLSMemoryBIOFactory(self.certificates, False, Factory.forProtocol(Echo)))

    async def test_twisted(self):
        """Twisted's client and ours agree on what they speak."""
        options = optionsForClientTLS(
            "pop.example.org",
            trustRootFromCertificates([PrivateCertificate.loadPEM(CA.pem())]),
            acceptableProtocols=[b"pop3"],
        )
        endpoint = wrapClientTLS(options, TCP4ClientEndpoint(reactor, "127.0.0.1", self.echo()))
        heard = Deferred()
        client = Protocol()
        client.dataReceived = heard.callback
        lost = Deferred()
        client.connectionLost = lambda reason: lost.callback(None)
        await connectProtocol(endpoint, client)
        client.transport.write(b"hello")
        self.assertEqual(await heard, b"b'pop3' hello")
        self.assertTrue(verifyObject(INegotiated, client.transport))
        client.transport.loseConnection()
        await lost

    async def test_stranger(self):
        """What OpenSSL's own client makes of the server."""
        port = self.echo()
        said = await s_client(port)
        self.assertIn(b"Protocol version: TLSv1.3", said)
        said = await s_client(port, "-tls1_2")
        self.assertIn(b"Protocol version: TLSv1.2", said)
        self.assertIn(b"Ciphersuite: ECDHE-ECDSA-", said)
        said = await s_client(port, "-alpn", "http/1.1")
        self.assertIn(b"alert no application protocol", said)
        said = await s_client(port, "-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256")
        self.assertIn(b"alert handshake failure", said)


def s_client(port, *arguments):
    """Return, in time, what openssl s_client says of a server."""
    script = 'exec openssl s_client -brief -connect 127.0.0.1:"$@" </dev/null'
    arguments = ["-c", script, "sh", str(port), "-servername", "pop.example.org", *arguments]
    return getProcessOutput("/bin/sh", arguments, os.environ, errortoo=True)
