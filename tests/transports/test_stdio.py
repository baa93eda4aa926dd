"""Standard input and output as a connection: in this process, on descriptors of the test's own."""

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
    """Remembers what happens to it."""

    def __init__(self):
        self.heard = b""
        self.happened = Deferred()
        self.read_lost = self.write_lost = False
        self.lost = None

    def something_happened(self):
        """Tell the test."""
        happened, self.happened = self.happened, Deferred()
        happened.callback(None)

    def dataReceived(self, data):
        """Remember input."""
        self.heard += data
        self.something_happened()

    def readConnectionLost(self):
        """Remember the end of input."""
        self.read_lost = True
        self.something_happened()

    def writeConnectionLost(self):
        """Do as the server does."""
        self.write_lost = True
        self.transport.abortConnection()

    def connectionLost(self, reason):
        """Remember the end."""
        self.lost = reason
        self.something_happened()


class StandardCase(TestCase):
    """Descriptors that go with the test."""

    def setUp(self):
        """Make a factory that keeps its protocol."""
        self.protocol = Recorder()
        self.factory = Factory.forProtocol(lambda: self.protocol)
        self.factory.noisy = False

    def keep(self, *descriptors):
        """Close these at the end."""
        for each in descriptors:
            self.addCleanup(os.close, each)
        return descriptors

    def pipe(self):
        """Return both ends of a pipe."""
        return self.keep(*os.pipe())

    def pair(self):
        """Return a client's socket, and a descriptor of the other end."""
        client, server = socket.socketpair()
        self.addCleanup(client.close)
        return client, *self.keep(server.detach())

    def tcp(self, family=socket.AF_INET):
        """The same of TCP."""
        host = "127.0.0.1" if family == socket.AF_INET else "::1"
        with socket.create_server((host, 0), family=family) as listening:
            client = socket.create_connection(listening.getsockname()[:2])
            server, _ = listening.accept()
        self.addCleanup(client.close)
        return client, *self.keep(server.detach())

    def take(self, in_, out, error=None):
        """Return what is made of these, which is given back at the end."""
        if error is None:
            (error,) = self.keep(os.open(os.devnull, os.O_RDWR))
        standard = StandardStreams(in_, out, error)
        self.given_back = False
        self.addCleanup(self.restore, standard)
        return standard

    def restore(self, standard):
        """Give back what the test has not."""
        if not self.given_back:
            self.given_back = True
            standard.restore()

    def connect(self, *descriptors):
        """Have the protocol on descriptors."""
        standard = self.take(*descriptors)
        standard.connect(self.factory, reactor)
        return standard


class TakingTests(StandardCase):
    """What is taken, what is left in its place, and what is put back."""

    def test_family(self):
        """A connected socket that is both is what it is; anything else is no socket."""
        _, one = self.pair()
        _, other = self.pair()
        _, four = self.tcp()
        in_, out = self.pipe()
        (again,) = self.keep(os.dup(one))
        for source, sink, family in [
            (four, four, socket.AF_INET),
            (one, again, socket.AF_UNIX),
            (one, other, None),
            (one, out, None),
            (in_, one, None),
            (in_, out, None),
        ]:
            copies = self.keep(os.dup(source), os.dup(sink))
            self.assertEqual(self.take(*copies).family, family)

    def test_other_sockets(self):
        """A socket that is no stream is no connection."""
        client, server = socket.socketpair(type=socket.SOCK_SEQPACKET)
        self.addCleanup(client.close)
        (server,) = self.keep(server.detach())
        self.assertIsNone(self.take(server, server).family)

    def test_nobody_connected(self):
        """A socket that listens, or whose client has gone, is refused with the reason."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            copy = listening.dup().detach()
        self.keep(copy)
        error = self.assertRaises(NoClientError, self.take, copy, copy)
        self.assertIn("nowait", str(error))

    def test_closed(self):
        """A descriptor that is closed is nobody's."""
        in_, out = self.pipe()
        closed = os.dup(out)
        os.close(closed)
        check_open(in_, out)
        error = self.assertRaises(NoClientError, StandardStreams, in_, closed)
        self.assertIn(f"descriptor {closed} is closed", str(error))

    def test_leads_to_client(self):
        """Standard error is the client's if it is the same file, or nowhere."""
        in_, out = self.pipe()
        other, _ = self.pipe()
        (copy,) = self.keep(os.dup(out))
        closed = os.dup(out)
        os.close(closed)
        self.assertTrue(is_client_stream(copy, in_, out))
        self.assertFalse(is_client_stream(other, in_, out))
        self.assertFalse(is_client_stream(other, closed, out))
        self.assertTrue(is_client_stream(closed, in_, out))

    def test_stray_output(self):
        """What anything else writes there comes to nobody, nor does it to an error of the same."""
        client, server = self.pair()
        (error,) = self.keep(os.dup(server))
        standard = self.take(server, server, error)
        for each in (server, error):
            os.write(each, b"stray")
        os.write(standard.output, b"said")
        self.assertEqual(client.recv(100), b"said")
        self.assertEqual(os.read(server, 1), b"")

    def test_error_is_left_alone(self):
        """Standard error of its own stays what it was."""
        in_, out = self.pipe()
        read, error = self.pipe()
        self.take(in_, out, error)
        os.write(error, b"told")
        self.assertEqual(os.read(read, 10), b"told")

    def test_no_error(self):
        """Where standard error is closed, nothing else gets its number."""
        in_, out = self.pipe()
        error = os.dup(in_)
        os.close(error)
        self.take(in_, out, error)
        self.keep(error)
        self.assertTrue(os.path.samestat(os.fstat(error), os.stat(os.devnull)))

    def test_flags(self):
        """What others share is put back as it was: a shell may be waiting to read there."""
        for blocking in (True, False):
            _, in_ = self.pair()
            _, out = self.pair()
            others = self.keep(os.dup(in_), os.dup(out))
            for each in others:
                os.set_blocking(each, blocking)
            standard = self.connect(in_, out)
            self.assertFalse(any(map(os.get_blocking, others)))
            self.protocol.transport.abortConnection()
            self.restore(standard)
            self.assertEqual(list(map(os.get_blocking, others)), [blocking] * 2)

    async def test_own_flags(self):
        """Those of terminals and pipes are not touched at all, however the process ends."""
        in_, to_server = self.pipe()
        ours, theirs = self.keep(*os.openpty())
        tty.setraw(theirs)
        self.connect(in_, theirs)
        os.write(to_server, b"hello")
        await self.protocol.happened
        self.assertEqual(self.protocol.heard, b"hello")
        self.protocol.transport.write(b"bye")
        self.assertEqual(await deferToThread(os.read, ours, 10), b"bye")
        self.assertEqual([os.get_blocking(each) for each in (to_server, ours)], [True, True])
        self.protocol.transport.abortConnection()
        await self.protocol.happened

    def test_nobody_to_open_for(self):
        """A pipe that nobody reads is none that can be opened, and still is one's output."""
        in_, _ = self.pipe()
        from_server, out = os.pipe()
        self.keep(out)
        os.close(from_server)
        self.take(in_, out)

    def test_not_inherited(self):
        """No other program gets them."""
        in_, out = self.pipe()
        standard = self.take(in_, out)
        for each in (standard.input, standard.output):
            self.assertFalse(os.get_inheritable(each))

    def test_address(self):
        """A terminal is called by its name; what may be far away is not local."""
        _, terminal = self.keep(*os.openpty())
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
            there = self.take(*self.keep(os.dup(source), os.dup(sink))).address
            self.assertEqual((there.name, there.is_local), address)


