"""What the tests of the commands share: a modern server, its checkers, and TLS that is none."""

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

HERE = IPv4Address("TCP", "127.0.0.1", 54321)
STRANGER = IPv4Address("TCP", "192.0.2.1", 4321)

KINDS = (
    IUsernamePassword,
    IAPOPCredentials,
    IScramSHA256Credentials,
    IScramSHA1Credentials,
    IUsernameHashedPassword,
    ICertificateCredentials,
    ITokenCredentials,
)
"""All that a mechanism, or APOP, can make."""

REFUSED = b"-ERR [AUTH] authentication failed\r\n"
TRY_LATER = b"-ERR [SYS/TEMP] temporary failure, try again later\r\n"
CANCELLED = b"-ERR authentication cancelled\r\n"
BEGIN_TLS = b"+OK begin TLS negotiation\r\n"
NO_TLS = b"-ERR TLS is not available on this connection\r\n"
NEEDS_TLS = b"-ERR cleartext passwords are not allowed without TLS\r\n"


def encoded(octets):
    """A SASL response's line."""
    return b64encode(octets) + b"\r\n"


class FakeChannel:
    """What TLS would know."""

    def __init__(self, names=(), bindings=None):
        self.names = names
        self.bindings = bindings or {}

    def channel_binding(self, kind):
        """See Channel."""
        return self.bindings.get(kind)

    def certificate_names(self):
        """See Channel."""
        return self.names


@implementer(ICredentialsChecker, ICredentialsSupport)
class Checker:
    """Asks a function about credentials: it returns the user's name, or None, or a Deferred.

    ``offered`` are the kinds of credentials that it says it can serve, all that it
    takes unless given.
    """

    def __init__(self, decide, *kinds, offered=None):
        self.credentialInterfaces = kinds
        self.offered = kinds if offered is None else offered
        self.decide = decide
        self.seen = []

    def supports(self, credentials):
        """See IOfferingChecker."""
        return credentials in self.offered

    def requestAvatarId(self, credentials):
        """See ICredentialsChecker."""
        self.seen.append(credentials)
        name = self.decide(credentials)
        if name is None:
            raise UnauthorizedLogin("the checker's own words")
        return name


class Transport(MemoryTransport):
    """Counts writes, and has TLS by being told so."""

    def __init__(self, **options):
        super().__init__(**options)
        self.writes = []
        self.contexts = []

    def write(self, data):
        """Note each write."""
        self.writes.append(data)
        super().write(data)

    def startTLS(self, context):
        """Begin TLS, whose handshake is over when the test says so."""
        self.contexts.append(context)
        directlyProvides(self, ISSLTransport)

    def getHandle(self):
        """There is no TLS to know anything."""


class Client(MemoryClient):
    """A conversation whose greeting was read; ``tls`` has it over TLS from the start."""

    def __init__(self, factory, peer=HERE, *, tls=False):
        self.clock = Clock()
        self.transport = Transport(peerAddress=peer)
        if tls:
            self.transport.startTLS(None)
        self.server = factory.buildProtocol(None)
        self.server.callLater = self.clock.callLater
        self.server.makeConnection(self.transport)
        if tls:
            self.server.handshakeCompleted()
        self.greeting = self.received()

    def starttls(self):
        """Give STLS, and have the handshake."""
        answer = self.send(b"STLS\r\n")
        assert answer.startswith(b"+OK "), answer
        self.server.handshakeCompleted()

    def late(self, octets=b""):
        """Send octets; return what was answered once a refused login is answered."""
        answer = self.send(octets) if octets else b""
        self.clock.advance(2)
        return answer + self.received()

    def capabilities(self):
        """The lines of CAPA's answer."""
        first, *lines, dot, end = self.send(b"CAPA\r\n").split(b"\r\n")
        assert (first[:3], dot, end) == (b"+OK", b".", b""), first
        return lines

    def mechanisms(self):
        """What CAPA says of SASL, None if nothing."""
        found = [line for line in self.capabilities() if line.split(b" ")[0] == b"SASL"]
        return found[0].split(b" ")[1:] if found else None


class ServerCase(SynchronousTestCase):
    """A server with all commands, on which ann has two messages, and a record of the log."""

    def setUp(self):
        """Make the store, and the server."""
        self.store = SlowMaildrops()
        self.store.deliver(b"ann", b"one\n")
        self.store.deliver(b"ann", b"two\n")
        self.tls_state = FakeChannel()
        self.log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        self.serve()

    def serve(
        self, *checkers, without=(), mechanisms=MECHANISMS, traits=None, dialect=None, **options
    ):
        """Make the server; unless checkers are given ann gets in by password "pw"."""
        if not checkers:
            checkers = [Checker(password_of_ann, IUsernamePassword)]
        groups = (
            rfc1725.COMMANDS,
            capa.commands(**(traits or {})),
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

    def connect(self, *lines, peer=HERE, tls=False):
        """A client that has said these lines, their answers read."""
        client = Client(self.factory, peer, tls=tls)
        for line in lines:
            client.send(line + b"\r\n")
        return client

    def assertReleased(self, times=1):
        """The lock was given up, so many times."""
        self.assertEqual((self.store.released, self.store.locked), (times, set()))

    def logged(self):
        """All that was logged, as text, its values included."""
        return "\n".join(f"{formatEvent(event)} {event!r}" for event in self.log)


def password_of_ann(credentials):
    """Let ann in."""
    return b"ann" if (credentials.username, credentials.password) == (b"ann", b"pw") else None


def anybody(credentials):
    """Let everybody in, as ann if there is no name."""
    return credentials.username or b"ann"
