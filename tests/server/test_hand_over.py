"""Sessions whose client is gone."""

from types import SimpleNamespace

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from popserv.core.holder import client_holder
from popserv.server import hand_over
from popserv.testing import MemoryTransport
from popserv.transports.tls import TLSFactory
from tests.server.harness import ServerTestCase
from tests.transports.test_tls import Client, load


class HandOverTests(ServerTestCase):
    """A connection as a realm sees it."""

    def is_gone(self, client):
        """Return what the connection says."""
        coroutine = client.server.is_gone()
        try:
            coroutine.send(None)
        except StopIteration as stop:
            return stop.value
        raise AssertionError("it waits")

    def test_is_gone(self):
        """A lost connection is gone, whatever its transport; another one is probed."""
        client = self.logged_in()
        self.assertFalse(self.is_gone(client))
        waited = []

        async def probe(transport, wait):
            self.assertIs(transport, client.transport)
            wait(3).addCallback(waited.append)
            client.clock.advance(3)
            return True

        self.patch(hand_over, "is_gone", probe)
        self.assertTrue(self.is_gone(client))
        self.assertEqual(waited, [None])
        client.lose()
        self.patch(hand_over, "is_gone", None)
        self.assertTrue(self.is_gone(client))

    def test_replace(self):
        """The connection is aborted, and the log says why."""
        client = self.logged_in()
        client.server.replace()
        self.assertTrue(client.transport.aborted)
        client.lose()
        self.assert_released()
        self.assertIn("replaced by a new login", str([event["log_format"] for event in self.log]))

    def test_replace_lost(self):
        """A connection that was lost while a command runs is left as it is, also on a TLS port."""
        self.store.slow = {"open"}
        tls = TLSFactory(load(self), self.factory).buildProtocol(None)
        server = tls.wrappedProtocol
        server.callLater = Clock().callLater
        tls.makeConnection(MemoryTransport(peerAddress=IPv4Address("TCP", "127.0.0.1", 54321)))
        client = Client()
        for _ in range(2):
            tls.dataReceived(client.handshake())
            client.read([tls.transport.value()])
            tls.transport.clear()
        for line in (b"USER ann\r\n", b"PASS pw\r\n", b"RETR 1\r\n"):
            client.write(line)
            tls.dataReceived(client.outgoing.read())
        tls.connectionLost(Failure(ConnectionLost()))
        self.assertTrue(self.is_gone(SimpleNamespace(server=server)))
        server.replace()
        self.assertFalse(tls.transport.aborted)
        self.assertEqual(self.store.released, 0)
        self.store.waiting["open"].callback(None)
        self.assert_released()
        self.assertEqual([e["reason"] for e in self.log if e.get("event") == "session"], ["lost"])

    def test_known_to_realm(self):
        """A realm is given the connection of the client that is logging in."""
        found = []
        opened = self.store.open_maildrop

        def open_maildrop(user):
            found.append(client_holder.get())
            return opened(user)

        self.patch(self.store, "open_maildrop", open_maildrop)
        client = self.logged_in()
        self.assertEqual(found, [client.server])
        self.assertIsNone(client_holder.get())
