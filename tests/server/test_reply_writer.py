"""Replies and bodies: batches, back-pressure, bodies that fail."""

import socket
from itertools import product

from twisted.internet import reactor
from twisted.internet.defer import fail
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from popserv.core.session import Session
from popserv.messages.framing import MessageFramer
from popserv.server import reply_writer
from popserv.server.body import WRITE_SIZE
from popserv.server.reply_writer import ReplyWriter
from tests.server.harness import ONE_AND_NOOP, ServerTestCase
from tests.server.test_body import Body


class WriterTests(SynchronousTestCase):
    """ReplyWriter."""

    def setUp(self):
        """Record what is written, and whether it is the last."""
        self.written = []

        def write(transport, octets, *, is_last=False):
            self.written.append((octets, is_last))

        self.patch(reply_writer, "write_now", write)
        self.writer = ReplyWriter(object())

    def test_batch(self):
        """Octets are collected until there are 64 KiB of them, and then anew."""
        self.writer.is_batching = True
        for discards in (False, True, False):
            self.written.clear()
            self.writer.write(b"x" * (WRITE_SIZE - 1))
            if discards:
                self.writer.discard()
                self.writer.write(b"x" * (WRITE_SIZE - 1))
            self.assertEqual(self.written, [])
            self.writer.write(b"y")
            self.assertEqual(self.written, [(b"x" * (WRITE_SIZE - 1) + b"y", False)])
            # A flush before that begins a new batch, too.
            self.writer.write(b"z")
            self.writer.flush()
        self.writer.write(b"last")
        self.writer.flush(is_last=True)
        self.assertEqual(self.written[1:], [(b"z", False), (b"last", True)])

    def test_discard(self):
        """What was discarded is not written."""
        self.writer.is_batching = True
        self.writer.write(b"x")
        self.writer.discard()
        self.writer.flush()
        self.assertEqual(self.written, [])

    def test_write_later(self):
        """Octets for later wait for a flush, and those after it do not."""
        self.writer.write_later(b"a")
        self.assertEqual(self.written, [])
        self.writer.flush()
        self.writer.write(b"b")
        self.assertEqual(self.written, [(b"a", False), (b"b", False)])

    def send_body(self, chunks):
        """Send a body; return a list of its end, and the body."""
        ended, body = [], Body(*chunks)
        self.writer.prepare_body(
            b"+OK\r\n", body, MessageFramer(), Clock().callLater, lambda *end: ended.append(end)
        )
        self.writer.start_body()
        return ended, body

    def test_body(self):
        """A body is there until its last octet is written."""
        self.assertFalse(self.writer.resume())
        self.writer.pause()
        ended, body = self.send_body([b"a\n"])
        self.assertEqual((ended, body.read, self.written), ([], 0, []))
        self.assertTrue(self.writer.resume())
        self.assertEqual((ended, self.written), ([(None, True)], [(b"+OK\r\na\r\n.\r\n", False)]))
        self.assertFalse(self.writer.resume())
        self.assertFalse(self.writer.drop_body())

    def test_stopped_body(self):
        """A body that was stopped or dropped is closed, and not read again."""
        for stop in (self.writer.stop_body, self.writer.drop_body):
            self.writer.pause()
            ended, body = self.send_body([b"a\n"])
            stop()
            self.writer.resume()
            self.assertEqual((ended, body.read, body.closed, self.written), ([], 0, 1, []))
        self.assertFalse(self.writer.resume())
        self.send_body([])
        self.written.clear()
        self.writer.pause()
        self.send_body([b"a\n"])
        self.assertTrue(self.writer.drop_body())
        self.assertFalse(self.writer.drop_body())


class OutputTests(ServerTestCase):
    """The memory of a session is bounded by what the client reads."""

    def test_slow_reader(self):
        """A body is generated as fast as the client reads."""
        ann = self.logged_in()
        written = 0
        ann.server.pauseProducing()
        self.assertEqual(ann.send(b"HUGE\r\n"), b"")
        self.fill(ann)
        for _ in range(5):
            ann.server.resumeProducing()
            written = len(ann.received())
            self.assertLess(written, 1 << 17)
            self.assertGreater(written, 1 << 15)
        ann.lose()
        self.assert_released()

    def test_input_paused(self):
        """While the client does not read, no commands are run."""
        ann = self.logged_in()
        self.fill(ann)
        self.assertEqual(ann.send(b"STAT\r\n"), b"+OK 2 10\r\n")
        self.assertEqual(ann.transport.producerState, "paused")
        self.assertEqual(ann.send(b"NOOP\r\nLIST 1\r\n"), b"")
        ann.server.resumeProducing()
        self.assertEqual(ann.received(), b"+OK nothing done\r\n+OK 1 5\r\n")

    def test_batch(self):
        """The replies to the commands of one packet are sent in one write, unless it is large."""
        ann = self.logged_in()
        writes = self.patch_write(ann)
        ann.send(b"NOOP\r\n" * 5 + b"RETR 1\r\nSTAT\r\n")
        self.assertEqual(len(writes), 1)
        ann.send(b"LIST\r\nHUGE\r\n")
        self.assertTrue(all(len(octets) < 3 << 16 for octets in writes))
        ann.lose()

    def patch_write(self, client):
        """Record each write, and let the transport be full after a large one."""
        writes = []

        def write(octets):
            writes.append(octets)
            if len(octets) > 1 << 16:
                client.server.pauseProducing()

        client.transport.write = write
        return writes

    def test_paused_during_command(self):
        """If the client stops reading while a command runs, the next command waits."""
        self.store.slow = {"open"}
        ann = self.logged_in()
        ann.send(b"RETR 1\r\nNOOP\r\n")
        ann.server.pauseProducing()
        self.store.waiting["open"].callback(None)
        self.assertEqual(ann.received(), b"")
        ann.server.resumeProducing()
        self.assertEqual(ann.received(), ONE_AND_NOOP)

    def test_resumed_during_command(self):
        """If the output drains while a command runs, the next command waits for its end."""
        self.store.slow = {"open"}
        ann = self.logged_in()
        ann.send(b"RETR 1\r\nNOOP\r\n")
        ann.server.pauseProducing()
        ann.server.resumeProducing()
        self.assertEqual(ann.received(), b"")
        self.store.waiting["open"].callback(None)
        self.assertEqual(ann.received(), ONE_AND_NOOP)

    def test_body_fails(self):
        """A body that fails later aborts the connection, without the terminating dot."""
        ann = self.logged_in()
        self.assertNotIn(b"\r\n.\r\n", ann.send(b"TRUNCATED\r\nNOOP\r\n"))
        self.assertTrue(ann.transport.aborted)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        ann.lose()
        self.assert_released()

    def test_nothing_after_failure(self):
        """What waits in the batch when a body fails is not sent."""
        start, end = b"x\n" * 40_000, b"the end\n"
        self.store.deliver(b"ann", start + end)
        ann = self.logged_in()

        async def opened(message):
            return [start, end, fail(OSError("disk"))]

        ann.server.session.mailbox.open = opened
        sent = ann.send(b"RETR 3\r\nNOOP\r\n")
        self.assertEqual(sent, b"+OK 120009 octets\r\n" + start.replace(b"\n", b"\r\n"))
        self.assertTrue(ann.transport.aborted)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        ann.lose()
        self.assert_released()


