"""Sockets that one process opens and others listen on; here one process is both."""

import errno
import gc
import os
import socket
from collections import Counter
from pathlib import Path

from twisted.application import strports
from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IReactorTCP
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from popserv.workers import sockets
from popserv.workers.sockets import SocketAdopter, SocketOpener
from tests.certificates import issue

LOOPBACK = "127.0.0.1"


class Naming(Protocol):
    """Says its factory's name, and closes."""

    def connectionMade(self):
        """Say it."""
        self.transport.write(self.factory.name)
        self.transport.loseConnection()


def named(name):
    """Return a factory of such."""
    factory = Factory.forProtocol(Naming)
    factory.name = name
    return factory


class SocketsCase(TestCase):
    """An opener for two workers."""

    def setUp(self):
        """Make it."""
        self.opener = SocketOpener(reactor, 2)
        self.addCleanup(self.opener.close)

    def opened(self, port):
        """Close a port at the end; return it."""
        self.addCleanup(port.stopListening)
        return port

    def adopter(self, number):
        """Return what a worker would have."""
        return SocketAdopter(
            reactor,
            [(os.dup(fileno), backlog) for fileno, backlog in self.opener.descriptors(number)],
        )

    async def ask(self, address):
        """Return what a server says."""

        def ask():
            family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
            with socket.socket(family) as client:
                client.settimeout(30)
                client.connect(address)
                return client.recv(100)

        return await deferToThread(ask)

    async def answers(self, address, times=100):
        """Return how often who answers."""
        found = Counter()
        for _ in range(times):
            found[await self.ask(address)] += 1
        return found


class TCPTests(SocketsCase):
    """Ports of TCP, which the kernel shares out."""

    def setUp(self):
        """Skip where it does not."""
        if not sockets.BALANCED:
            self.skipTest("no SO_REUSEPORT that balances here")
        super().setUp()

    def open(self):
        """Open a port; return its address."""
        port = self.opened(self.opener.listenTCP(0, Factory(), 50, LOOPBACK))
        return LOOPBACK, port.getHost().port

    async def test_share(self):
        """Each worker gets its part; one that pauses gets nothing, until it listens again."""
        address = self.open()
        for number in (1, 2):
            self.opened(self.adopter(number).listenTCP(0, named(b"%d" % number)))
        both = await self.answers(address)
        self.assertGreater(min(both[b"1"], both[b"2"]), 10)

    async def test_pause(self):
        """A paused worker gets no clients until it listens again; if all pause, nobody does."""
        address = self.open()
        self.opened(self.adopter(1).listenTCP(0, named(b"1")))
        self.opener.pause(2)
        self.assertEqual(await self.answers(address), {b"1": 100})
        self.opener.pause(2)
        self.opened(self.adopter(2).listenTCP(0, named(b"2")))
        self.assertGreater((await self.answers(address))[b"2"], 10)
        # Twisted gives a port up that is shut down while it listens.
        first = self.adopter(1)
        self.opener.pause(1)
        self.assertEqual(await self.answers(address), {b"2": 100})
        self.opened(first.listenTCP(0, named(b"3")))
        self.assertGreater((await self.answers(address))[b"3"], 10)

    async def test_queue(self):
        """Who connects while a worker is away is served when it is back."""
        address = self.open()
        waiting = [socket.create_connection(address, 30) for _ in range(20)]
        for number in (1, 2):
            self.opened(self.adopter(number).listenTCP(0, named(b"%d" % number)))
        for client in waiting:
            self.assertIn(await deferToThread(client.recv, 100), (b"1", b"2"))
            client.close()

    def test_taken(self):
        """A port that anybody listens on is refused, were it to be shared or not."""
        for share in (0, 1):
            with socket.socket() as taken:
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, share)
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
        self.flushWarnings()  # older Twisteds leave it to the collector to close what was refused

    async def test_unbalanced(self):
        """Where the kernel does not share out, all listen on one socket, which never pauses."""
        self.patch(sockets, "BALANCED", False)
        address = self.open()
        self.opened(self.adopter(1).listenTCP(0, named(b"1")))
        self.opener.pause(1)
        self.opener.pause(2)
        self.assertEqual(await self.answers(address, 5), {b"1": 5})
        self.assertEqual(self.opener.descriptors(1), self.opener.descriptors(2))


class OtherTests(SocketsCase):
    """What else can be listened on."""

    async def test_unix(self):
        """A UNIX socket is shared, keeps its mode, and stays when a worker goes."""
        path = self.mktemp()
        port = self.opener.listenUNIX(path, Factory(), mode=0o600)
        for number in (1, 2):
            adopted = self.adopter(number).listenUNIX(path, named(b"%d" % number), mode=0o666)
            verifyObject(IListeningPort, adopted)
            self.assertEqual(adopted.getHost(), UNIXAddress(path.encode()))
            self.assertEqual(await self.answers(path, 3), {b"%d" % number: 3})
            await adopted.stopListening()
            await adopted.stopListening()
        self.opener.pause(1)
        self.assertEqual(Path(path).stat().st_mode & 0o777, 0o600)
        await port.stopListening()
        self.assertFalse(os.path.exists(path))
        self.flushWarnings()  # Twisted compares the path as text and as bytes

    async def test_unix_accept(self):
        """Whoever finds nothing to accept goes on; who cannot accept tries again later."""
        path = self.mktemp()
        port = self.opener.listenUNIX(path, Factory())
        shared = self.adopter(1).listenUNIX(path, named(b"1"))
        shared.doRead()
        real = shared._socket
        failing = OSError(errno.EMFILE, "Too many open files")

        class Full:
            """A socket that cannot be accepted from."""

            fileno = real.fileno

            def accept(self):
                """See socket."""
                raise failing

        calls = []
        self.patch(shared, "_reactor", self.later(calls))
        shared._socket = Full()
        shared.doRead()
        shared._socket = real
        self.assertEqual(calls[0][0], shared.EMFILE_DELAY)
        self.assertNotIn(shared, reactor.getReaders())
        calls[0][1]()
        self.assertIn(shared, reactor.getReaders())
        shared.connectionLost(None)
        calls[0][1]()
        self.assertNotIn(shared, reactor.getReaders())
        await port.stopListening()
        self.flushWarnings()

    def later(self, calls):
        """Return a reactor that notes what is to be called later."""

        class Later:
            def callLater(self, *arguments):
                calls.append(arguments)

        return Later()

    async def test_adopted(self):
        """A socket that systemd has opened is shared as it is."""
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
                0, family, named(b"1")
            )
            if family != socket.AF_INET6:
                self.assertEqual(await self.ask(name), b"1")
            await adopted.stopListening()
            await port.stopListening()
            opener.close()

    async def test_tls(self):
        """An endpoint with TLS of its own listens as any other."""
        pem = self.mktemp()
        Path(pem).write_bytes(issue("localhost").pem())
        endpoint = f"ssl:0:interface={LOOPBACK}:privateKey={pem}"
        service = strports.service(endpoint, Factory(), reactor=self.opener)
        service.privilegedStartService()
        self.assertEqual(len(self.opener.listeners), 1)
        await service.stopService()
        self.flushWarnings()  # older Twisteds use what pyOpenSSL has deprecated

    def test_too_many(self):
        """A worker cannot listen on more than there is."""
        adopter = SocketAdopter(reactor, [])
        self.assertTrue(IReactorTCP.providedBy(adopter))
        self.assertRaises(CannotListenError, adopter.listenTCP, 110, Factory())

    def test_delegates(self):
        """For all else it is the reactor."""
        self.assertEqual(self.opener.callLater, reactor.callLater)
