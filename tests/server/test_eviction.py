"""Which connections are evicted when there are too many, in whole sessions."""

from twisted.internet.address import IPv4Address

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
