"""Tests of popserv.listening.reactor."""

import errno
import os
import socket
from unittest.mock import patch

from twisted.internet import reactor
from twisted.internet.address import IPv6Address
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IReactorSocket, IReactorTCP
from twisted.internet.protocol import Factory
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from popserv.listening import sockets
from popserv.listening.reactor import AddressFamilyReactor, has_ipv6
from tests.workers.harness import name_factory


def receive(host, port):
    """Connect to a port; return what it sends."""
    with socket.create_connection((host, port), 30) as client:
        return client.recv(100)


class IPv6OnlyTests(TestCase):
    """IPv4 and IPv6 sockets with the same port."""

    def setUp(self):
        """Skip the tests on a machine without IPv6."""
        if not has_ipv6():
            self.skipTest("IPv6 is required")
        self.proxy = AddressFamilyReactor(reactor)

    async def listen(self, description, name=b""):
        """Listen on an endpoint until the test ends; return its port."""
        endpoint = serverFromString(self.proxy, description)
        port = await endpoint.listen(name_factory(name))
        self.addCleanup(port.stopListening)
        return port

    async def listen_twice(self, first, second):
        """Listen on a port that is free in both address families; return its number."""
        for _ in range(20):
            number = (await self.listen(first, b"1")).getHost().port
            try:
                await self.listen(second.format(number), b"2")
            except CannotListenError:
                # Another program has it in the other family.
                continue
            return number
        raise self.failureException("no port is free in both address families")

    def test_reactor(self):
        """The proxy has the interfaces and the other methods of its reactor."""
        verifyObject(IReactorTCP, self.proxy)
        verifyObject(IReactorSocket, self.proxy)
        self.assertEqual(self.proxy.callLater, reactor.callLater)

    async def test_same_port(self):
        """tcp: and tcp6: with one port are two ports, in either order."""
        for first, second, names in [
            ("tcp:0", "tcp6:{}", (b"1", b"2")),
            ("tcp6:0", "tcp:{}", (b"2", b"1")),
        ]:
            number = await self.listen_twice(first, second)
            received = [await deferToThread(receive, host, number) for host in ("127.0.0.1", "::1")]
            self.assertEqual(tuple(received), names)

    async def test_ipv6_only(self):
        """A port of tcp6: refuses IPv4, also where the system's default is to accept it."""
        port = await self.listen("tcp6:0:backlog=3", b"6")
        verifyObject(IListeningPort, port)
        address = port.getHost()
        self.assertIsInstance(address, IPv6Address)
        self.assertEqual(address.host, "::")
        with self.assertRaises(ConnectionRefusedError):
            await deferToThread(receive, "127.0.0.1", address.port)
        self.assertEqual(await deferToThread(receive, "::1", address.port), b"6")

    async def test_interface(self):
        """An IPv6 interface may also be given to tcp:, and may have a zone."""
        port = await self.listen(r"tcp:0:interface=\:\:1", b"6")
        self.assertEqual(await deferToThread(receive, "::1", port.getHost().port), b"6")
        error = await self.assertFailure(
            serverFromString(self.proxy, r"tcp6:0:interface=fe80\:\:1%nowhere").listen(Factory()),
            CannotListenError,
        )
        self.assertIsInstance(error.socketError, OSError)

    async def test_adopted(self):
        """An open socket keeps its address family, whatever the endpoint calls it."""
        with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as opened:
            opened.setblocking(False)
            port = self.proxy.adoptStreamPort(opened.fileno(), socket.AF_INET, name_factory(b"6"))
        self.addCleanup(port.stopListening)
        self.assertIsInstance(port.getHost(), IPv6Address)
        for host in ("127.0.0.1", "::1"):
            self.assertEqual(await deferToThread(receive, host, port.getHost().port), b"6")

    async def test_in_use(self):
        """A port that is in use is reported as by Twisted, and its socket is closed."""
        number = (await self.listen("tcp6:0")).getHost().port
        before = len(os.listdir("/dev/fd"))
        error = await self.assertFailure(
            serverFromString(self.proxy, f"tcp6:{number}").listen(Factory()), CannotListenError
        )
        self.assertEqual(error.socketError.errno, errno.EADDRINUSE)
        self.assertEqual(error.port, number)
        self.assertEqual(len(os.listdir("/dev/fd")), before)


class HasIPv6Tests(TestCase):
    """has_ipv6."""

    def test_without(self):
        """A machine has no IPv6 if sockets cannot be created, or cannot be bound."""
        for code in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            failing = OSError(code, os.strerror(code))
            with patch.object(sockets.socket, "socket", side_effect=failing):
                self.assertFalse(has_ipv6())
        with patch.object(socket.socket, "bind", side_effect=OSError(errno.EADDRNOTAVAIL, "")):
            self.assertFalse(has_ipv6())
