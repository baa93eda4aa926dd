"""Octets that are written at once, and octets that nobody has read."""

import os
import socket
from functools import partial
from types import SimpleNamespace

from twisted.internet import reactor
from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase, TestCase

from popserv.transports.output import close_now, unread_octets, write_now
from tests.transports.harness import RESET


class UnreadTests(SynchronousTestCase):
    """Octets that the client has not read."""

    def test_untaken(self):
        """What the client has not read is counted, wherever it waits."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            client = socket.create_connection(server.getsockname())
            accepted, _ = server.accept()
        for theirs, ours in (
            os.pipe(),
            [each.detach() for each in socket.socketpair()],
            [client.detach(), accepted.detach()],
        ):
            for fd in (theirs, ours):
                self.addCleanup(os.close, fd)
                os.set_blocking(fd, False)
            transport = FileDescriptor(object())
            transport.fileno = lambda fd=ours: fd
            wrapped = SimpleNamespace(transport=transport)
            self.assertEqual(unread_octets(wrapped), 0)
            with self.assertRaises(BlockingIOError):
                while True:
                    os.write(ours, b"x" * 10_000)
            in_kernel = unread_octets(wrapped)
            self.assertGreater(in_kernel, 10_000)
            transport.dataBuffer, transport.offset = b"123456", 1
            transport._tempDataLen = 2
            self.assertEqual(unread_octets(wrapped), in_kernel + 7)
            with self.assertRaises(BlockingIOError):
                while True:
                    os.read(theirs, 10_000)
            self.assertLess(unread_octets(wrapped), in_kernel)

    def test_untaken_unknown(self):
        """Where nothing can be known, there is nothing."""
        transport = FileDescriptor(object())
        self.assertEqual(unread_octets(transport), 0)
        with open(os.devnull, "wb") as null:
            transport.fileno = null.fileno
            self.assertEqual(unread_octets(transport), 0)
        self.assertEqual(unread_octets(StringTransport()), 0)


class Silent(Protocol):
    """Says nothing, and notes how its connection ends."""

    def __init__(self):
        self.over = Deferred()

    def connectionLost(self, reason):
        """Note it."""
        self.over.callback(reason.type)


class SocketTests(TestCase):
    """Sockets that nothing is put before."""

    def setUp(self):
        """Connect two."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.client = socket.create_connection(listener.getsockname())
            server, _ = listener.accept()
        self.addCleanup(self.client.close)
        # As little as the kernel lets through at once.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.protocol = Silent()
        factory = Factory.forProtocol(lambda: self.protocol)
        with server:
            reactor.adoptStreamConnection(server.fileno(), socket.AF_INET, factory)
        self.transport = self.protocol.transport
        self.send = partial(write_now, self.transport)
        self.client.settimeout(0)

    def over(self):
        """How the connection has ended, or what waits for that."""
        if not self.protocol.over.called:
            self.transport.loseConnection()
        return self.protocol.over

    async def read(self):
        """Everything up to the end, as it comes."""
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

    def test_at_once(self):
        """The kernel has octets before the reactor has its turn."""
        self.send(b"+OK\r\n")
        self.client.settimeout(5)
        self.assertEqual(self.client.recv(10), b"+OK\r\n")
        return self.over()

    async def test_order(self):
        """What the kernel does not take waits, and so does all that comes after it."""
        wanted = [bytes([65 + at]) * (1 << 20) for at in range(3)] + [b"end"]
        for octets in wanted:
            self.send(octets)
        self.assertFalse(close_now(self.transport))
        self.transport.loseConnection()
        self.assertEqual(await self.read(), b"".join(wanted))
        self.assertIs(await self.protocol.over, ConnectionDone)

    async def test_full(self):
        """A kernel that takes nothing at all changes nothing."""
        while self.transport.writeSomeData(b"x" * 4096):
            pass
        self.send(b"end")
        self.transport.loseConnection()
        self.assertTrue((await self.read()).endswith(b"xend"))
        await self.protocol.over

    async def test_broken(self):
        """Octets for a client that has gone are nobody's, and its end is found by the reactor."""
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.client.close()
        self.send(b"lost")
        self.send(b"lost")
        await self.protocol.over
        self.send(b"lost")
        self.assertFalse(close_now(self.transport))

    async def test_lose_at_once(self):
        """A connection that has sent everything is closed, and its protocol told, at once."""
        self.send(b"+OK\r\n")
        self.assertTrue(close_now(self.transport))
        self.assertIs(self.successResultOf(self.protocol.over), ConnectionDone)
        self.assertEqual(await self.read(), b"+OK\r\n")

    def test_with_something_between(self):
        """What is between a protocol and its socket is asked to write and to close."""
        between = StringTransport()
        write_now(between, b"+OK\r\n")
        self.assertEqual(between.value(), b"+OK\r\n")
        self.assertFalse(close_now(between))
        self.transport.TLS = True
        self.assertFalse(close_now(self.transport))
        self.transport.TLS = False
        return self.over()
