"""Lines that become commands, one at a time."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import Clock
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from popserv.server import protocol, quick_clients, reply_writer
from popserv.testing import MemoryTransport
from popserv.transports.tls import TLSFactory
from tests.server.harness import ServerTestCase
from tests.transports.test_tls import Client, load

COMMAND_LINES = (
    *(b"NOOP\r\n", b"noop\n", b"STAT \r\n", b"LIST 1\r\n", b"RETR 2\r\n", b"DELE 1\r\n"),
    *(b"TOP 1 0\n", b"\r\n", b" NOOP\r\n", b"LIST  1\r\n", b"LIST x\r\n", b"NO\0OP\r\n"),
    *(b"AUTH \xff\r\n", b"RETR " + b"1" * 1100 + b"\r\n", b"NOOP " * 300 + b"\n"),
)


class InputTests(ServerTestCase):
    """One command runs at a time, however the input arrives."""

    @given(
        st.lists(st.sampled_from(COMMAND_LINES), max_size=120),
        st.lists(st.integers(0, 1000), max_size=8),
    )
    def test_cuts(self, lines, cuts):
        """The replies are those to one line after the other, wherever the input is cut."""
        octets = b"".join(lines)
        ends = sorted({*cuts, len(octets)})
        packets = [octets[start:end] for start, end in zip((0, *ends), ends, strict=False)]
        self.assertEqual(self.converse(packets), self.converse(lines))

    def converse(self, packets):
        """Return what a client gets that sends these packets, and whether it is closed."""
        ann = self.logged_in()
        replies = b"".join(map(ann.send, packets))
        ann.lose()
        return replies, ann.closed

    def test_pipelining(self):
        """Commands that arrive while another one runs are run later, in order."""
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

    def test_packets(self):
        """While a command runs, one more packet is read, and none after it until the reply."""
        self.store.slow = {"login"}
        ann = self.connect(b"USER ann")
        for packet, state in ((b"PASS pw\r\n", "producing"), (b"STAT\r\nNO", "paused")):
            self.assertEqual(ann.send(packet), b"")
            self.assertEqual(ann.transport.producerState, state)
        self.store.waiting["login"].callback(None)
        self.assertEqual(ann.received().count(b"+OK"), 2)
        self.assertEqual(ann.transport.producerState, "producing")
        self.assertEqual(ann.send(b"OP\r\n"), b"+OK nothing done\r\n")

    def test_turns(self):
        """Other sessions are served after 50 pipelined commands; long replies count as more."""
        ann = self.logged_in()
        ann.server.dataReceived(b"NOOP\r\n" * 118)
        self.assertEqual(ann.received().count(b"+OK"), 50)
        calls = [call.getTime() for call in ann.clock.getDelayedCalls()]
        self.assertEqual(min(calls), ann.clock.seconds())
        ann.clock.advance(0)
        self.assertEqual(ann.received().count(b"+OK"), 68)
        ann.server.dataReceived(b"RETR 1\r\n" * 6)
        self.assertEqual(ann.received().count(b"+OK"), 5)
        ann.clock.advance(0)
        self.assertEqual(ann.received().count(b"+OK"), 1)
        ann.server.dataReceived(b"RETR 1\r\n" * 4 + b"NOOP\r\n" * 11)
        self.assertEqual(ann.received().count(b"+OK"), 4 + 10)
        ann.clock.advance(0)
        self.assertEqual(ann.received().count(b"+OK"), 1)
        ann.server.OCTETS_PER_LINE = 12
        ann.server.dataReceived(b"NOOP\r\n" * 40)
        self.assertEqual(ann.received().count(b"+OK"), 25)

    def test_reading_while_others_are_served(self):
        """Reading goes on in a turn of others, unless there is much input, or output waits."""
        ann = self.logged_in()
        ann.server.dataReceived(b"NOOP\r\n" * 800)
        self.assertEqual(ann.transport.producerState, "paused")
        ann.clock.advance(0)
        self.assertEqual(ann.transport.producerState, "producing")
        self.assertEqual(ann.received().count(b"+OK"), 800)
        ann.server.dataReceived(b"NOOP\r\n" * 51)
        self.assertEqual(ann.transport.producerState, "producing")
        ann.server.pauseProducing()
        self.assertEqual(ann.transport.producerState, "paused")
        ann.clock.advance(0)
        self.assertEqual(ann.received().count(b"+OK"), 50)
        ann.server.resumeProducing()
        self.assertEqual(ann.transport.producerState, "producing")
        self.assertEqual(ann.received(), b"+OK nothing done\r\n")

    def test_reading_again_within_a_packet(self):
        """A client may read again while the replies to its packet are written."""
        self.patch(reply_writer, "WRITE_SIZE", 1)
        ann = self.logged_in()
        write = ann.transport.write

        def write_and_wait(octets):
            write(octets)
            ann.server.pauseProducing()
            ann.server.resumeProducing()

        ann.transport.write = write_and_wait
        self.assertEqual(ann.send(b"NOOP\r\nDELE 1\r\nNOOP\r\n").count(b"+OK"), 3)

    def test_more_input_within_a_packet(self):
        """A transport may pass on more input while the replies to a packet are written."""
        self.patch(reply_writer, "WRITE_SIZE", 1)
        ann = self.logged_in()
        write, more = ann.transport.write, [b"DELE 2\r\nST", b"AT\r\n"]

        def write_and_receive(octets):
            write(octets)
            if more:
                ann.server.dataReceived(more.pop(0))

        ann.transport.write = write_and_receive
        self.assertEqual(
            ann.send(b"DELE 1\r\nNOOP\r\n"),
            b"+OK message 1 deleted\r\n+OK nothing done\r\n+OK message 2 deleted\r\n+OK 0 0\r\n",
        )

    def test_turns_without_pipelining(self):
        """A client that waits for each reply is never paused."""
        ann = self.logged_in()
        for _ in range(200):
            self.assertEqual(ann.send(b"NOOP\r\n"), b"+OK nothing done\r\n")
            self.assertEqual(ann.transport.producerState, "producing")

    def quick_client(self, *packets):
        """Return a client that has sent each of these packets when its socket is read."""
        ann = self.logged_in()
        session = ann.server.session
        self.prepared = self.received = 0
        self.waiting = list(packets)

        def prepare():
            self.prepared += 1

        def receive(transport):
            session.prepare = prepare
            self.received += 1
            return self.waiting.pop(0) if self.waiting else b""

        self.patch(protocol, "can_use_socket", lambda transport: True)
        self.patch(quick_clients, "receive_now", receive)
        self.patch(quick_clients, "perf_counter", lambda: 0.0)
        self.patch(quick_clients, "MIN_ALONE", 1)
        session.prepare = prepare
        return ann

    def test_quick_client(self):
        """A client that has asked before its next reply is prepared gets it in the same turn."""
        ann = self.quick_client(b"NOOP\r\n", b"NOOP\r\nNO", b"OP\r\n", b"DELE 1\r\nST")
        self.assertEqual(
            ann.send(b"NOOP\r\n"), b"+OK nothing done\r\n" * 4 + b"+OK message 1 deleted\r\n"
        )
        self.assertEqual(self.prepared, 5)
        self.assertEqual(ann.send(b"AT\r\n"), b"+OK 1 5\r\n")

    def test_almost_quick_client(self):
        """The socket is read again for some microseconds."""
        packets = [*[b""] * 15, b"NOOP\r\n", *[b""] * 16, b"NOOP\r\n"]
        ann = self.quick_client(*packets)
        self.assertEqual(ann.send(b"NOOP\r\n"), b"+OK nothing done\r\n" * 2)
        self.assertEqual(self.waiting, packets[-1:])

    def test_other_client(self):
        """No socket is read again while another client is served."""
        ann = self.quick_client(b"NOOP\r\n")
        bob = self.connect()
        bob.send(b"NOOP\r\n")
        self.assertEqual(ann.send(b"NOOP\r\n"), b"+OK nothing done\r\n")
        self.assertEqual((self.prepared, self.received), (0, 0))
        self.assertIsNone(ann.server.session.prepare)

    def test_numbers(self):
        """The numbers are those of docs/design."""
        self.assertEqual((quick_clients.MIN_ALONE, quick_clients.MAX_SERIES), (8, 10))
        self.assertEqual((quick_clients.MAX_RECEPTIONS, quick_clients.MAX_SKIPPED), (16, 63))

    def test_alone(self):
        """A client is alone after some packets without one of another client between them."""
        ann = self.quick_client()
        self.patch(quick_clients, "MIN_ALONE", 8)
        prepare = ann.server.session.prepare
        for _ in range(2):
            self.connect().send(b"NOOP\r\n")
            before = self.received
            for _ in range(9):
                self.assertEqual(self.received, before)
                ann.server.session.prepare = prepare
                ann.send(b"NOOP\r\n")
            self.assertEqual(self.received, before + 16)

    def test_series_only(self):
        """The socket is read again after a command that another one usually follows at once."""
        ann = self.quick_client()
        for command, receptions in (b"DELE 1", 16), (b"NOOP", 0), (b"RSET", 0):
            ann.server.session.prepare, before = None, self.received
            ann.send(command + b"\r\n")
            self.assertEqual(self.received - before, receptions, command)

    def test_turn_of_quick_client(self):
        """A quick client waits for the other sessions, as one that pipelines its commands."""
        ann = self.quick_client(*[b"NOOP\r\n"] * 60)
        ann.server.dataReceived(b"NOOP\r\n")
        self.assertEqual(ann.received().count(b"+OK"), 10)
        self.assertEqual(len(self.waiting), 51)

    def test_end_of_quick_client(self):
        """Nothing is prepared or received once the server closes."""
        ann = self.quick_client(b"NOOP\r\n")
        self.assertEqual(ann.send(b"QUIT\r\n").count(b"\r\n"), 1)
        self.assertEqual((self.prepared, len(self.waiting)), (0, 1))
        self.assertTrue(ann.closed)

    def test_slow_client(self):
        """Fewer and fewer replies are prepared in vain, but some always are, for all clients."""
        ann = self.quick_client()
        prepare, tries = ann.server.session.prepare, []
        for number in range(200):
            if number == 40:
                ann.lose()
                ann = self.logged_in()
                self.assertEqual(self.received, 6 * 16)
            before, ann.server.session.prepare = self.received, prepare
            ann.send(b"NOOP\r\n")
            if self.received > before:
                tries.append(number)
        self.assertEqual(tries, [0, 1, 3, 7, 15, 31, 63, 127, 191])
        self.assertEqual((self.received, self.prepared), (9 * 16, 9))

    def test_other_thread(self):
        """The socket is not read for longer because another thread runs."""
        ann = self.quick_client()
        self.patch(quick_clients, "perf_counter", iter([1.0, 1.00004, 1.00006]).__next__)
        ann.send(b"NOOP\r\n")
        self.assertEqual(self.received, 2)

    def test_unreadable_sockets(self):
        """Clients whose socket cannot be used do not count as replies that are skipped."""
        ann = self.quick_client()
        prepare = ann.server.session.prepare
        for is_usable, receptions in (
            *[(True, 16)] * 2,
            *[(False, 0)] * 5,
            (True, 0),
            (True, 16),
        ):
            self.patch(protocol, "can_use_socket", lambda transport, usable=is_usable: usable)
            before, ann.server.session.prepare = self.received, prepare
            ann.send(b"NOOP\r\n")
            self.assertEqual(self.received - before, receptions)

    def test_client_becomes_quick(self):
        """Once a client is quick, the next replies are prepared as in the beginning."""
        ann = self.quick_client(*[b""] * 48, b"NOOP\r\n")
        for _ in range(8):
            ann.server.session.prepare = ann.server.session.prepare or (lambda: None)
            ann.send(b"NOOP\r\n")
        self.assertEqual((self.waiting, self.received), ([], 48 + 1 + 16))
        ann.send(b"NOOP\r\n")
        self.assertEqual(self.received, 48 + 1 + 32)

    def test_other_transports_prepare_nothing(self):
        """Without a socket of its own, a transport gets its input from the reactor only."""
        ann = self.quick_client()
        self.patch(protocol, "can_use_socket", lambda transport: False)
        ann.send(b"NOOP\r\n")
        self.assertEqual(self.prepared, 0)
        self.assertIsNone(ann.server.session.prepare)

    def test_lost_between_turns(self):
        """The remaining pipelined commands are dropped when the connection is lost."""
        ann = self.logged_in()
        ann.server.dataReceived(b"DELE 1\r\n" + b"NOOP\r\n" * 60 + b"QUIT\r\n")
        ann.lose()
        ann.clock.advance(0)
        self.assert_released()
        self.assertEqual(len(self.store.stored[b"ann"]), 2)

    def test_input_after_closing(self):
        """Input that TLS reads after the server has closed is not stored."""
        ann = self.logged_in()
        ann.send(b"QUIT\r\n" + b"x" * 500)
        ann.send(b"y" * 100_000)
        self.assertEqual(ann.server.clearLineBuffer(), b"")

    def test_bare_lf(self):
        """A line may end with LF."""
        self.assertEqual(self.connect(b"USER ann").send(b"PASS pw\nSTAT\n")[-10:], b"+OK 2 10\r\n")

    def test_long_line(self):
        """A line that is too long gets one reply, and the connection closes."""
        for octets in (b"USER " + b"x" * 1020 + b"\r\nQUIT\r\n", b"x" * 100_000):
            ann = self.connect()
            self.assertEqual(ann.send(octets), b"-ERR line too long\r\n")
            self.assertTrue(ann.closed)
            self.assertEqual(ann.send(b"y" * 100_000), b"")

    def test_longest_line(self):
        """A line of 1024 octets is accepted; RFC 2449 section 4 requires 255."""
        ann = self.connect()
        self.assertEqual(ann.send(b"USER " + b"x" * 1019 + b"\r\n"), b"+OK send PASS\r\n")

    def test_bad_commands(self):
        """Twenty consecutive bad commands close the connection; a good one resets the count."""
        ann = self.connect(*[b"GET / HTTP/1.1"] * 19, b"USER ann")
        for _ in range(19):
            self.assertEqual(ann.send(b"BOGUS\r\n"), b"-ERR unknown command\r\n")
            self.assertFalse(ann.closed)
        ann.send(b"BOGUS\r\n")
        self.assertTrue(ann.closed)
        self.assertTrue(self.connect(*[b"BOGUS"] * 20).closed)

    def test_count_of_bad_commands(self):
        """Each valid command resets the count, whatever its reply is."""
        for valid in (b"NOOP\r\n", b"RETR 1\r\n", b"RETR 99\r\n"):
            ann = self.logged_in()
            ann.send(b"BOGUS\r\n" * 19 + valid)
            ann.send(b"BOGUS\r\n" * 19)
            self.assertFalse(ann.closed, valid)
            ann.send(b"BOGUS\r\n")
            self.assertTrue(ann.closed, valid)
            ann.lose()

    def test_negative_replies(self):
        """Valid commands with negative replies are not counted as bad commands."""
        ann = self.logged_in()
        for _ in range(15):
            ann.send(b"BOGUS\r\nRETR 99\r\n")
        self.assertFalse(ann.closed)

    def test_failed_logins(self):
        """The reply to a failed login is delayed; the third one closes the connection."""
        ann = self.connect()
        for attempt in range(3):
            self.assertFalse(ann.closed)
            ann.send(b"USER ann\r\n")
            self.assertEqual(ann.send(b"PASS wrong %d\r\n" % attempt), b"")
            ann.clock.advance(1.9)
            self.assertEqual(ann.received(), b"")
            ann.clock.advance(0.2)
            self.assertEqual(ann.received(), b"-ERR [AUTH] authentication failed\r\n")
        self.assertTrue(ann.closed)

    def test_removed_message(self):
        """A message that another program has removed gets -ERR, and the session continues."""
        ann = self.logged_in()
        self.store.stored[b"ann"].pop(b"m1")
        removed = b"-ERR message 1 was removed by another program\r\n"
        self.assertEqual(ann.send(b"RETR 1\r\n"), removed)
        self.assertEqual(ann.send(b"TOP 1 0\r\n"), removed)
        self.assertEqual(ann.send(b"DELE 1\r\n"), b"+OK message 1 deleted\r\n")
        self.assertIn(b"+OK", ann.send(b"QUIT\r\n"))

    def test_in_use(self):
        """A locked maildrop gets [IN-USE]; after its release a login succeeds."""
        first = self.logged_in()
        second = self.connect(b"USER ann")
        self.assertEqual(second.send(b"PASS pw\r\n"), b"-ERR [IN-USE] maildrop already locked\r\n")
        first.lose()
        second.send(b"USER ann\r\n")
        self.assertIn(b"+OK", second.send(b"PASS pw\r\n"))

    def test_unexpected_error(self):
        """An unexpected exception is logged, and the client gets a temporary failure."""
        ann = self.logged_in()
        self.assertEqual(
            ann.send(b"FAIL\r\nNOOP\r\n"),
            b"-ERR [SYS/TEMP] temporary failure, try again later\r\n+OK nothing done\r\n",
        )
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)


class TLSInputTests(ServerTestCase):
    """Over TLS, where each line may have a record of its own."""

    def connect_over(self, factory):
        """Connect a client over the TLS of a factory, and log in as ann."""
        self.clock, self.client = Clock(), Client()
        self.transport = MemoryTransport(peerAddress=IPv4Address("TCP", "127.0.0.1", 54321))
        self.tls = factory.buildProtocol(None)
        self.server = self.tls.wrappedProtocol
        self.delays = []
        self.server.callLater = self.call_later
        self.tls.makeConnection(self.transport)
        for _ in range(2):
            self.tls.dataReceived(self.client.handshake())
            self.received()
        self.assertEqual(self.send(b"USER ann\r\n", b"PASS pw\r\n"), 2)

    def call_later(self, seconds, function):
        """Call a function later, and record the delay."""
        self.delays.append(seconds)
        return self.clock.callLater(seconds, function)

    def lose(self):
        """Lose the connection."""
        self.tls.connectionLost(Failure(ConnectionDone()))

    def send(self, *records):
        """Send records that are read from TCP at once; return the number of replies to them."""
        for record in records:
            self.client.write(record)
        self.tls.dataReceived(self.client.outgoing.read())
        return self.received()

    def received(self):
        """Return the number of the replies that the client gets now."""
        # What STLS uses gathers its output until the next turn.
        for _ in range(2):
            self.output.advance(0)
        octets, _ = self.client.read([self.transport.value()])
        self.transport.clear()
        return octets.count(b"+OK")

    def factories(self):
        """Yield the TLS of a TLS port, that of STLS, and that of STLS in an embedding program."""
        self.output, certificates = Clock(), load(self)
        yield TLSFactory(certificates, self.factory)
        yield TLSMemoryBIOFactory(certificates, False, self.factory, self.output)
        context = certificates.serverConnectionForTLS(None).get_context()
        key_and_context = CertificateOptions()
        key_and_context._context = context
        yield TLSMemoryBIOFactory(key_and_context, False, self.factory, self.output)

    def test_turns(self):
        """Other sessions are served after 50 lines, whether in one record or in as many."""
        # A connection that does not tell of turns has them after 50 lines, however they came.
        for factory, lines in zip(self.factories(), (50, 50, 48), strict=True):
            self.connect_over(factory)
            self.assertEqual(self.send(*[b"NOOP\r\n"] * 118), lines)
            self.clock.advance(0)
            self.assertEqual(self.received(), 118 - lines)
            self.assertEqual(self.delays.count(0), 2)
            self.lose()

    def test_turns_without_pipelining(self):
        """A client that waits for each reply is never paused."""
        for factory in list(self.factories())[:2]:
            self.connect_over(factory)
            for _ in range(200):
                self.assertEqual(self.send(b"NOOP\r\n"), 1)
                self.assertFalse(self.server.paused)
            self.lose()


class LogTests(ServerTestCase):
    """The log lines of commands that fail; tests.server.test_session_events has more."""

    def test_reason(self):
        """The cause of a failed login is logged, without the password."""
        ann = self.connect(b"USER ann", b"PASS canary-4711")
        ann.clock.advance(3)
        event = next(event for event in self.log if "cause" in event)
        self.assertEqual((event["user"], event["peer"]), ("ann", "127.0.0.1:54321"))
        self.assertNotIn("canary", repr(list(self.log)))

    def test_limit(self):
        """At most a hundred errors of one connection are logged."""
        ann = self.logged_in()
        for _ in range(150):
            ann.send(b"FAIL\r\n")
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 100)
