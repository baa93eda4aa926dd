"""Transports of all kinds; STLS over real ones is in commands/test_stls."""

import select
import socket
import struct
from types import SimpleNamespace

from OpenSSL import SSL
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.protocol import Factory
from twisted.internet.testing import StringTransport
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import directlyProvides

from popserv.transports import has_gone, in_short, is_private, peer_name
from tests.test_protocol import STRANGER

RESET = struct.pack("ii", 1, 0)
"""A linger that has close() break the connection."""


class TransportTests(SynchronousTestCase):
    """What is known of them."""

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
            (UNIXAddress(b"/s"), "UNIXAddress('/s')"),
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
                    self.assertIs(has_gone(transport), gone)
        self.assertTrue(has_gone(wrapper))
        self.assertFalse(has_gone(StringTransport()))

    def reset(self, client):
        """Go away as a program that is killed with unread octets."""
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        client.close()

    def test_in_short(self):
        """Of OpenSSL's errors the reasons are told, of others what they say, or what they are."""
        for error, told in [
            (SSL.Error([("SSL routines", "", "unsupported protocol")]), "unsupported protocol"),
            (SSL.Error([("a", "", "b"), ("c", "", "d")]), "b; d"),
            (ValueError("odd"), "odd"),
            (ValueError(), "ValueError"),
        ]:
            self.assertEqual(in_short(error), told)
