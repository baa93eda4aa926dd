"""What the tests of TLS share: certificates in files, and handshakes in memory."""

import contextlib
import os
import ssl

from cryptography import x509
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.internet.task import Clock
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from popserv.tls.certificates import Certificates
from popserv.tls.files import CertificateError
from popserv.tls.state import OpenSSLConnectionState
from tests.certificates import issue, make_authority

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


class DirectoryCase(FilesCase):
    """A directory of certificates."""

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


class Already:
    """Gives a connection that was made before."""

    def __init__(self, connection):
        self._connection = connection

    def serverConnectionForTLS(self, protocol):
        """Return that connection."""
        return self._connection


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