class FaultyStoreTests(ServerTestCase):
    """A store whose bodies break the rules: the session continues, or its maildrop is released."""

    def opening(self, body):
        """Return a client of a mailbox that opens each message as this body."""
        ann = self.logged_in()
        ann.server.session.read_cached = None

        async def opened(message):
            return body

        ann.server.session.mailbox.open = opened
        return ann

    def test_no_body(self):
        """What is no body is answered with an error, at once or after a wait."""
        for body, slow in product((None, 5), (set(), {"open"})):
            ann = self.opening(body)
            opened = ann.server.session.mailbox.open

            async def open_later(message, opened=opened):
                await self.store.step("open")
                return await opened(message)

            ann.server.session.mailbox.open = open_later
            self.store.slow = slow
            reply = ann.send(b"RETR 1\r\nNOOP\r\n")
            if slow:
                self.store.waiting["open"].callback(None)
                reply = ann.received()
            self.assertEqual(
                reply,
                b"-ERR [SYS/TEMP] temporary failure, try again later\r\n+OK nothing done\r\n",
            )
            self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)
            ann.lose()
            self.assertEqual(self.store.locked, set())

    def test_end_fails(self):
        """What fails after a whole body is not answered with an error behind it."""
        ann = self.opening([b"one\n"])
        ann.server.resume_input = lambda: 1 // 0
        self.assertRaises(ZeroDivisionError, ann.send, b"RETR 1\r\n")
        self.assertEqual(ann.received() + b"+OK nothing done\r\n", ONE_AND_NOOP)
        ann.lose()
        self.assert_released()

    def test_close_fails(self):
        """If a body cannot be closed, the response is complete, and the session continues."""
        body = Body(b"one\n")
        body.close = lambda: 1 // 0
        ann = self.opening(body)
        self.assertEqual(ann.send(b"RETR 1\r\nNOOP\r\n"), ONE_AND_NOOP)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        ann.lose()
        self.assert_released()

    def test_close_fails_at_the_end(self):
        """If it cannot be closed when the connection is lost or too long idle, that ends, too."""
        for end in (lambda ann: None, lambda ann: ann.clock.pump([601, 601])):
            self.store.released = 0
            body = Body(*[b"x\n" * 50_000] * 3)
            body.close = lambda: 1 // 0
            self.store.deliver(b"ann", b"x\n" * 150_000)
            ann = self.opening(body)
            self.fill(ann)
            ann.send(b"RETR 3\r\n")
            end(ann)
            self.assertEqual(ann.closed, ann.clock.seconds() > 0)
            ann.lose()
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
            self.assert_released()

    def test_record_fails(self):
        """If nothing can be recorded after a message, the connection is aborted."""
        self.patch(Session, "record_retrieval", lambda session, message: 1 // 0)
        ann = self.opening([b"one\n"])
        self.assertEqual(ann.send(b"RETR 1\r\nNOOP\r\n"), b"")
        self.assertTrue(ann.transport.aborted)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        ann.lose()
        self.assert_released()


class SocketTests(TestCase):
    """The same with a TCP connection."""

    setUp = ServerTestCase.setUp
    make_factory = ServerTestCase.make_factory

    async def test_body_fails(self):
        """After a body that fails, the client gets a connection reset."""
        port = reactor.listenTCP(0, self.factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)

        def read_all():
            with socket.create_connection(("127.0.0.1", port.getHost().port), 30) as client:
                client.sendall(b"USER ann\r\nPASS pw\r\nTRUNCATED\r\n")
                while client.recv(1 << 16):
                    pass

        with self.assertRaises(ConnectionResetError):
            await deferToThread(read_all)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        self.assertEqual((self.store.released, self.store.locked), (1, set()))
