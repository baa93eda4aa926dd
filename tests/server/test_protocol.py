"""Lines that become commands, one at a time, and replies."""

from tests.server.harness import ProtocolCase


class InputTests(ProtocolCase):
    """One command at a time, whatever comes."""

    def test_pipelined_behind_a_wait(self):
        """What is sent while a command waits is kept, in order, and not read further."""
        self.store.slow = {"login"}
        ann = self.connect(b"USER ann")
        self.assertEqual(ann.send(b"PASS pw\r\nSTAT\r\n"), b"")
        self.assertEqual(ann.transport.producerState, "paused")
        self.assertEqual(ann.send(b"QUIT\r\n"), b"")
        self.store.waiting["login"].callback(None)
        self.assertEqual(
            ann.received(),
            b"+OK ann's maildrop has 2 messages (10 octets)\r\n+OK 2 10\r\n"
            b"+OK dewey POP3 server signing off (2 messages left)\r\n",
        )
        self.assertTrue(ann.closed)

    def test_turns(self):
        """However much is pipelined, other sessions have their turn after some commands."""
        ann = self.logged_in()
        ann.server.dataReceived(b"NOOP\r\n" * 118)
        self.assertEqual(ann.received().count(b"+OK"), 50)
        ann.clock.advance(0)
        self.assertEqual(ann.received().count(b"+OK"), 68)
        ann.server.dataReceived(b"UIDL\r\n" * 6)
        self.assertEqual(ann.received().count(b"+OK"), 5)

    def test_turns_of_packets(self):
        """A client that waits for its answers is never held up, however many it had."""
        ann = self.logged_in()
        for _ in range(200):
            self.assertEqual(ann.send(b"NOOP\r\n"), b"+OK nothing done\r\n")
            self.assertEqual(ann.transport.producerState, "producing")

    def test_turn_of_the_lost(self):
        """A connection that is lost between two turns has no further one."""
        ann = self.logged_in()
        ann.server.dataReceived(b"DELE 1\r\n" + b"NOOP\r\n" * 60 + b"QUIT\r\n")
        ann.lose()
        ann.clock.advance(0)
        self.assertReleased()
        self.assertEqual(len(self.store.stored[b"ann"]), 2)

    def test_input_after_closing(self):
        """What TLS still reads after the server closed is not kept."""
        ann = self.logged_in()
        ann.send(b"QUIT\r\n" + b"x" * 500)
        ann.send(b"y" * 100_000)
        self.assertEqual(ann.server.clearLineBuffer(), b"")

    def test_bare_lf(self):
        """People at a terminal may end lines by LF."""
        self.assertEqual(self.connect(b"USER ann").send(b"PASS pw\nSTAT\n")[-10:], b"+OK 2 10\r\n")

    def test_long_line(self):
        """A line too long is answered once, and what follows it is not obeyed."""
        for octets in (b"USER " + b"x" * 1020 + b"\r\nQUIT\r\n", b"x" * 100_000):
            ann = self.connect()
            self.assertEqual(ann.send(octets), b"-ERR line too long\r\n")
            self.assertTrue(ann.closed)
            self.assertEqual(ann.send(b"y" * 100_000), b"")

    def test_longest_line(self):
        """RFC 2449 section 4 wants 255 octets at least; there are four times as many."""
        ann = self.connect()
        self.assertEqual(ann.send(b"USER " + b"x" * 1019 + b"\r\n"), b"+OK send PASS\r\n")

    def test_blunders(self):
        """Twenty lines in a row that are no command end the connection; a good one forgives."""
        ann = self.connect(*[b"GET / HTTP/1.1"] * 19, b"USER ann")
        for _ in range(19):
            self.assertEqual(ann.send(b"BOGUS\r\n"), b"-ERR unknown command\r\n")
            self.assertFalse(ann.closed)
        ann.send(b"BOGUS\r\n")
        self.assertTrue(ann.closed)

    def test_refusals_are_no_blunders(self):
        """Asking for what is not there, however often, is a client's right."""
        ann = self.logged_in()
        for _ in range(15):
            ann.send(b"BOGUS\r\nRETR 99\r\n")
        self.assertFalse(ann.closed)

    def test_guesses(self):
        """A failed login is answered late, and the third ends the connection."""
        ann = self.connect()
        for guess in range(3):
            self.assertFalse(ann.closed)
            ann.send(b"USER ann\r\n")
            self.assertEqual(ann.send(b"PASS guess %d\r\n" % guess), b"")
            ann.clock.advance(1.9)
            self.assertEqual(ann.received(), b"")
            ann.clock.advance(0.2)
            self.assertEqual(ann.received(), b"-ERR [AUTH] authentication failed\r\n")
        self.assertTrue(ann.closed)

    def test_vanished(self):
        """A message that another program removed is refused, and the session lives."""
        ann = self.logged_in()
        self.store.stored[b"ann"].pop(b"m1")
        gone = b"-ERR message 1 was removed by another program\r\n"
        self.assertEqual(ann.send(b"RETR 1\r\n"), gone)
        self.assertEqual(ann.send(b"TOP 1 0\r\n"), gone)
        self.assertEqual(ann.send(b"DELE 1\r\n"), b"+OK message 1 deleted\r\n")
        self.assertIn(b"+OK", ann.send(b"QUIT\r\n"))

    def test_busy(self):
        """A second session is told so, may try again, and gets in when the first has gone."""
        first = self.logged_in()
        second = self.connect(b"USER ann")
        self.assertEqual(second.send(b"PASS pw\r\n"), b"-ERR [IN-USE] maildrop already locked\r\n")
        first.lose()
        second.send(b"USER ann\r\n")
        self.assertIn(b"+OK", second.send(b"PASS pw\r\n"))

    def test_unexpected_error(self):
        """A bug is logged and told as nothing but a temporary failure; the session lives."""
        ann = self.logged_in()
        self.assertEqual(
            ann.send(b"FAIL\r\nNOOP\r\n"),
            b"-ERR [SYS/TEMP] temporary failure, try again later\r\n+OK nothing done\r\n",
        )
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)


class LogTests(ProtocolCase):
    """What is logged of commands that fail."""

    def test_reason(self):
        """Why a login failed is in the log, and the password is not."""
        ann = self.connect(b"USER ann", b"PASS canary-4711")
        ann.clock.advance(3)
        event = next(event for event in self.log if "cause" in event)
        self.assertEqual((event["user"], event["peer"]), (b"ann", "127.0.0.1:54321"))
        self.assertNotIn("canary", repr(list(self.log)))

    def test_log_is_bounded(self):
        """One session cannot fill the log with its refusals."""
        ann = self.logged_in()
        for _ in range(150):
            ann.send(b"FAIL\r\n")
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 100)
