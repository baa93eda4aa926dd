"""Tests of popserv.listening.sockets."""

import contextlib
import errno
import os
import selectors
import socket

from twisted.internet.error import CannotListenError
from twisted.trial.unittest import SynchronousTestCase

from popserv.listening import sockets
from popserv.listening.reactor import has_ipv6
from popserv.listening.sockets import listening_sockets

LOOPBACK = "127.0.0.1"
COUNTS = (1, 3) if sockets.HAS_PORT_BALANCING else (1,)


class ConnectingSocket(socket.socket):
    """A socket to which a client connects as soon as it listens."""

    clients = ()

    def listen(self, backlog):
        """See socket."""
        super().listen(backlog)
        self.clients.append(socket.create_connection(self.getsockname(), 30))


class ListeningSocketsTests(SynchronousTestCase):
    """listening_sockets."""

    def listen(self, interface=LOOPBACK, port=0, count=1):
        """Return sockets that are closed at the end of the test."""
        opened = listening_sockets(interface, port, 5, count)
        for each in opened:
            self.addCleanup(each.close)
        return opened

    def listen_twice(self, count):
        """Return sockets for IPv6 and for IPv4 with the same port."""
        for _ in range(50):
            opened = self.listen("::", count=count)
            # Another program may have the port, for IPv4 only.
            with contextlib.suppress(CannotListenError):
                return opened, self.listen("", opened[0].getsockname()[1], count)
        raise AssertionError("no port is free for both")

    def test_sockets(self):
        """The sockets have one address, do not block, and are not inherited."""
        for count in COUNTS:
            opened = self.listen(count=count)
            self.assertEqual(len(opened), count)
            self.assertEqual(len({each.getsockname() for each in opened}), 1)
            for each in opened:
                self.assertRaises(BlockingIOError, each.accept)
                self.assertFalse(each.get_inheritable())

    def test_every_instant(self):
        """A client that connects at any time, from the first socket on, can be accepted."""
        self.patch(sockets.socket, "socket", ConnectingSocket)
        for count in COUNTS:
            self.patch(ConnectingSocket, "clients", [])
            opened = self.listen(count=count)
            clients = {each.getsockname() for each in ConnectingSocket.clients}
            self.assertEqual(len(clients), count)
            for client in ConnectingSocket.clients:
                self.addCleanup(client.close)
            while clients:
                with selectors.DefaultSelector() as selector:
                    for each in opened:
                        selector.register(each, selectors.EVENT_READ)
                    found = selector.select(30)
                self.assertTrue(found)
                for key, _ in found:
                    accepted, address = key.fileobj.accept()
                    accepted.close()
                    clients.remove(address)

    def test_ipv6(self):
        """IPv6 sockets accept no IPv4; the address may have a zone."""
        if not has_ipv6():
            self.skipTest("IPv6 is required")
        for count in COUNTS:
            opened, others = self.listen_twice(count)
            self.assertEqual(len(others), count)
            for each in opened:
                self.assertTrue(each.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
        self.assertRaises(CannotListenError, self.listen, "fe80::1%nowhere")

    def test_in_use(self):
        """A port in use is refused, even if its sockets have SO_REUSEPORT."""
        for count in COUNTS:
            port = self.listen(count=count)[0].getsockname()[1]
            for count_after in COUNTS:
                before = len(os.listdir("/dev/fd"))
                error = self.assertRaises(
                    CannotListenError, self.listen, port=port, count=count_after
                )
                self.assertEqual((error.interface, error.port), (LOOPBACK, port))
                self.assertEqual(error.socketError.errno, errno.EADDRINUSE)
                self.assertEqual(len(os.listdir("/dev/fd")), before)

    def test_cannot_listen(self):
        """If one of the sockets cannot listen, all are closed."""

        def listen(self, backlog):
            raise OSError(errno.EADDRINUSE, "")

        before = len(os.listdir("/dev/fd"))
        for count in COUNTS:
            with self.assertRaises(CannotListenError):
                self.patch(socket.socket, "listen", listen)
                self.listen(count=count)
        self.assertEqual(len(os.listdir("/dev/fd")), before)

    def test_other_address(self):
        """An address that this machine does not have, and an invalid port, are errors."""
        error = self.assertRaises(CannotListenError, self.listen, "192.0.2.1")
        self.assertEqual(error.socketError.errno, errno.EADDRNOTAVAIL)
        self.assertRaises(OverflowError, self.listen, port=65536)
