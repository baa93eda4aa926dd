"""Listening sockets that a supervisor opens and workers accept on, in one process."""

import errno
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

from popserv.listening.reactor import AddressFamilyReactor, has_ipv6
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
        for descriptors, family in zip(
            self.opener.descriptors(), (socket.AF_INET6, socket.AF_INET), strict=True
        ):
            self.assertEqual(len(descriptors), 2)
            for fileno in descriptors:
                with socket.socket(fileno=os.dup(fileno)) as opened:
                    self.assertEqual(opened.family, family)

    async def test_cover(self):
        """The connections of a worker that does not run are accepted by another one."""
        address = self.open()
        clients = [socket.create_connection(address, 30) for _ in range(20)]
        first = self.adopter(1)
        port = first.listenTCP(0, name_factory(b"1"))
        verifyObject(IListeningPort, port)
        port.startListening()
        self.assertEqual(port.getHost(), IPv4Address("TCP", *address))
        for _ in range(2):
            first.cover([2])
        for client in clients:
            self.assertEqual(await deferToThread(client.recv, 100), b"1")
            client.close()
        first.cover([])
        self.close_later(self.adopter(2).listenTCP(0, name_factory(b"2")))
        both = await self.count_connections(address)
        self.assertGreater(min(both[b"1"], both[b"2"]), 10)
        await port.stopListening()

    async def test_stopped(self):
        """A worker that has stopped listening accepts on no other socket either."""
        address = self.open()
        first = self.adopter(1)
        port = first.listenTCP(0, name_factory(b"1"))
        first.cover([2])
        await port.stopListening()
        first.cover([2])
        clients = [socket.create_connection(address, 30) for _ in range(20)]
        second = self.adopter(2)
        self.close_later(second.listenTCP(0, name_factory(b"2")))
        second.cover([1])
        for client in clients:
            self.assertEqual(await deferToThread(client.recv, 100), b"2")
            client.close()

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
        """A port of another supervisor is refused, although both have SO_REUSEPORT."""
        _, port = self.open()
        opener = SocketOpener(AddressFamilyReactor(reactor), 2)
        error = self.assertRaises(
            CannotListenError, opener.listenTCP, port, Factory(), 50, LOOPBACK
        )
        self.assertEqual(error.socketError.errno, errno.EADDRINUSE)

    async def test_without_balancing(self):
        """Where the kernel does not balance, all workers share one socket."""
        self.patch(sockets, "HAS_PORT_BALANCING", False)
        address = self.open()
        first = self.adopter(1)
        self.close_later(first.listenTCP(0, name_factory(b"1")))
        first.cover([2])
        self.assertEqual(await self.count_connections(address, 5), {b"1": 5})
        self.assertEqual(len(*self.opener.descriptors()), 1)


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
        self.assertEqual(Path(path).stat().st_mode & 0o777, 0o600)
        await port.stopListening()
        self.assertFalse(os.path.exists(path))
        self.flushWarnings()  # Twisted compares the path as text and as bytes

    async def test_adopted(self):
        """A socket that systemd has opened is shared."""
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
            ((fileno,),) = opener.descriptors()
            adopted = SocketAdopter(reactor, 2, [[os.dup(fileno)]]).adoptStreamPort(
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
        adopter = SocketAdopter(reactor, 1, [])
        self.assertTrue(IReactorTCP.providedBy(adopter))
        self.assertRaises(CannotListenError, adopter.listenTCP, 110, Factory())

    def test_delegation(self):
        """Other attributes are those of the reactor."""
        self.assertEqual(self.opener.callLater, reactor.callLater)
