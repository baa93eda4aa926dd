"""Tests of popserv.listening.accepting."""

import errno
import socket
from unittest import mock

from twisted.internet import interfaces, reactor, tcp
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import EventLoggingObserver
from twisted.internet.threads import deferToThread
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from popserv.listening.accepting import MAX_ACCEPTS, ServerTransport, accept_faster
from popserv.listening.reactor import AddressFamilyReactor, has_ipv6


class Broken(Exception):
    """A fault of a factory."""


class Greeter(Protocol):
    """Sends the client's address, and closes."""

    def connectionMade(self):
        """Remember the transport."""
        self.factory.transports.append(self.transport)
        self.factory.no_delays.append(self.transport.getTcpNoDelay())
        peer = self.transport.getPeer()
        self.transport.write(f"{peer.host} {peer.port}".encode())
        self.transport.loseConnection()


class GreeterFactory(Factory):
    """Accepts connections, unless there are outcomes for the next ones: None, or an exception."""

    noisy = False

    def __init__(self):
        self.transports = []
        self.no_delays = []
        self.outcomes = []

    def buildProtocol(self, address):
        """Return a protocol, or the next outcome."""
        if not self.outcomes:
            protocol = Greeter()
            protocol.factory = self
            return protocol
        outcome = self.outcomes.pop(0)
        if outcome is not None:
            raise outcome
        return None


def visit(host, port, clients=1):
    """Connect clients to a port, then read; return what each got, and what it should have got."""
    sockets = [socket.create_connection((host, port), 30) for _ in range(clients)]
    visits = []
    for client in sockets:
        with client:
            own_host, own_port, *_ = client.getsockname()
            try:
                received = client.recv(100)
            except ConnectionResetError:
                received = b""
            visits.append((received, f"{own_host} {own_port}".encode()))
    return visits


class AcceptingTests(TestCase):
    """Connections are accepted as by Twisted's ports."""

    def setUp(self):
        """Listen on a port of the loopback interface."""
        self.factory = GreeterFactory()
        self.port = AddressFamilyReactor(reactor).listenTCP(0, self.factory, 200, "127.0.0.1")
        self.addCleanup(self.port.stopListening)

    async def visit(self, clients=1):
        """Visit the port; return how many clients were served."""
        visits = await deferToThread(visit, "127.0.0.1", self.port.getHost().port, clients)
        served = [received for received, expected in visits if received == expected]
        self.assertEqual({received for received, _ in visits} - set(served) - {b""}, set())
        return len(served)

    async def test_accepted(self):
        """Clients get their protocols and transports, however many come at once."""
        for clients in (1, 150, 1, 30):
            self.assertEqual(await self.visit(clients), clients)
        numbers = [transport.sessionno for transport in self.factory.transports]
        self.assertEqual(numbers, list(range(182)))

    async def test_many(self):
        """A port that has accepted as many clients as it tried to tries more the next time."""
        self.port.numberAccepts = 1
        self.port.doRead()
        self.assertEqual(self.port.numberAccepts, 1)
        self.assertEqual(await self.visit(), 1)
        self.assertEqual(self.port.numberAccepts, MAX_ACCEPTS)

    def test_rush(self):
        """However long a rush lasts, others are served after a few connections."""
        ports = [self.port]
        if has_ipv6():
            port = AddressFamilyReactor(reactor).listenTCP(0, self.factory, 200, "::1")
            self.addCleanup(port.stopListening)
            ports.append(port)
        for port in ports:
            host = port.getHost()
            for _ in range(5 * MAX_ACCEPTS):
                self.addCleanup(socket.create_connection((host.host, host.port), 30).close)
            before = len(self.factory.transports)
            for turn in range(1, 6):
                port.doRead()
                self.assertEqual(len(self.factory.transports) - before, turn * MAX_ACCEPTS)

    async def test_transport(self):
        """A transport has what those of Twisted's have, and a name for logs."""
        await self.visit()
        (transport,) = self.factory.transports
        self.assertIs(type(transport), ServerTransport)
        for interface in (interfaces.ITCPTransport, interfaces.ITLSTransport):
            verifyObject(interface, transport)
        twisted = tcp.Server(socket.socket(), Greeter(), ("192.0.2.1", 2), None, 1, mock.Mock())
        self.addCleanup(twisted.socket.close)
        missing = vars(twisted).keys() - vars(transport).keys()
        # The connection is lost, which deletes some.
        self.assertLessEqual(missing, {"logstr", "repstr", "fileno", "protocol", "socket"})
        self.assertEqual(self.factory.no_delays, [ServerTransport.has_no_delay])
        self.assertEqual(transport.logPrefix(), "POP3")
        self.assertEqual(repr(transport), "<connection 0 of 127.0.0.1>")

    async def test_refused(self):
        """A connection for which the factory has no protocol is closed."""
        self.factory.outcomes = [None]
        self.assertEqual([await self.visit(), await self.visit()], [0, 1])

    async def test_broken(self):
        """An exception of the factory is logged, and the port accepts others."""
        self.factory.outcomes = [Broken()]
        self.assertEqual([await self.visit(), await self.visit()], [0, 1])
        self.assertEqual(len(self.flushLoggedErrors(Broken)), 1)

    async def test_errors(self):
        """An error of accept(2) is handled by Twisted, and the port accepts the client later."""
        log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        real = self.port.socket
        for code in (errno.ECONNABORTED, errno.ENOBUFS):
            failing = mock.Mock(wraps=real)
            failing._accept.side_effect = failing.accept.side_effect = OSError(code, "no")
            self.port.socket = failing
            self.port.doRead()
            self.port.socket = real
            self.assertIn(errno.errorcode[code], str(list(log)[-1]))
        self.assertEqual(await self.visit(), 1)

    async def test_ipv6(self):
        """IPv6 clients, whose addresses may have zones, are accepted by Twisted."""
        if not has_ipv6():
            self.skipTest("IPv6 is required")
        port = AddressFamilyReactor(reactor).listenTCP(0, self.factory, 50, "::1")
        self.addCleanup(port.stopListening)
        ((received, expected),) = await deferToThread(visit, "::1", port.getHost().port)
        self.assertEqual(received, expected)
        self.assertIs(type(self.factory.transports[0]), ServerTransport)

    def test_other_ports(self):
        """Ports of other kinds stay as they are."""
        port = mock.Mock()
        accept_faster(port)
        self.assertEqual(port.mock_calls, [])
