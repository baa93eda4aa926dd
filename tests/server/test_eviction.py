"""Which connections are evicted when there are too many, in whole sessions."""

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.protocols.haproxy._wrapper import HAProxyWrappingFactory
from twisted.python.failure import Failure

from popserv.testing import MemoryTransport
from tests.auth.throttle.test_login_throttle import OTHER, ThrottleCase
from tests.commands.harness import LOCAL_PEER


class EvictionTests(ThrottleCase):
    """Connections beyond max_connections."""

    def test_flood(self):
        """The network with the most unauthenticated connections loses its oldest one."""
        self.serve(max_connections=6)
        ann = self.connect(b"USER ann", b"PASS pw")
        other = self.connect(peer=OTHER)
        flood = [self.connect() for _ in range(30)]
        self.assertEqual([client.transport.aborted for client in flood], [True] * 26 + [False] * 4)
        newcomer = self.connect(peer=IPv4Address("TCP", "203.0.113.9", 1))
        self.assertTrue(flood[26].transport.aborted)
        for client in (ann, other, newcomer):
            self.assertFalse(client.transport.aborted)

    def test_trusted_network(self):
        """Connections of a trusted network are not counted together; the oldest is evicted."""
        self.serve(max_connections=6)
        clients = [self.connect(peer=LOCAL_PEER) for _ in range(5)]
        one = self.connect(peer=OTHER)
        self.connect(peer=LOCAL_PEER)
        aborted = [client.transport.aborted for client in (*clients, one)]
        self.assertEqual(aborted, [True, *[False] * 5])

    def proxied(self, source):
        """Return a connection through a proxy that has sent the client's address, and NOOP."""
        wrapper = HAProxyWrappingFactory(self.factory).buildProtocol(None)
        wrapper.wrappedProtocol.callLater = self.clock.callLater
        transport = MemoryTransport(peerAddress=IPv4Address("TCP", "203.0.113.1", 1))
        wrapper.makeConnection(transport)
        self.addCleanup(wrapper.connectionLost, Failure(ConnectionDone()))
        wrapper.dataReceived(b"PROXY TCP4 %b 203.0.113.1 4711 110\r\nNOOP\r\n" % source)
        return wrapper, transport

    def test_proxied(self):
        """Behind a proxy the client's address counts, for eviction and for penalties."""
        self.serve(max_connections=6)
        one, alone = self.proxied(b"198.51.100.7")
        flood = [self.proxied(b"192.0.2.1")[1] for _ in range(20)]
        self.assertEqual([each.aborted for each in flood], [True] * 15 + [False] * 5)
        self.assertFalse(alone.aborted)
        for n in range(2):
            one.dataReceived(b"USER ann\r\nPASS %d\r\n" % n)
            self.clock.advance(5)
        factors = [
            self.factory.throttle.penalties.delay_factor(f"{each}")
            for each in ("198.51.100.7", "192.0.2.1")
        ]
        self.assertEqual(factors, [4, 1])
