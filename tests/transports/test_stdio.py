"""Standard input and output as a connection, with descriptors that the tests open."""

import os
import socket
import tty

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from popserv.transports.stdio import (
    NoClientError,
    StandardStreams,
    StandardTransport,
    check_open,
    is_client_stream,
)


@implementer(IHalfCloseableProtocol)
class Recorder(Protocol):
    """A protocol that records its events."""

    def __init__(self):
        self.data = b""
        self.event = Deferred()
        self.read_lost = self.write_lost = False
        self.lost = None

    def fire(self):
        """Fire the Deferred of the next event."""
        event, self.event = self.event, Deferred()
        event.callback(None)

    def dataReceived(self, data):
        """Record the data."""
        self.data += data
        self.fire()

    def readConnectionLost(self):
        """Record the end of input."""
        self.read_lost = True
        self.fire()

    def writeConnectionLost(self):
        """Abort, as the server does."""
        self.write_lost = True
        self.transport.abortConnection()

    def connectionLost(self, reason):
        """Record the reason."""
        self.lost = reason
        self.fire()


class StandardStreamsTestCase(TestCase):
    """Descriptors that are closed at the end of a test."""

    def setUp(self):
        """Create a factory whose protocol can be inspected."""
        self.protocol = Recorder()
        self.factory = Factory.forProtocol(lambda: self.protocol)
        self.factory.noisy = False

    def close_later(self, *descriptors):
        """Close the descriptors at the end of the test; return them."""
        for each in descriptors:
            self.addCleanup(os.close, each)
        return descriptors

    def pipe(self):
        """Return both ends of a pipe."""
        return self.close_later(*os.pipe())

    def pair(self):
        """Return a client's socket, and the descriptor of the other end."""
        client, server = socket.socketpair()
        self.addCleanup(client.close)
        return client, *self.close_later(server.detach())

    def tcp(self, family=socket.AF_INET):
        """Return a client's TCP socket, and the descriptor of the other end."""
        host = "127.0.0.1" if family == socket.AF_INET else "::1"
        with socket.create_server((host, 0), family=family) as listening:
            client = socket.create_connection(listening.getsockname()[:2])
            server, _ = listening.accept()
        self.addCleanup(client.close)
        return client, *self.close_later(server.detach())

    def reserve(self, in_, out, error=None):
        """Return StandardStreams of the descriptors, which are restored at the end."""
        if error is None:
            (error,) = self.close_later(os.open(os.devnull, os.O_RDWR))
        standard = StandardStreams(in_, out, error)
        self.is_restored = False
        self.addCleanup(self.restore, standard)
        return standard

    def restore(self, standard):
        """Restore the descriptors, unless the test has done so."""
        if not self.is_restored:
            self.is_restored = True
            standard.restore()

    def connect(self, *descriptors):
        """Connect the protocol to the descriptors."""
        standard = self.reserve(*descriptors)
        standard.connect(self.factory, reactor)
        return standard


