"""The inactivity autologout timer (RFC 1725 section 3)."""

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols.policies import TimeoutMixin
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from popserv.server import idle
from popserv.server.idle import IdleTimeoutMixin
from popserv.testing import MemoryTransport
from popserv.transports.tls import TLSFactory
from tests.server.harness import ServerTestCase
from tests.transports.test_tls import Client, load


class TimerTests(SynchronousTestCase):
    """The timer of IdleTimeoutMixin."""

    @given(
        st.lists(
            st.tuples(
                st.integers(0, 20),
                st.sampled_from(["activity", "none"]) | st.none() | st.integers(0, 30),
            )
        )
    )
    @example([(0, 30), (1, "activity"), (0, 3), (9, "none")])
    def test_model(self, steps):
        """It expires when that of TimeoutMixin does, and is one call at most."""
        logs = []
        for mixin in (TimeoutMixin, IdleTimeoutMixin):
            clock, log = Clock(), []

            class Timed(mixin):
                callLater = clock.callLater
                transport = StringTransport()

                def timeoutConnection(self, log=log, clock=clock):
                    log.append(clock.seconds())

            timed = Timed()
            for seconds, action in steps:
                for _ in range(seconds):
                    clock.advance(1)
                if action == "activity":
                    timed.resetTimeout()
                elif action != "none":
                    log.append(timed.setTimeout(action))
                self.assertLessEqual(len(clock.getDelayedCalls()), 1)
            logs.append(log)
        self.assertEqual(*logs)

    def test_idle_seconds(self):
        """The seconds since the last activity are told while the timer runs."""
        clock = Clock()
        timed = IdleTimeoutMixin()
        timed.callLater = clock.callLater
        self.assertEqual(timed.idle_seconds(), 0)
        timed.start_idle_timer(10)
        self.assertEqual(timed.idle_seconds(), 0)
        clock.advance(4)
        self.assertEqual(timed.idle_seconds(), 4)
        timed.resetTimeout()
        clock.pump([3, 4])
        self.assertEqual(timed.idle_seconds(), 7)
        timed.stop_idle_timer()
        self.assertEqual(timed.idle_seconds(), 0)

    def test_expired(self):
        """A connection whose timer has expired is closed, and not aborted yet."""
        clock = Clock()
        timed = IdleTimeoutMixin()
        timed.callLater = clock.callLater
        timed.transport = MemoryTransport()
        timed.start_idle_timer(10)
        clock.advance(10)
        self.assertEqual((timed.transport.disconnecting, timed.transport.aborted), (True, False))

    def test_activity(self):
        """Activity does not move the call, which is made again when it comes too early."""
        clock = Clock()
        timed = IdleTimeoutMixin()
        timed.callLater = clock.callLater
        timed.start_idle_timer(10)
        (call,) = clock.getDelayedCalls()
        clock.advance(9)
        timed.resetTimeout()
        self.assertEqual((clock.getDelayedCalls(), call.getTime()), ([call], 10))
        clock.advance(1)
        (call,) = clock.getDelayedCalls()
        self.assertEqual(call.getTime(), 19)
        timed.stop_idle_timer()
        self.assertEqual(clock.getDelayedCalls(), [])


