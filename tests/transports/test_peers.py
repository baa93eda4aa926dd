"""What is known of a client: its address, and whether it is connected."""

import select
import socket
from types import SimpleNamespace

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.protocol import Factory
from twisted.internet.testing import StringTransport
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import directlyProvides

from popserv.transports.peers import DescriptorAddress, has_disconnected, is_private, peer_name
from tests.transports.harness import RESET, STRANGER


class PeerTests(SynchronousTestCase):
    """What is known of the client of a transport."""

    def test_is_private(self):
        """Private is TLS, and what does not leave the machine."""
        for peer, private in [
            (STRANGER, False),
            (IPv4Address("TCP", "127.9.9.9", 1), True),
            (IPv6Address("TCP", "::1", 1), True),
            (IPv6Address("TCP", "::ffff:127.0.0.1", 1), True),
            (IPv6Address("TCP", "::ffff:192.0.2.1", 1), False),
            (IPv6Address("TCP", "fe80::1%eth0", 1), False),
            (UNIXAddress(b"/s"), True),
            (DescriptorAddress("/dev/ttyS0", True), True),
            (DescriptorAddress("standard input", False), False),
            (SimpleNamespace(host="localhost"), False),
            (object(), False),
        ]:
            self.assertEqual(is_private(StringTransport(peerAddress=peer)), private, peer)
        tls = StringTransport(peerAddress=STRANGER)
        directlyProvides(tls, ISSLTransport)
        self.assertTrue(is_private(tls))

    def test_peer_name(self):
        """A client is called by its address, and by its port where it has one."""
        for peer, name in [
            (STRANGER, "192.0.2.1:4321"),
            (IPv6Address("TCP", "::1", 1), "::1:1"),
            (DescriptorAddress("/dev/ttyS0", True), "/dev/ttyS0"),
            (UNIXAddress(None), "UNIX socket"),
        ]:
            self.assertEqual(peer_name(StringTransport(peerAddress=peer)), name)

    def test_has_gone(self):
        """A connection that is broken is known to be without being read, one that is whole not."""
        wrapper = ProtocolWrapper(WrappingFactory(Factory()), None)
        wrapper.transport = SimpleNamespace()
        for end, gone in [
            (lambda client: None, False),
            (lambda client: client.send(b"x"), False),
            (lambda client: client.shutdown(socket.SHUT_WR), False),
            (self.reset, True),
        ]:
            with socket.create_server(("127.0.0.1", 0)) as server:
                client = socket.create_connection(server.getsockname())
                mine, _ = server.accept()
            with client, mine:
                wrapper.transport.fileno = mine.fileno
                end(client)
                if gone:
                    select.select([mine], [], [], 60)
                for transport in (wrapper, wrapper.transport):
                    self.assertIs(has_disconnected(transport), gone)
        self.assertTrue(has_disconnected(wrapper))
        self.assertFalse(has_disconnected(StringTransport()))

    def reset(self, client):
        """Go away as a program that is killed with unread octets."""
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        client.close()