class StandardStreamsTests(StandardStreamsTestCase):
    """StandardStreams."""

    def test_family(self):
        """The family is that of a socket that is both input and output; otherwise it is None."""
        _, one = self.pair()
        _, other = self.pair()
        _, four = self.tcp()
        in_, out = self.pipe()
        (again,) = self.close_later(os.dup(one))
        for source, sink, family in [
            (four, four, socket.AF_INET),
            (one, again, socket.AF_UNIX),
            (one, other, None),
            (one, out, None),
            (in_, one, None),
            (in_, out, None),
        ]:
            copies = self.close_later(os.dup(source), os.dup(sink))
            self.assertEqual(self.reserve(*copies).family, family)

    def test_not_a_stream(self):
        """A socket that is not a stream has no family."""
        client, server = socket.socketpair(type=socket.SOCK_SEQPACKET)
        self.addCleanup(client.close)
        (server,) = self.close_later(server.detach())
        self.assertIsNone(self.reserve(server, server).family)

    def test_not_connected(self):
        """A listening socket is rejected with the reason."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            copy = listening.dup().detach()
        self.close_later(copy)
        error = self.assertRaises(NoClientError, self.reserve, copy, copy)
        self.assertIn("nowait", str(error))

    def test_closed(self):
        """A closed descriptor is rejected."""
        in_, out = self.pipe()
        closed = os.dup(out)
        os.close(closed)
        check_open(in_, out)
        error = self.assertRaises(NoClientError, StandardStreams, in_, closed)
        self.assertIn(f"descriptor {closed} is closed", str(error))

    def test_is_client_stream(self):
        """Standard error leads to the client if it is closed, or the same file as the output."""
        in_, out = self.pipe()
        other, _ = self.pipe()
        (copy,) = self.close_later(os.dup(out))
        closed = os.dup(out)
        os.close(closed)
        self.assertTrue(is_client_stream(copy, in_, out))
        self.assertFalse(is_client_stream(other, in_, out))
        self.assertFalse(is_client_stream(other, closed, out))
        self.assertTrue(is_client_stream(closed, in_, out))

    def test_stray_output(self):
        """Output of other code is dropped, on standard error too if it leads to the client."""
        client, server = self.pair()
        (error,) = self.close_later(os.dup(server))
        standard = self.reserve(server, server, error)
        for each in (server, error):
            os.write(each, b"stray")
        os.write(standard.output, b"reply")
        self.assertEqual(client.recv(100), b"reply")
        self.assertEqual(os.read(server, 1), b"")

    def test_separate_error(self):
        """A standard error that does not lead to the client is not changed."""
        in_, out = self.pipe()
        read, error = self.pipe()
        self.reserve(in_, out, error)
        os.write(error, b"error")
        self.assertEqual(os.read(read, 10), b"error")

    def test_closed_error(self):
        """If standard error is closed, its number is not used for anything else."""
        in_, out = self.pipe()
        error = os.dup(in_)
        os.close(error)
        self.reserve(in_, out, error)
        self.close_later(error)
        self.assertTrue(os.path.samestat(os.fstat(error), os.stat(os.devnull)))

    def test_flags(self):
        """The flags of descriptors that other processes share are restored."""
        for blocking in (True, False):
            _, in_ = self.pair()
            _, out = self.pair()
            others = self.close_later(os.dup(in_), os.dup(out))
            for each in others:
                os.set_blocking(each, blocking)
            standard = self.connect(in_, out)
            self.assertFalse(any(map(os.get_blocking, others)))
            self.protocol.transport.abortConnection()
            self.restore(standard)
            self.assertEqual(list(map(os.get_blocking, others)), [blocking] * 2)

    async def test_reopened_flags(self):
        """The flags of terminals and pipes are not changed, because they are reopened."""
        in_, to_server = self.pipe()
        master, terminal = self.close_later(*os.openpty())
        tty.setraw(terminal)
        self.connect(in_, terminal)
        os.write(to_server, b"hello")
        await self.protocol.event
        self.assertEqual(self.protocol.data, b"hello")
        self.protocol.transport.write(b"bye")
        self.assertEqual(await deferToThread(os.read, master, 10), b"bye")
        self.assertEqual([os.get_blocking(each) for each in (to_server, master)], [True, True])
        self.protocol.transport.abortConnection()
        await self.protocol.event

    def test_pipe_without_reader(self):
        """A pipe without a reader cannot be reopened, and is used as it is."""
        in_, _ = self.pipe()
        from_server, out = os.pipe()
        self.close_later(out)
        os.close(from_server)
        self.reserve(in_, out)

    def test_terminal_master(self):
        """The master of a pseudoterminal is not reopened: that would create another terminal."""
        master, terminal = self.close_later(*os.openpty())
        tty.setraw(terminal)
        standard = self.reserve(*self.close_later(os.dup(master), os.dup(master)))
        os.write(standard.output, b"hello")
        self.assertEqual(os.read(terminal, 10), b"hello")

    def test_not_inherited(self):
        """Child processes do not inherit the descriptors."""
        in_, out = self.pipe()
        standard = self.reserve(in_, out)
        for each in (standard.input, standard.output):
            self.assertFalse(os.get_inheritable(each))

    def test_address(self):
        """The address is the terminal's name or ``standard input``; TCP is not local."""
        _, terminal = self.close_later(*os.openpty())
        in_, out = self.pipe()
        _, unix = self.pair()
        _, four = self.tcp()
        name = os.ttyname(terminal)
        for source, sink, address in [
            (terminal, terminal, (name, True)),
            (in_, out, ("standard input", True)),
            (in_, unix, ("standard input", True)),
            (in_, four, ("standard input", False)),
        ]:
            there = self.reserve(*self.close_later(os.dup(source), os.dup(sink))).address
            self.assertEqual((there.name, there.is_local), address)