class IdleTimeoutTests(ServerTestCase):
    """IdleTimeoutMixin, in a server."""

    def test_expires_during_open(self):
        """A body that is opened after the timer has expired is not sent."""
        self.store.slow = {"open"}
        ann = self.logged_in()
        ann.send(b"RETR 1\r\n")
        ann.clock.advance(601)
        self.store.waiting["open"].callback(None)
        self.assertEqual((ann.received(), ann.closed), (b"", True))
        ann.lose()
        self.assert_released()

    def test_idle(self):
        """After ten minutes without a command, a session ends without a reply or UPDATE."""
        ann = self.logged_in()
        ann.send(b"DELE 1\r\n")
        ann.clock.advance(599)
        ann.send(b"NOOP\r\n")
        ann.clock.advance(599)
        self.assertFalse(ann.closed)
        ann.clock.advance(1)
        self.assertEqual((ann.received(), ann.closed, ann.transport.aborted), (b"", True, False))
        self.assertIsNone(ann.transport.producer)
        ann.lose()
        self.assert_released()
        self.assertEqual(len(self.store.stored[b"ann"]), 2)

    def test_incomplete_line(self):
        """An incomplete line does not reset the timer."""
        ann = self.logged_in()
        for _ in range(11):
            ann.send(b"x")
            ann.clock.advance(60)
        self.assertTrue(ann.closed)

    def test_incomplete_handshake(self):
        """Nor does a part of a TLS handshake."""
        clock, transport = Clock(), MemoryTransport()
        tls = TLSFactory(load(self), self.factory).buildProtocol(None)
        tls.wrappedProtocol.callLater = clock.callLater
        tls.makeConnection(transport)
        hello = Client().handshake()
        for at in range(10):
            self.assertFalse(transport.aborted)
            tls.dataReceived(hello[at : at + 1])
            clock.advance(60)
        self.assertTrue(transport.aborted)
        tls.connectionLost(Failure(ConnectionLost()))

    def test_stalled_reader(self):
        """A client that reads nothing is disconnected, and aborted 30 seconds later."""
        ann = self.logged_in()
        self.fill(ann)
        ann.send(b"HUGE\r\n")
        ann.clock.advance(601)
        self.assertFalse(ann.closed)
        ann.clock.advance(601)
        self.assertTrue(ann.closed)
        ann.clock.advance(29)
        self.assertFalse(ann.transport.aborted)
        ann.clock.advance(1)
        self.assertTrue(ann.transport.aborted)
        self.assertEqual(ann.server.idle_seconds(), 0)
        # No more of the body is sent, even if the client reads at last.
        ann.received()
        ann.server.resumeProducing()
        self.assertEqual(ann.received(), b"")
        ann.lose()
        self.assert_released()

    def test_slow_reader(self):
        """A client that reads slowly stays connected."""
        ann = self.logged_in()
        ann.server.pauseProducing()
        for _ in range(5):
            ann.clock.advance(500)
            ann.server.resumeProducing()
            ann.server.pauseProducing()
        self.assertFalse(ann.closed)

    def test_partial_read(self):
        """The timer starts again as long as the client reads some of its output."""
        unread = iter([9, 8, 7, 7, 7, 6, 6])
        self.patch(idle, "unread_octets", lambda transport: next(unread))
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

    def test_output_while_closing(self):
        """Output that leaves after the connection was closed is not compared with none."""
        unread = iter([0, 0, 5, 5])
        self.patch(idle, "unread_octets", lambda transport: next(unread))
        ann = self.logged_in()
        ann.clock.pump([601, 31])
        self.assertEqual((ann.closed, ann.transport.aborted), (True, False))
        ann.clock.advance(31)
        self.assertTrue(ann.transport.aborted)

    def test_unread_greeting(self):
        """A client may read the greeting until the timer has expired twice."""
        self.patch(idle, "unread_octets", lambda transport: 5)
        client = self.connect()
        client.clock.advance(601)
        self.assertFalse(client.closed)
        client.clock.advance(601)
        self.assertTrue(client.closed)

    def test_new_output(self):
        """Unread octets are compared with those since the last command only."""
        unread = iter([5, 9, 8])
        self.patch(idle, "unread_octets", lambda transport: next(unread))
        ann = self.logged_in()
        ann.clock.advance(601)
        ann.send(b"LIST\r\n")
        for _ in range(2):
            ann.clock.advance(601)
            self.assertFalse(ann.closed)

    def test_store_waits(self):
        """The timer runs while a command waits; the maildrop is released afterwards."""
        self.store.slow = {"open"}
        ann = self.logged_in()
        ann.send(b"RETR 1\r\nNOOP\r\n")
        self.assertEqual(ann.transport.producerState, "paused")
        ann.clock.advance(601)
        # Over TLS, the end must be read.
        self.assertEqual((ann.closed, ann.transport.producerState), (True, "producing"))
        ann.lose()
        self.assertEqual(self.store.released, 0)
        self.store.waiting["open"].callback(None)
        self.assert_released()

    def retrieve(self, body):
        """Return a client that retrieves a message whose chunks are in this body."""
        self.store.deliver(b"ann", b"x\n" * 100_000)
        ann = self.logged_in()

        async def opened(message):
            return body

        ann.server.session.mailbox.open = opened
        ann.send(b"RETR 3\r\n")
        return ann

    def test_slow_store(self):
        """A client that accepts a body as fast as its store reads it stays connected."""
        late = [Deferred() for _ in range(5)]
        ann = self.retrieve([b"x\n" * 50_000, *late])
        for each in late:
            ann.clock.advance(599)
            self.assertFalse(ann.closed)
            each.callback(b"x\n" * 10_000)
            self.assertEqual(len(ann.received()) // 30_000, 1)
        ann.clock.advance(599)
        self.assertFalse(ann.closed)
        ann.clock.advance(1)
        self.assertTrue(ann.closed)

    def test_silent_store(self):
        """A body of which nothing more comes ends with the timer, at its second expiry at last."""
        for first, expiries in ((b"", 1), (b"x\n" * 50_000, 2)):
            body = [first, Deferred()]
            ann = self.retrieve(body)
            ann.clock.pump([599, 1, 599][: 2 * expiries - 1])
            self.assertFalse(ann.closed)
            ann.clock.advance(1)
            self.assertTrue(ann.closed)
            ann.lose()
            body[1].callback(b"")

    def test_stalled_reader_of_slow_store(self):
        """Octets that wait in the buffers of a client that reads nothing count as not accepted."""
        late = [Deferred() for _ in range(4)]
        ann = self.retrieve([b"x\n" * 50_000, *late])
        self.patch(idle, "unread_octets", lambda transport: len(transport.value()))
        for each, is_closed in zip(late, (False, True, True, True), strict=True):
            ann.clock.advance(601)
            self.assertEqual(ann.closed, is_closed)
            each.callback(b"x\n" * 10_000)
        self.assertTrue(ann.transport.aborted)

    def test_end_of_body(self):
        """The last octets of a body may be accepted slowly."""
        late, unread = Deferred(), iter([0, 9, 8, 8, 8])
        self.patch(idle, "unread_octets", lambda transport: next(unread))
        ann = self.retrieve([b"x\n" * 50_000, late])
        ann.clock.advance(601)
        self.fill(ann)
        late.callback(b"x\n" * 50_000)
        for is_closed in (False, False, True):
            ann.clock.advance(601)
            self.assertEqual(ann.closed, is_closed)

    def test_slow_command(self):
        """After a command for which the client has waited, it has the whole time again."""
        self.store.slow = {"login"}
        ann = self.connect(b"USER ann", b"PASS pw")
        ann.clock.advance(595)
        self.store.waiting["login"].callback(None)
        ann.clock.advance(599)
        self.assertFalse(ann.closed)
        ann.clock.advance(1)
        self.assertTrue(ann.closed)

    def test_configured(self):
        """The timeout is that of the factory."""
        self.factory = self.make_factory(idle_timeout=5)
        ann = self.logged_in()
        ann.clock.advance(6)
        self.assertTrue(ann.closed)
