"""A port on a socket that several processes share."""

import errno
import socket

from twisted.internet import reactor
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory
from zope.interface.verify import verifyObject

from popserv.listening.sockets import listening_sockets
from popserv.workers.shared_port import SharedPort
from tests.workers.harness import LOOPBACK, NameProtocol, SocketsTestCase, name_factory


class SharedPortTests(SocketsTestCase):
    """SharedPort."""

    def open(self):
        """Open a UNIX socket as the supervisor; return its port and path."""
        path = self.mktemp()
        return self.opener.listenUNIX(path, Factory(), mode=0o600), path

    async def test_interface(self):
        """The port provides IListeningPort; closing it twice is no error."""
        port, path = self.open()
        shared = self.adopter(1).listenUNIX(path, name_factory(b"1"))
        verifyObject(IListeningPort, shared)
        self.assertEqual(shared.getHost(), UNIXAddress(path.encode()))
        await shared.stopListening()
        await shared.stopListening()
        await port.stopListening()
        self.flushWarnings()  # Twisted compares the path as text and as bytes

    async def test_accept_fails(self):
        """A failed accept is retried after a second, unless the port has been closed."""
        port, path = self.open()
        shared = self.adopter(1).listenUNIX(path, name_factory(b"1"))
        # There is no connection to accept.
        shared.doRead()
        real = shared._socket
        failure = OSError(errno.EMFILE, "Too many open files")

        class FailingSocket:
            """A socket whose accept fails."""

            fileno = real.fileno

            def accept(self):
                """See socket."""
                raise failure

        calls = []

        class RecordingReactor:
            """A reactor that records what is to be called later."""

            def callLater(self, *arguments):
                """See IReactorTime."""
                calls.append(arguments)

        self.patch(shared, "_reactor", RecordingReactor())
        shared._socket = FailingSocket()
        shared.doRead()
        shared._socket = real
        ((delay, retry),) = calls
        self.assertEqual(delay, shared.ACCEPT_RETRY_DELAY)
        self.assertNotIn(shared, reactor.getReaders())
        retry()
        self.assertIn(shared, reactor.getReaders())
        shared.connectionLost(None)
        retry()
        self.assertNotIn(shared, reactor.getReaders())
        await port.stopListening()
        self.flushWarnings()

    async def test_cannot_serve(self):
        """An error while one connection is accepted is logged, and the next one is served."""
        (listening,) = listening_sockets(LOOPBACK, 0, 5)
        address = listening.getsockname()
        errors = [OSError(errno.EIO, "Input/output error"), ValueError("wrong")]
        kinds = [type(each) for each in errors]

        class FailingProtocol(NameProtocol):
            """Fails at first."""

            def connectionMade(self):
                """See Protocol."""
                if errors:
                    self.transport.loseConnection()
                    raise errors.pop(0)
                super().connectionMade()

        factory = name_factory(b"1")
        self.patch(factory, "protocol", FailingProtocol)
        shared = self.close_later(SharedPort(listening, factory, reactor))
        for kind in kinds:
            self.assertEqual(await self.connect(address), b"")
            self.assertEqual(len(self.flushLoggedErrors(kind)), 1)
        self.assertEqual(await self.connect(address), b"1")
        self.assertTrue(shared.connected)

    async def test_client_gone(self):
        """A client that has broken its connection before it is accepted does no harm."""
        (listening,) = listening_sockets(LOOPBACK, 0, 5)
        address = listening.getsockname()
        built = []
        factory = name_factory(b"1")
        self.patch(factory, "buildProtocol", built.append)
        shared = self.close_later(SharedPort(listening, factory, reactor))
        self.assertEqual(shared.getHost(), IPv4Address("TCP", *address))
        client = socket.create_connection(address, 30)
        # Closed by RST.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
        client.close()
        shared.doRead()
        self.assertEqual(built, [])
        self.assertRaises(BlockingIOError, listening.accept)
        with socket.create_connection(address, 30):
            shared.doRead()
        self.assertEqual(len(built), 1)
