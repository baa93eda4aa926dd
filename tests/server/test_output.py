"""Replies and bodies, as fast as the client reads them."""

import socket

from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tests.server.harness import ONE_AND_NOOP, ProtocolCase


class OutputTests(ProtocolCase):
    """Memory is bounded by what the client reads."""

    def test_body_waits_for_the_client(self):
        """A body is made as fast as it is read."""
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
        self.assertReleased()

    def test_commands_wait_for_the_client(self):
        """A client that does not read is not listened to, so its answers cannot pile up."""
        ann = self.logged_in()
        self.fill(ann)
        self.assertEqual(ann.send(b"STAT\r\n"), b"+OK 2 10\r\n")
        self.assertEqual(ann.transport.producerState, "paused")
        self.assertEqual(ann.send(b"NOOP\r\nLIST 1\r\n"), b"")
        ann.server.resumeProducing()
        self.assertEqual(ann.received(), b"+OK nothing done\r\n+OK 1 5\r\n")

    def test_answers_leave_together(self):
        """What answers one packet leaves in one write, unless that were a large one."""
        ann = self.logged_in()
        writes = self.patch_write(ann)
        ann.send(b"NOOP\r\n" * 5 + b"RETR 1\r\nSTAT\r\n")
        self.assertEqual(len(writes), 1)
        ann.send(b"LIST\r\nHUGE\r\n")
        self.assertTrue(all(len(octets) < 3 << 16 for octets in writes))
        ann.lose()

    def patch_write(self, conversation):
        """Note each write, and let the transport be full once there was a large one."""
        writes = []

        def write(octets):
            writes.append(octets)
            if len(octets) > 1 << 16:
                conversation.server.pauseProducing()

        conversation.transport.write = write
        return writes

    def test_full_while_waiting(self):
        """A command that ends while the client does not read lets no further one in."""
        self.store.slow = {"open"}
        ann = self.logged_in()
        ann.send(b"RETR 1\r\nNOOP\r\n")
        ann.server.pauseProducing()
        self.store.waiting["open"].callback(None)
        self.assertEqual(ann.received(), b"")
        ann.server.resumeProducing()
        self.assertEqual(ann.received(), ONE_AND_NOOP)

    def test_drained_while_waiting(self):
        """Output that drains while a command waits does not let the next one in."""
        self.store.slow = {"open"}
        ann = self.logged_in()
        ann.send(b"RETR 1\r\nNOOP\r\n")
        ann.server.pauseProducing()
        ann.server.resumeProducing()
        self.assertEqual(ann.received(), b"")
        self.store.waiting["open"].callback(None)
        self.assertEqual(ann.received(), ONE_AND_NOOP)

    def test_stump(self):
        """A message that cannot be read to its end breaks the connection, unterminated."""
        ann = self.logged_in()
        self.assertNotIn(b"\r\n.\r\n", ann.send(b"STUMP\r\nNOOP\r\n"))
        self.assertTrue(ann.transport.aborted)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        ann.lose()
        self.assertReleased()


class SocketTests(TestCase):
    """What becomes of a real connection."""

    setUp = ProtocolCase.setUp
    make_factory = ProtocolCase.make_factory

    async def test_stump(self):
        """A message that is cut short ends in a broken connection, and not in order."""
        port = reactor.listenTCP(0, self.factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)

        def read_all():
            with socket.create_connection(("127.0.0.1", port.getHost().port), 30) as client:
                client.sendall(b"USER ann\r\nPASS pw\r\nSTUMP\r\n")
                while client.recv(1 << 16):
                    pass

        with self.assertRaises(ConnectionResetError):
            await deferToThread(read_all)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        self.assertEqual((self.store.released, self.store.locked), (1, set()))