class ConnectionTests(StandardCase):
    """The protocol is connected, whatever the descriptors are."""

    async def test_pipes(self):
        """What comes in is heard, what is said goes out, and the end is in order."""
        in_, to_server = os.pipe()
        from_server, out = self.pipe()
        self.keep(in_)
        self.connect(in_, out)
        os.write(to_server, b"hello")
        await self.protocol.happened
        self.assertEqual(self.protocol.heard, b"hello")
        os.close(to_server)
        await self.protocol.happened
        self.assertTrue(self.protocol.read_lost)
        self.protocol.transport.write(b"bye")
        self.protocol.transport.loseConnection()
        await self.protocol.happened
        self.assertEqual(os.read(from_server, 10), b"bye")
        self.assertTrue(self.protocol.lost.check(ConnectionDone))

    async def test_sockets(self):
        """A socket has Twisted's own transport, and the client's address."""
        for client, server in [self.tcp(), self.tcp(socket.AF_INET6), self.pair()]:
            self.protocol = Recorder()
            standard = self.connect(server, server)
            client.send(b"hello")
            await self.protocol.happened
            self.assertEqual(self.protocol.heard, b"hello")
            peer = self.protocol.transport.getPeer()
            if client.family != socket.AF_UNIX:
                self.assertEqual((peer.host, peer.port), client.getsockname()[:2])
            self.protocol.transport.write(b"bye")
            self.protocol.transport.loseConnection()
            await self.protocol.happened
            self.assertEqual(client.recv(10), b"bye")
            self.restore(standard)
            self.assertEqual(client.recv(10), b"")

    async def test_output_broken(self):
        """Who has closed its end can be told nothing: the connection is broken off."""
        in_, _ = self.pipe()
        from_server, out = os.pipe()
        self.keep(out)
        self.connect(in_, out)
        os.close(from_server)
        await self.protocol.happened
        self.assertTrue(self.protocol.write_lost)
        self.assertTrue(self.protocol.lost.check(ConnectionAborted))

    async def test_abort(self):
        """Nothing is sent any more, neither what waits nor what is said then, and it ends once."""
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
        await self.protocol.happened
        self.assertTrue(self.protocol.lost.check(ConnectionAborted))
        transport.abortConnection()
        await deferLater(reactor, 0)
        os.set_blocking(from_server, False)
        self.assertLess(len(os.read(from_server, 1 << 20)), (1 << 20) - 1)
        self.assertRaises(BlockingIOError, os.read, from_server, 1)

    async def test_terminal(self):
        """A terminal is spoken to as pipes are; if it hangs up, the connection is broken."""
        ours, theirs = os.openpty()
        tty.setraw(theirs)
        _, other = self.keep(theirs, os.dup(theirs))
        self.connect(theirs, theirs)
        self.assertIsInstance(self.protocol.transport, StandardTransport)
        self.assertEqual(self.protocol.transport.getPeer().name, os.ttyname(other))
        os.write(ours, b"hello\r\n")
        await self.protocol.happened
        self.protocol.transport.write(b"bye\r\n")
        self.assertEqual(await deferToThread(os.read, ours, 10), b"bye\r\n")
        self.assertEqual(self.protocol.heard, b"hello\r\n")
        os.close(ours)
        await self.protocol.happened
        self.assertFalse(self.protocol.read_lost)
        self.assertTrue(self.protocol.lost.check(ConnectionAborted))

    async def test_input_broken(self):
        """Input that cannot be read to its end is no end of it."""
        in_, _ = self.pipe()
        _, out = self.pipe()
        self.connect(in_, out)
        self.protocol.transport.childConnectionLost("read", Failure(ConnectionLost()))
        await self.protocol.happened
        self.assertFalse(self.protocol.read_lost)
        self.assertTrue(self.protocol.lost.check(ConnectionAborted))