class ConnectionTests(StandardStreamsTestCase):
    """A protocol that is connected to descriptors of different kinds."""

    async def test_pipes(self):
        """Pipes carry data in both directions, and close in order."""
        in_, to_server = os.pipe()
        from_server, out = self.pipe()
        self.close_later(in_)
        self.connect(in_, out)
        os.write(to_server, b"hello")
        await self.protocol.event
        self.assertEqual(self.protocol.data, b"hello")
        os.close(to_server)
        await self.protocol.event
        self.assertTrue(self.protocol.read_lost)
        self.protocol.transport.write(b"bye")
        self.protocol.transport.loseConnection()
        await self.protocol.event
        self.assertEqual(os.read(from_server, 10), b"bye")
        self.assertTrue(self.protocol.lost.check(ConnectionDone))

    async def test_sockets(self):
        """A socket has Twisted's transport and the client's address."""
        for client, server in [self.tcp(), self.tcp(socket.AF_INET6), self.pair()]:
            self.protocol = Recorder()
            standard = self.connect(server, server)
            client.send(b"hello")
            await self.protocol.event
            self.assertEqual(self.protocol.data, b"hello")
            peer = self.protocol.transport.getPeer()
            if client.family != socket.AF_UNIX:
                self.assertEqual((peer.host, peer.port), client.getsockname()[:2])
            self.protocol.transport.write(b"bye")
            self.protocol.transport.loseConnection()
            await self.protocol.event
            self.assertEqual(client.recv(10), b"bye")
            self.restore(standard)
            self.assertEqual(client.recv(10), b"")

    async def test_output_broken(self):
        """If the client has closed its input, the connection is aborted."""
        in_, _ = self.pipe()
        from_server, out = os.pipe()
        self.close_later(out)
        self.connect(in_, out)
        os.close(from_server)
        await self.protocol.event
        self.assertTrue(self.protocol.write_lost)
        self.assertTrue(self.protocol.lost.check(ConnectionAborted))

    async def test_output_broken_while_closing(self):
        """If the client closes its input before all output is sent, the connection is aborted."""
        in_, _ = self.pipe()
        from_server, out = os.pipe()
        self.close_later(out)
        self.connect(in_, out)
        self.protocol.transport.write(b"x" * (1 << 20))
        await deferToThread(os.read, from_server, 1)
        self.protocol.transport.loseConnection()
        os.close(from_server)
        await self.protocol.event
        self.assertTrue(self.protocol.lost.check(ConnectionAborted))

    async def test_abort(self):
        """After abortConnection nothing more is sent, and the connection ends once."""
        in_, _ = self.pipe()
        from_server, out = self.pipe()
        self.connect(in_, out)
        transport = self.protocol.transport
        transport.write(b"x" * (1 << 20))
        await deferToThread(os.read, from_server, 1)
        transport.abortConnection()
        transport.abortConnection()
        transport.write(b"more")
        transport.loseConnection()
        transport.resumeProducing()
        self.assertIsNone(self.protocol.lost)
        await self.protocol.event
        self.assertTrue(self.protocol.lost.check(ConnectionAborted))
        transport.abortConnection()
        await deferLater(reactor, 0)
        os.set_blocking(from_server, False)
        self.assertLess(len(os.read(from_server, 1 << 20)), (1 << 20) - 1)
        self.assertRaises(BlockingIOError, os.read, from_server, 1)

    async def test_terminal(self):
        """A terminal is a connection; if it hangs up, the connection is aborted."""
        master, terminal = os.openpty()
        tty.setraw(terminal)
        _, other = self.close_later(terminal, os.dup(terminal))
        self.connect(terminal, terminal)
        self.assertIsInstance(self.protocol.transport, StandardTransport)
        self.assertEqual(self.protocol.transport.getPeer().name, os.ttyname(other))
        os.write(master, b"hello\r\n")
        await self.protocol.event
        self.protocol.transport.write(b"bye\r\n")
        self.assertEqual(await deferToThread(os.read, master, 10), b"bye\r\n")
        self.assertEqual(self.protocol.data, b"hello\r\n")
        os.close(master)
        await self.protocol.event
        self.assertFalse(self.protocol.read_lost)
        self.assertTrue(self.protocol.lost.check(ConnectionAborted))

    async def test_input_broken(self):
        """If reading fails, the connection is aborted."""
        in_, _ = self.pipe()
        _, out = self.pipe()
        self.connect(in_, out)
        self.protocol.transport.childConnectionLost("read", Failure(ConnectionLost()))
        await self.protocol.event
        self.assertFalse(self.protocol.read_lost)
        self.assertTrue(self.protocol.lost.check(ConnectionAborted))
