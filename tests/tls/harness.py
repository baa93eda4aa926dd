"""Certificate files, and TLS handshakes in memory, for the tests of TLS."""

import contextlib
import os
import ssl
from types import SimpleNamespace

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
"""Issued once, because generating keys takes time."""


BROKEN_NAMES = x509.UnrecognizedExtension(
    x509.ObjectIdentifier("2.5.29.17"), bytes.fromhex("30038101ff")
)
"""A subjectAltName with a mail address that is not ASCII."""


class CertificatesTestCase(SynchronousTestCase):
    """A directory for files, a clock, and a record of the log."""

    def setUp(self):
        """Create the directory."""
        self.root = os.path.abspath(self.mktemp())
        os.mkdir(self.root)
        self.clock = Clock()
        self.log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)

    def path(self, name):
        """Return the path of a file in the directory; its parent directories are created."""
        path = os.path.join(self.root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def write(self, name, pem):
        """Replace a file by renaming, as a renewal of certificates should; return its path."""
        path = self.path(name)
        with open(path + ".new", "wb") as file:
            file.write(pem)
        os.rename(path + ".new", path)
        return path

    def load(self, certificate=None, *arguments, **options):
        """Load certificates; by default SERVER_CERTIFICATE from one file."""
        if certificate is None:
            certificate = self.write("server.pem", SERVER_CERTIFICATE.pem())
        return Certificates(certificate, *arguments, clock=self.clock.seconds, **options)

    def pass_check_interval(self):
        """Advance the clock so that the files are checked before the next handshake."""
        self.clock.advance(1)

    def take_log(self):
        """Return the lines logged since the last call."""
        lines = [formatEvent(event) for event in self.log]
        self.log._events.clear()
        return lines

    def assert_rejected(self, pattern, *arguments, **options):
        """Check that the files are rejected with one line that matches the pattern."""
        with self.assertRaises(CertificateError) as caught:
            self.load(*arguments, **options)
        self.assertRegex(str(caught.exception), pattern)
        self.assertNotIn("\n", str(caught.exception))


class DirectoryTestCase(CertificatesTestCase):
    """A directory with several certificates."""

    def presented(self, certificates, name):
        """Return the file, without .pem, of the certificate presented for a server name."""
        context = client_context(check_hostname=False)
        certificate = x509.load_der_x509_certificate(
            Handshake(certificates, context, name).presented()
        )
        return certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value

    def write_certificates(self, *names, **hosts):
        """Write FILE.pem for each FILE=hosts, or FILE/ as certbot does if it is in ``names``."""
        for name, dns_names in hosts.items():
            certificate = issue(*dns_names, issuer=CA, subject=[(NameOID.COMMON_NAME, name)])
            if name in names:
                self.write(f"{name}/fullchain.pem", certificate.certificate_pem())
                self.write(f"{name}/privkey.pem", certificate.key_pem())
            else:
                self.write(f"{name}.pem", certificate.pem())


class ClientCertificateTestCase(CertificatesTestCase):
    """A server that verifies client certificates."""

    def setUp(self):
        """Write the file of client CAs."""
        super().setUp()
        self.ca = self.write("ca.pem", CA.certificate_pem())

    def connect(self, certificates, issued=None, **options):
        """Return the server's TLS state for a client with this certificate."""
        identity = self.write("client.pem", issued.pem()) if issued else None
        return OpenSSLConnectionState(
            Handshake(certificates, client_context(identity=identity, **options)).server
        )

    def names(self, *arguments, **options):
        """Return the user names in a client certificate that the CA has issued."""
        return list(
            self.connect(
                self.load(client_ca=self.ca), issue(*arguments, issuer=CA, **options)
            ).certificate_names()
        )


def client_context(*authorities, identity=None, alpn=(), **options):
    """Return a context of Python's ssl module that trusts these CAs, by default CA."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(
        cadata="".join(ca.certificate_pem().decode() for ca in authorities or [CA])
    )
    if identity:
        context.load_cert_chain(identity)
    if alpn:
        context.set_alpn_protocols(alpn)
    for name, value in options.items():
        setattr(context, name, value)
    return context


class Handshake:
    """A completed handshake in memory, between the server and a client of Python's ssl module."""

    def __init__(self, certificates, context=None, name="pop.example.org", session=None):
        self.server = certificates.serverConnectionForTLS(any_transport())
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
                    self._transfer()
                    # The client receives the alert, and raises an error that names it.
                    self.client.do_handshake()
                    self.client.read(1)
                    raise
                self._transfer()

    def _transfer(self):
        octets = self._outgoing.read()
        if octets:
            self.server.bio_write(octets)
        with contextlib.suppress(SSL.WantReadError):
            self._incoming.write(self.server.bio_read(1 << 16))

    def exchange_data(self):
        """Send data in both directions; return what the client and the server receive."""
        self.server.send(b"from the server")
        self.client.write(b"from the client")
        self._transfer()
        return self.client.read(100), self.server.recv(100)

    def presented(self):
        """Return the server certificate that the client has received, in DER."""
        return self.client.getpeercert(True)


def resume(certificates, context, session=None):
    """Return a handshake that offers a session, and the session for the next one."""
    pair = Handshake(certificates, context, session=session)
    # The tickets are read with the first data.
    pair.exchange_data()
    return pair, pair.client.session


def any_transport():
    """Return a TLS transport whose protocol does nothing."""
    return SimpleNamespace(wrappedProtocol=SimpleNamespace())


class GivenConnection:
    """Returns a connection that was created before."""

    def __init__(self, connection):
        self._connection = connection

    def serverConnectionForTLS(self, protocol):
        """Return that connection."""
        return self._connection


def openssl_pair(certificates, version=SSL.TLS1_3_VERSION, transport=None):
    """Return a client and a server after a handshake, both as pyOpenSSL connections."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_max_proto_version(version)
    client = SSL.Connection(context, None)
    server = certificates.serverConnectionForTLS(transport or any_transport())
    client.set_connect_state()
    server.set_accept_state()
    for _ in range(4):
        for end, other in ((client, server), (server, client)):
            with contextlib.suppress(SSL.WantReadError):
                end.do_handshake()
            with contextlib.suppress(SSL.WantReadError):
                other.bio_write(end.bio_read(1 << 16))
    return client, server
