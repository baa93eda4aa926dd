"""A Dovecot that a test plays, line by line, on a clock."""

from contextvars import copy_context

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionDone
from twisted.internet.testing import (
    EventLoggingObserver,
    MemoryReactorClock,
    StringTransport,
)
from twisted.logger import formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.dovecot.client import AuthClient
from popserv.core.connection_details import ConnectionDetails, connection_details

HANDSHAKE = (
    b"VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nMECH\tSCRAM-SHA-256\tmutual-auth\n"
    b"SPID\t11\nCUID\t10\nCOOKIE\tabc\nDONE\n"
)
APOP_HANDSHAKE = b"VERSION\t1\t1\nSPID\t11\nCUID\t10\nMECH\tAPOP\tprivate\tdictionary\nDONE\n"
DETAILS = ConnectionDetails(("192.0.2.1", 4321), ("198.51.100.2", 110), True)


class Transport(StringTransport):
    """Loses the connection when it is aborted."""

    protocol = None
    is_aborted = False

    def abortConnection(self):
        """Lose the connection, once."""
        if not self.is_aborted:
            self.is_aborted = True
            self.protocol.connectionLost(Failure(ConnectionDone()))


class Side:
    """Dovecot's side of one connection."""

    def __init__(self, factory):
        self.transport = Transport()
        # The endpoint wraps the protocol.
        self._wire = factory.buildProtocol(None)
        self.protocol = self._wire._wrappedProtocol
        self.transport.protocol = self._wire
        self._wire.makeConnection(self.transport)

    def send(self, octets):
        """Send octets."""
        self._wire.dataReceived(octets)

    def received(self):
        """Return the lines that have come since the last call."""
        *lines, rest = self.transport.value().split(b"\n")
        self.transport.clear()
        if rest:
            raise AssertionError(f"the last line has no end: {rest!r}")
        return lines

    def close(self):
        """Close the connection."""
        self.transport.abortConnection()


class DovecotCase(SynchronousTestCase):
    """Has a client whose Dovecot the test plays, and the events of the log."""

    def setUp(self):
        """Create the client."""
        self.reactor = MemoryReactorClock()
        self.client = AuthClient("/run/dovecot/auth-client", self.reactor)
        self.log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)

    @property
    def attempts(self):
        """The number of attempts to connect."""
        return len(self.reactor.unixClients)

    def log_lines(self):
        """Return the lines of the log."""
        return [formatEvent(event) for event in self.log]

    def accept(self, handshake=HANDSHAKE):
        """Accept the last attempt to connect; return Dovecot's side after the handshake."""
        path, factory, *_ = self.reactor.unixClients[-1]
        self.assertEqual(path, "/run/dovecot/auth-client")
        side = Side(factory)
        version, cpid = side.received()
        self.assertEqual(version, b"VERSION\t1\t1")
        self.assertRegex(cpid, rb"^CPID\t[1-9][0-9]{0,9}$")
        side.send(handshake)
        return side

    def connect(self, handshake=HANDSHAKE):
        """Start the client; return Dovecot's side after the handshake."""
        self.client.start()
        return self.accept(handshake)

    def refuse(self, error=None):
        """Refuse the last attempt to connect."""
        _, factory, *_ = self.reactor.unixClients[-1]
        factory.clientConnectionFailed(None, Failure(ConnectError(error)))

    def in_session(self, function, *args, details=DETAILS):
        """Call a coroutine function as for a client with these details; return a Deferred."""

        def call():
            connection_details.set(lambda: details)
            return Deferred.fromCoroutine(function(*args))

        return copy_context().run(call)

    def fails_with(self, deferred, kind):
        """Return the exception with which a Deferred has failed."""
        return self.failureResultOf(deferred, kind).value
