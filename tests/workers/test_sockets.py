"""Listening sockets that a supervisor opens and workers accept on, in one process."""

import errno
import gc
import os
import socket
from pathlib import Path

from twisted.application import strports
from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IReactorTCP
from twisted.internet.protocol import Factory
from twisted.internet.threads import deferToThread
from zope.interface.verify import verifyObject

from popserv.listening.reactor import has_ipv6
from popserv.workers import sockets
from popserv.workers.sockets import SocketAdopter, SocketOpener
from tests.certificates import issue
from tests.workers.harness import LOOPBACK, SocketsTestCase, name_factory


class TCPTests(SocketsTestCase):
    """TCP ports, among whose sockets the kernel distributes connections."""

    def setUp(self):
        """Skip the test where the kernel does not."""
        if not sockets.HAS_PORT_BALANCING:
            self.skipTest("no SO_REUSEPORT that balances here")
        super().setUp()

    def open(self):
        """Open a port; return its address."""
        port = self.close_later(self.opener.listenTCP(0, Factory(), 50, LOOPBACK))
        return LOOPBACK, port.getHost().port

    async def test_balance(self):
        """Each worker gets connections."""
        address = self.open()
        for number in (1, 2):
            self.close_later(self.adopter(number).listenTCP(0, name_factory(b"%d" % number)))
        both = await self.count_connections(address)
        self.assertGreater(min(both[b"1"], both[b"2"]), 10)

    async def test_ipv6(self):
        """The sockets of an IPv6 port accept no IPv4, so that tcp: can have the same port."""
        if not has_ipv6():
            self.skipTest("IPv6 is required")
        port = self.close_later(self.opener.listenTCP(0, Factory(), 50, "::"))
        self.close_later(self.opener.listenTCP(port.getHost().port, Factory(), 50, ""))
        ((ipv6, _), (ipv4, _)) = self.opener.descriptors(2)
        for fileno, family in ((ipv6, socket.AF_INET6), (ipv4, socket.AF_INET)):
            with socket.socket(fileno=os.dup(fileno)) as opened:
                self.assertEqual(opened.family, family)
                if family == socket.AF_INET6:
                    self.assertTrue(opened.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))

    async def test_pause(self):
        """A paused worker gets no connections until it listens again."""
        address = self.open()
        self.close_later(self.adopter(1).listenTCP(0, name_factory(b"1")))
        self.opener.pause(2)
        self.assertEqual(await self.count_connections(address), {b"1": 100})
        self.opener.pause(2)
        self.close_later(self.adopter(2).listenTCP(0, name_factory(b"2")))
        self.assertGreater((await self.count_connections(address))[b"2"], 10)
        # Twisted stops listening on a port that is shut down.
        first = self.adopter(1)
        self.opener.pause(1)
        self.assertEqual(await self.count_connections(address), {b"2": 100})
        self.close_later(first.listenTCP(0, name_factory(b"3")))
        self.assertGreater((await self.count_connections(address))[b"3"], 10)

    async def test_queue(self):
        """A client that connects before a worker listens is served by that worker."""
        address = self.open()
        clients = [socket.create_connection(address, 30) for _ in range(20)]
        for number in (1, 2):
            self.close_later(self.adopter(number).listenTCP(0, name_factory(b"%d" % number)))
        for client in clients:
            self.assertIn(await deferToThread(client.recv, 100), (b"1", b"2"))
            client.close()

    def test_port_in_use(self):
        """A port in use is rejected, even if its socket has SO_REUSEPORT."""
        for reuse_port in (0, 1):
            with socket.socket() as taken:
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, reuse_port)
                taken.bind((LOOPBACK, 0))
                taken.listen()
                port = taken.getsockname()[1]
                error = self.assertRaises(
                    CannotListenError, self.opener.listenTCP, port, Factory(), 50, LOOPBACK
                )
                self.assertEqual(error.socketError.errno, errno.EADDRINUSE)
        _, port = self.open()
        self.assertRaises(
            CannotListenError, SocketOpener(reactor, 2).listenTCP, port, Factory(), 50, LOOPBACK
        )
        gc.collect()
        self.flushWarnings()  # older Twisteds do not close the socket that cannot listen

    async def test_without_balancing(self):
        """Where the kernel does not balance, all workers share one socket, which never pauses."""
        self.patch(sockets, "HAS_PORT_BALANCING", False)
        address = self.open()
        self.close_later(self.adopter(1).listenTCP(0, name_factory(b"1")))
        self.opener.pause(1)
        self.opener.pause(2)
        self.assertEqual(await self.count_connections(address, 5), {b"1": 5})
        self.assertEqual(self.opener.descriptors(1), self.opener.descriptors(2))


class OtherEndpointTests(SocketsTestCase):
    """Other endpoints than tcp:."""

    async def test_unix(self):
        """A UNIX socket is shared, keeps its mode, and stays when a worker stops listening."""
        path = self.mktemp()
        port = self.opener.listenUNIX(path, Factory(), mode=0o600)
        for number in (1, 2):
            adopted = self.adopter(number).listenUNIX(
                path, name_factory(b"%d" % number), mode=0o666
            )
            self.assertEqual(await self.count_connections(path, 3), {b"%d" % number: 3})
            await adopted.stopListening()
        self.opener.pause(1)
        self.assertEqual(Path(path).stat().st_mode & 0o777, 0o600)
        await port.stopListening()
        self.assertFalse(os.path.exists(path))
        self.flushWarnings()  # Twisted compares the path as text and as bytes

    async def test_adopted(self):
        """A socket that systemd has opened is shared, and its backlog is not changed."""
        for family, address, kind in [
            (socket.AF_INET, (LOOPBACK, 0), IPv4Address),
            (socket.AF_INET6, ("::1", 0), IPv6Address),
            (socket.AF_UNIX, self.mktemp(), UNIXAddress),
        ]:
            opener = SocketOpener(reactor, 2)
            try:
                listening = socket.socket(family)
                listening.bind(address)
            except OSError:
                listening.close()
                continue
            listening.listen()
            port = opener.adoptStreamPort(listening.fileno(), family, Factory())
            name = listening.getsockname()
            listening.close()
            verifyObject(IListeningPort, port)
            self.assertIsInstance(port.getHost(), kind)
            port.startListening()
            ((fileno, backlog),) = opener.descriptors(1)
            self.assertIsNone(backlog)
            adopted = SocketAdopter(reactor, [(os.dup(fileno), None)]).adoptStreamPort(
                0, family, name_factory(b"1")
            )
            if family != socket.AF_INET6:
                self.assertEqual(await self.connect(name), b"1")
            await adopted.stopListening()
            await port.stopListening()
            opener.close()

    async def test_ssl(self):
        """Twisted's endpoint ssl: is shared as tcp: is."""
        pem = self.mktemp()
        Path(pem).write_bytes(issue("localhost").pem())
        endpoint = f"ssl:0:interface={LOOPBACK}:privateKey={pem}"
        service = strports.service(endpoint, Factory(), reactor=self.opener)
        service.privilegedStartService()
        self.assertEqual(len(self.opener.endpoints), 1)
        await service.stopService()
        self.flushWarnings()  # older Twisteds use what pyOpenSSL has deprecated

    def test_no_socket(self):
        """A worker cannot listen if the supervisor has opened no socket for the endpoint."""
        adopter = SocketAdopter(reactor, [])
        self.assertTrue(IReactorTCP.providedBy(adopter))
        self.assertRaises(CannotListenError, adopter.listenTCP, 110, Factory())

    def test_delegation(self):
        """Other attributes are those of the reactor."""
        self.assertEqual(self.opener.callLater, reactor.callLater)
