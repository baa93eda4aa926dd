"""The idle timer."""

from popserv.server import idle
from tests.server.harness import ProtocolCase


class TimeTests(ProtocolCase):
    """RFC 1725 section 3: the autologout timer."""

    def test_closed_while_waiting(self):
        """A body that comes after the server has closed is not sent."""
        self.store.slow = {"open"}
        ann = self.logged_in()
        ann.send(b"RETR 1\r\n")
        ann.clock.advance(601)
        self.store.waiting["open"].callback(None)
        self.assertEqual((ann.received(), ann.closed), (b"", True))
        ann.lose()
        self.assertReleased()

    def test_idle(self):
        """Ten minutes without a command end a session, silently and without UPDATE."""
        ann = self.logged_in()
        ann.send(b"DELE 1\r\n")
        ann.clock.advance(599)
        ann.send(b"NOOP\r\n")
        ann.clock.advance(599)
        self.assertFalse(ann.closed)
        ann.clock.advance(2)
        self.assertEqual((ann.received(), ann.closed, ann.transport.aborted), (b"", True, False))
        ann.lose()
        self.assertReleased()
        self.assertEqual(len(self.store.stored[b"ann"]), 2)

    def test_half_a_line_is_no_command(self):
        """Dribbling octets does not keep a connection."""
        ann = self.logged_in()
        for _ in range(11):
            ann.send(b"x")
            ann.clock.advance(60)
        self.assertTrue(ann.closed)

    def test_stalled_reader(self):
        """A client that stopped reading is cut off; what it did not take is not waited for."""
        ann = self.logged_in()
        self.fill(ann)
        ann.send(b"HUGE\r\n")
        ann.clock.advance(601)
        self.assertTrue(ann.closed)
        self.assertFalse(ann.transport.aborted)
        ann.clock.advance(31)
        self.assertTrue(ann.transport.aborted)
        ann.lose()
        self.assertReleased()

    def test_slow_reader(self):
        """A client that reads slowly is served to the end."""
        ann = self.logged_in()
        ann.server.pauseProducing()
        for _ in range(5):
            ann.clock.advance(500)
            ann.server.resumeProducing()
            ann.server.pauseProducing()
        self.assertFalse(ann.closed)

    def test_still_reading(self):
        """As long as the client takes some of its output, if slowly, the time begins anew."""
        untaken = iter([9, 8, 7, 7, 7, 6, 6])
        self.patch(idle, "unread_octets", lambda transport: next(untaken))
        ann = self.logged_in()
        for _ in range(3):
            ann.clock.advance(601)
        self.assertFalse(ann.closed)
        ann.clock.advance(601)
        self.assertTrue(ann.closed)
        ann.clock.advance(31)
        self.assertFalse(ann.transport.aborted)
        ann.clock.advance(31)
        self.assertTrue(ann.transport.aborted)

    def test_read_and_stalled(self):
        """What waited before the last command is no measure of what waits after it."""
        untaken = iter([5, 9, 8])
        self.patch(idle, "unread_octets", lambda transport: next(untaken))
        ann = self.logged_in()
        ann.clock.advance(601)
        ann.send(b"LIST\r\n")
        for _ in range(2):
            ann.clock.advance(601)
            self.assertFalse(ann.closed)

    def test_stuck_store(self):
        """The timer runs while a command waits; the lock is given up once the store answers."""
        self.store.slow = {"open"}
        ann = self.logged_in()
        ann.send(b"RETR 1\r\n")
        ann.clock.advance(601)
        self.assertTrue(ann.closed)
        ann.lose()
        self.assertEqual(self.store.released, 0)
        self.store.waiting["open"].callback(None)
        self.assertReleased()

    def test_configured(self):
        """The time is the factory's."""
        self.factory = self.make_factory(idle_timeout=5)
        ann = self.logged_in()
        ann.clock.advance(6)
        self.assertTrue(ann.closed)
