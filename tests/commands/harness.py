"""A server with all commands, checkers, and simulated TLS, for the tests of commands."""

from base64 import b64encode

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernameHashedPassword, IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import Portal
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.task import Clock
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import directlyProvides, implementer

from popserv.auth.realm import MaildropRealm
from popserv.auth.sasl.mechanisms import MECHANISMS
from popserv.commands import capa, rfc1725, sasl, stls, utf8
from popserv.core.command import CommandTable
from popserv.interfaces import (
    IAPOPCredentials,
    ICertificateCredentials,
    ICredentialsSupport,
    IScramSHA1Credentials,
    IScramSHA256Credentials,
    ITokenCredentials,
)
from popserv.server import connection
from popserv.server.factory import POP3Factory
from popserv.testing import MemoryClient, MemoryTransport
from tests.server.harness import SlowMaildrops

LOCAL_PEER = IPv4Address("TCP", "127.0.0.1", 54321)
REMOTE_PEER = IPv4Address("TCP", "192.0.2.1", 4321)

CREDENTIALS = (
    IUsernamePassword,
    IAPOPCredentials,
    IScramSHA256Credentials,
    IScramSHA1Credentials,
    IUsernameHashedPassword,
    ICertificateCredentials,
    ITokenCredentials,
)
"""The kinds of credentials that the mechanisms and APOP create."""

LOGIN_FAILED = b"-ERR [AUTH] authentication failed\r\n"
TRY_LATER = b"-ERR [SYS/TEMP] temporary failure, try again later\r\n"
CANCELLED = b"-ERR authentication cancelled\r\n"
BEGIN_TLS = b"+OK begin TLS negotiation\r\n"
NO_TLS = b"-ERR TLS is not available on this connection\r\n"
NEEDS_TLS = b"-ERR cleartext passwords are not allowed without TLS\r\n"


def response_line(octets):
    """Return the line of a SASL response."""
    return b64encode(octets) + b"\r\n"


class FakeTLSState:
    """A TLS state with given names and channel bindings."""

    def __init__(self, names=(), bindings=None):
        self.names = names
        self.bindings = bindings or {}

    def channel_binding(self, kind):
        """See TLSConnectionState."""
        return self.bindings.get(kind)

    def certificate_names(self):
        """See TLSConnectionState."""
        return self.names

    def version(self):
        """See TLSConnectionState."""
        return "TLSv1.3"


@implementer(ICredentialsChecker, ICredentialsSupport)
class Checker:
    """Calls a function with credentials; it returns the user's name, None, or a Deferred.

    ``supported`` are the kinds of credentials that it supports now, by default all of its kinds.
    """

    def __init__(self, decide, *kinds, supported=None):
        self.credentialInterfaces = kinds
        self.supported = kinds if supported is None else supported
        self.decide = decide
        self.seen = []

    def supports(self, credentials):
        """See ICredentialsSupport."""
        return credentials in self.supported

    def requestAvatarId(self, credentials):
        """See ICredentialsChecker."""
        self.seen.append(credentials)
        name = self.decide(credentials)
        if name is None:
            raise UnauthorizedLogin("the checker's own words")
        return name


class RecordingTransport(MemoryTransport):
    """Records writes, and simulates TLS."""

    def __init__(self, **options):
        super().__init__(**options)
        self.writes = []
        self.contexts = []
        self.before_tls = None

    def write(self, data):
        """Record the write."""
        self.writes.append(data)
        super().write(data)

    def startTLS(self, context):
        """Start TLS; the test completes the handshake."""
        self.contexts.append(context)
        self.before_tls = self.value()
        directlyProvides(self, ISSLTransport)

    def getHandle(self):
        """Return None: there is no TLS."""


class Client(MemoryClient):
    """A client that has read the greeting; with ``tls``, over TLS from the first octet."""

    def __init__(self, factory, peer=LOCAL_PEER, *, tls=False, handshake=True, clock=None):
        self.clock = clock or Clock()
        self.transport = RecordingTransport(peerAddress=peer)
        if tls:
            self.transport.startTLS(None)
        self.server = factory.buildProtocol(None)
        self.server.callLater = self.clock.callLater
        self.server.seconds = self.clock.seconds
        self.server.makeConnection(self.transport)
        if tls and handshake:
            self.server.handshakeCompleted()
        self.greeting = self.received()

    def start_tls(self):
        """Send STLS, and complete the handshake."""
        reply = self.send(b"STLS\r\n")
        assert reply.startswith(b"+OK "), reply
        self.server.handshakeCompleted()

    def send_and_wait(self, octets=b""):
        """Send octets; return the replies that arrive within the delay of a failed login."""
        reply = self.send(octets) if octets else b""
        self.clock.advance(2)
        return reply + self.received()

    def capabilities(self):
        """Return the lines of the reply to CAPA."""
        first, *lines, dot, end = self.send(b"CAPA\r\n").split(b"\r\n")
        assert (first[:3], dot, end) == (b"+OK", b".", b""), first
        return lines

    def mechanisms(self):
        """Return the mechanisms in the SASL capability, or None without it."""
        found = [line for line in self.capabilities() if line.split(b" ")[0] == b"SASL"]
        return found[0].split(b" ")[1:] if found else None


class CommandTestCase(SynchronousTestCase):
    """A server on which ann has two messages, and a record of the log."""

    def setUp(self):
        """Create the store and the server."""
        self.store = SlowMaildrops()
        self.store.deliver(b"ann", b"one\n")
        self.store.deliver(b"ann", b"two\n")
        self.tls_state = FakeTLSState()
        self.log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        self.serve()

    def serve(
        self,
        *checkers,
        without=(),
        mechanisms=MECHANISMS,
        capa_options=None,
        dialect=None,
        **options,
    ):
        """Create the server; by default ann can log in with the password "pw"."""
        if not checkers:
            checkers = [Checker(check_password, IUsernamePassword)]
        groups = (
            rfc1725.COMMANDS,
            capa.commands(**(capa_options or {})),
            stls.COMMANDS,
            sasl.commands(mechanisms),
            utf8.COMMANDS,
        )
        if dialect is not None:
            groups = (dialect.commands,)
        entries = [each for group in groups for each in group if each.keyword not in without]
        portal = Portal(MaildropRealm(self.store), checkers)
        self.factory = POP3Factory(CommandTable(entries), portal, host=b"dewey", **options)
        self.patch(connection, "tls_state", lambda transport: self.tls_state)

    def connect(self, *lines, peer=LOCAL_PEER, tls=False):
        """Return a client that has sent these lines and read the replies."""
        client = Client(self.factory, peer, tls=tls)
        for line in lines:
            client.send(line + b"\r\n")
        return client

    def assert_released(self, times=1):
        """Check that the maildrop was released so many times, and is not locked."""
        self.assertEqual((self.store.released, self.store.locked), (times, set()))

    def log_text(self):
        """Return everything that was logged, values included."""
        return "\n".join(f"{formatEvent(event)} {event!r}" for event in self.log)


def check_password(credentials):
    """Return ann if the credentials are hers."""
    return b"ann" if (credentials.username, credentials.password) == (b"ann", b"pw") else None


def accept_all(credentials):
    """Return the name in the credentials, or ann."""
    return credentials.username or b"ann"
