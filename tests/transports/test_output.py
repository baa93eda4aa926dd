"""Octets that are written immediately, and octets that the client has not read."""

import os
import socket
import sys
from functools import partial
from types import SimpleNamespace
from unittest import mock

from twisted.internet import reactor
from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase, TestCase

from popserv.transports.output import (
    can_use_socket,
    close_now,
    disable_nagle,
    receive_now,
    unread_octets,
    unsent_octets,
    write_now,
)
from tests.transports.harness import LINGER_RESET


class NagleTests(SynchronousTestCase):
    """disable_nagle."""

    def test_disabled(self):
        """The option is set on transports that have it, unless their sockets have it already."""
        transport = mock.Mock(has_no_delay=False)
        disable_nagle(transport)
        transport.setTcpNoDelay.assert_called_once_with(True)
        transport.setTcpNoDelay.side_effect = OSError
        disable_nagle(transport)
        disable_nagle(StringTransport())
        inherited = mock.Mock(has_no_delay=True)
        disable_nagle(inherited)
        inherited.setTcpNoDelay.assert_not_called()


class UnreadTests(SynchronousTestCase):
    """unread_octets and unsent_octets."""

    def test_unread(self):
        """Octets that the client has not read are counted, in Twisted and in the kernel."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            client = socket.create_connection(server.getsockname())
            accepted, _ = server.accept()
        for client_end, server_end in (
            os.pipe(),
            [each.detach() for each in socket.socketpair()],
            [client.detach(), accepted.detach()],
        ):
            for fd in (client_end, server_end):
                self.addCleanup(os.close, fd)
                os.set_blocking(fd, False)
            transport = FileDescriptor(object())
            transport.fileno = lambda fd=server_end: fd
            wrapped = SimpleNamespace(transport=transport)
            self.assertEqual(unread_octets(wrapped), 0)
            with self.assertRaises(BlockingIOError):
                while True:
                    os.write(server_end, b"x" * 10_000)
            in_kernel = unread_octets(wrapped)
            self.assertGreater(in_kernel, 10_000)
            transport.dataBuffer, transport.offset = b"123456", 1
            transport._tempDataLen = 2
            self.assertEqual(unread_octets(wrapped), in_kernel + 7)
            with self.assertRaises(BlockingIOError):
                while True:
                    os.read(client_end, 10_000)
            self.assertLess(unread_octets(wrapped), in_kernel)

    def test_unknown(self):
        """Where the number cannot be determined, it is 0."""
        transport = FileDescriptor(object())
        self.assertEqual(unread_octets(transport), 0)
        with open(os.devnull, "wb") as null:
            transport.fileno = null.fileno
            self.assertEqual(unread_octets(transport), 0)
        self.assertEqual(unread_octets(StringTransport()), 0)

    def test_unsent(self):
        """Octets in Twisted's buffers are unsent; the kernel's are not counted."""
        transport = FileDescriptor(object())
        transport.dataBuffer, transport.offset = b"123456", 1
        transport._tempDataLen = 2
        self.assertEqual(unsent_octets(SimpleNamespace(transport=transport)), 7)
        self.assertEqual(unsent_octets(StringTransport()), 0)


class EndRecorder(Protocol):
    """Sends nothing, and records how its connection ends."""

    def __init__(self):
        self.ended = Deferred()

    def connectionLost(self, reason):
        """Record the reason."""
        self.ended.callback(reason.type)


class SocketTests(TestCase):
    """write_now and close_now on a TCP connection."""

    def setUp(self):
        """Connect a client."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.client = socket.create_connection(listener.getsockname())
            server, _ = listener.accept()
        self.addCleanup(self.client.close)
        # The smallest buffer that the kernel allows.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.protocol = EndRecorder()
        factory = Factory.forProtocol(lambda: self.protocol)
        with server:
            reactor.adoptStreamConnection(server.fileno(), socket.AF_INET, factory)
        self.transport = self.protocol.transport
        self.send = partial(write_now, self.transport)
        self.client.settimeout(0)

    def close(self):
        """Close the connection if it is open; return a Deferred of the reason why it ended."""
        if not self.protocol.ended.called:
            self.transport.loseConnection()
        return self.protocol.ended

    async def read_all(self):
        """Return everything that the server sends until it closes."""
        read = []
        while True:
            try:
                octets = self.client.recv(1 << 16)
            except BlockingIOError:
                await deferLater(reactor, 0.001)
            else:
                read.append(octets)
                if not octets:
                    return b"".join(read)

    def test_immediate(self):
        """The octets are sent before the reactor runs."""
        self.send(b"+OK\r\n")
        self.client.settimeout(5)
        self.assertEqual(self.client.recv(10), b"+OK\r\n")
        return self.close()

    async def test_order(self):
        """Octets that the kernel does not accept are sent later, in order."""
        expected = [bytes([65 + at]) * (1 << 20) for at in range(3)] + [b"end"]
        for octets in expected:
            self.send(octets)
        self.assertFalse(close_now(self.transport))
        self.transport.loseConnection()
        self.assertEqual(await self.read_all(), b"".join(expected))
        self.assertIs(await self.protocol.ended, ConnectionDone)

    async def test_full(self):
        """If the kernel accepts nothing, everything is sent later."""
        while self.transport.writeSomeData(b"x" * 4096):
            pass
        self.send(b"end")
        self.transport.loseConnection()
        self.assertTrue((await self.read_all()).endswith(b"xend"))
        await self.protocol.ended

    async def test_reset(self):
        """Octets for a client that has disconnected are dropped; the reactor reports the end."""
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        self.client.close()
        self.send(b"lost")
        self.send(b"lost")
        await self.protocol.ended
        self.send(b"lost")
        self.assertFalse(close_now(self.transport))

    async def test_receive(self):
        """What the client has sent is received without the reactor, in one piece if it can be."""
        self.assertEqual(receive_now(self.transport), b"")
        self.client.sendall(b"NOOP\r\n")
        self.client.sendall(b"STAT\r\n")
        self.assertEqual(receive_now(self.transport), b"NOOP\r\nSTAT\r\n")
        self.client.shutdown(socket.SHUT_WR)
        self.assertEqual(receive_now(self.transport), b"")
        # The reactor sees the end as well.
        self.assertIs(await self.protocol.ended, ConnectionDone)

    async def test_receive_after_reset(self):
        """Nothing is received over a connection that the client has reset, and it is lost."""
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        self.client.close()
        for _ in range(2):
            self.assertEqual(receive_now(self.transport), b"")
        self.assertIs(await self.protocol.ended, ConnectionLost)

    async def test_close(self):
        """A connection that has sent everything is closed without the reactor."""
        self.send(b"+OK\r\n")
        self.assertTrue(close_now(self.transport))
        self.assertIs(self.successResultOf(self.protocol.ended), ConnectionDone)
        self.assertEqual(await self.read_all(), b"+OK\r\n")

    async def test_last(self):
        """The last octets and the end of the connection are one packet; see tcp(7)."""
        before = self.segments_received()
        self.send(b"+OK\r\n", is_last=True)
        self.assertTrue(close_now(self.transport))
        self.assertEqual(await self.read_all(), b"+OK\r\n")
        self.assertEqual(self.segments_received(), before + 1)

    async def test_last_after_others(self):
        """The last octets are sent later if others are, and the connection is closed after them."""
        self.send(b"x" * (1 << 22))
        self.send(b"end", is_last=True)
        self.assertFalse(close_now(self.transport))
        self.transport.loseConnection()
        self.assertTrue((await self.read_all()).endswith(b"xend"))
        await self.protocol.ended

    def segments_received(self):
        """Return how many segments the client has received: tcpi_segs_in of struct tcp_info."""
        info = self.client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 144)
        return int.from_bytes(info[140:], sys.byteorder)

    def test_other_transports(self):
        """Other transports, and TLS, are written to and closed by their own methods."""
        transport = StringTransport()
        self.assertFalse(can_use_socket(transport))
        self.assertTrue(can_use_socket(self.transport))
        write_now(transport, b"+OK\r\n")
        self.assertEqual(transport.value(), b"+OK\r\n")
        self.assertFalse(close_now(transport))
        self.transport.TLS = True
        self.assertFalse(can_use_socket(self.transport))
        self.assertFalse(close_now(self.transport))
        self.transport.TLS = False
        return self.close()
