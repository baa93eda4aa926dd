"""The client of a transport: its address, and whether it is connected."""

import select
import socket
from types import SimpleNamespace

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, ISSLTransport
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.tcp import Server
from twisted.internet.testing import MemoryReactor, StringTransport
from twisted.protocols.haproxy._wrapper import HAProxyWrappingFactory
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import alsoProvides, directlyProvides
from zope.interface.verify import verifyObject

from popserv.core.connection_details import ConnectionDetails
from popserv.transports.peers import (
    DescriptorAddress,
    ITLSAtProxy,
    ProxiedAddress,
    details_of,
    has_disconnected,
    host_and_port,
    is_behind_twisted_proxy,
    is_local,
    is_private,
    peer_name,
    uses_tls,
)
from tests.transports.harness import LINGER_RESET, REMOTE_PEER


class PeerTests(SynchronousTestCase):
    """is_private, is_local, peer_name and has_disconnected."""

    def test_is_private(self):
        """A connection is private if it uses TLS or does not leave this machine."""
        for peer, private in [
            (REMOTE_PEER, False),
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
            (ProxiedAddress("192.0.2.1", 1), False),
            (ProxiedAddress("127.0.0.1", 1), False),
            (ProxiedAddress("::1", 1), False),
        ]:
            self.assertEqual(is_private(StringTransport(peerAddress=peer)), private, peer)
            self.assertEqual(is_local(peer), private, peer)
        for interface in (ISSLTransport, ITLSAtProxy):
            transport = StringTransport(peerAddress=REMOTE_PEER)
            self.assertFalse(uses_tls(transport))
            directlyProvides(transport, interface)
            self.assertTrue(uses_tls(transport))
            self.assertTrue(is_private(transport))

    def test_host_and_port(self):
        """Addresses of UNIX sockets and of descriptors have no port."""
        self.assertEqual(host_and_port(REMOTE_PEER), (REMOTE_PEER.host, REMOTE_PEER.port))
        for address in (UNIXAddress(b"/s"), DescriptorAddress("/dev/ttyS0", True), None):
            self.assertIsNone(host_and_port(address))

    def test_mapped(self):
        """An IPv4 client of a socket for both families has an IPv4 address."""
        for host, expected in (
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8::ffff:1", "2001:db8::ffff:1"),
            ("64:ff9b::192.0.2.1", "64:ff9b::192.0.2.1"),
            ("fe80::1%eth0.7", "fe80::1%eth0.7"),
        ):
            address = IPv6Address("TCP", host, 110)
            self.assertEqual(host_and_port(address), (expected, 110))
            transport = StringTransport(hostAddress=address, peerAddress=address)
            self.assertEqual(
                details_of(transport), ConnectionDetails((expected, 110), (expected, 110))
            )

    def test_details(self):
        """What checkers may know are both ends, and how the connection is protected."""
        host = IPv4Address("TCP", "198.51.100.2", 110)
        transport = StringTransport(hostAddress=host, peerAddress=REMOTE_PEER)
        remote, local = (REMOTE_PEER.host, REMOTE_PEER.port), (host.host, host.port)
        self.assertEqual(details_of(transport), ConnectionDetails(remote, local))
        alsoProvides(transport, ITLSAtProxy)
        self.assertEqual(details_of(transport), ConnectionDetails(remote, local, True))
        transport = StringTransport(UNIXAddress(b"/s"), UNIXAddress(None))
        self.assertEqual(details_of(transport), ConnectionDetails(is_local=True))

    def test_details_of_lost(self):
        """A TCP connection that is lost has one end only."""
        listener = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(listener.getsockname())
        accepted, address = listener.accept()
        for each in (listener, client):
            self.addCleanup(each.close)
        server = Server(accepted, Protocol(), address, None, 1, MemoryReactor())
        host, port = listener.getsockname()
        self.assertEqual(details_of(server), ConnectionDetails(address, (host, port), False, True))
        server.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(details_of(server), ConnectionDetails(address, None, False, True))

    def test_interfaces(self):
        """The addresses provide their interface."""
        for address in (DescriptorAddress("/dev/ttyS0", True), ProxiedAddress("192.0.2.1", 1)):
            self.assertTrue(verifyObject(IAddress, address))

    def test_is_behind_twisted_proxy(self):
        """Twisted's endpoint haproxy: is recognized, below TLS and other wrappers, too."""
        for factory, expected in (
            (WrappingFactory(Factory()), False),
            (HAProxyWrappingFactory(Factory()), True),
        ):
            inner = factory.protocol(factory, None)
            inner.transport = StringTransport()
            outer = ProtocolWrapper(WrappingFactory(Factory()), None)
            outer.transport = inner
            self.assertFalse(is_behind_twisted_proxy(inner.transport))
            for transport in (inner, outer):
                self.assertEqual(is_behind_twisted_proxy(transport), expected)

    def test_peer_name(self):
        """The name of a client is its address, with the port if there is one."""
        for peer, name in [
            (REMOTE_PEER, "192.0.2.1:4321"),
            (IPv6Address("TCP", "::1", 1), "[::1]:1"),
            (IPv6Address("TCP", "2001:db8::1", 4321), "[2001:db8::1]:4321"),
            (IPv6Address("TCP", "fe80::1%eth0", 1), "[fe80::1%eth0]:1"),
            (IPv6Address("TCP", "::ffff:192.0.2.1", 1), "192.0.2.1:1"),
            (IPv6Address("TCP", "::ffff:1:2:3", 1), "[::ffff:1:2:3]:1"),
            (ProxiedAddress("2001:db8::1", 7), "[2001:db8::1]:7"),
            (DescriptorAddress("/dev/ttyS0", True), "/dev/ttyS0"),
            (ProxiedAddress("192.0.2.1", 7), "192.0.2.1:7"),
            (UNIXAddress(None), "UNIX socket"),
        ]:
            self.assertEqual(peer_name(StringTransport(peerAddress=peer)), name)

    def test_has_disconnected(self):
        """A reset connection is recognised without reading from it."""
        wrapper = ProtocolWrapper(WrappingFactory(Factory()), None)
        wrapper.transport = SimpleNamespace()
        for end, is_reset in [
            (lambda client: None, False),
            (lambda client: client.send(b"x"), False),
            (lambda client: client.shutdown(socket.SHUT_WR), False),
            (self.reset, True),
        ]:
            with socket.create_server(("127.0.0.1", 0)) as server:
                client = socket.create_connection(server.getsockname())
                accepted, _ = server.accept()
            with client, accepted:
                wrapper.transport.fileno = accepted.fileno
                end(client)
                if is_reset:
                    select.select([accepted], [], [], 60)
                for transport in (wrapper, wrapper.transport):
                    self.assertIs(has_disconnected(transport), is_reset)
        self.assertTrue(has_disconnected(wrapper))
        self.assertFalse(has_disconnected(StringTransport()))

    def reset(self, client):
        """Close as a process that is killed with unread octets."""
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        client.close()
