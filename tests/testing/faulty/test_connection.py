"""Tests of popserv.testing.faulty.connection."""

from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from popserv.server.protocol import POP3Server
from popserv.testing import Faults, MemoryClient, MemoryTransport
from popserv.testing.faulty.connection import FaultyWriter
from popserv.testing.faulty.faults import ActiveFaults
from tests.testing.faulty.harness import GREETING, LOGIN, FaultyServerTestCase


class FaultyConnectionTests(FaultyServerTestCase):
    """The transcript and the faults of the network."""

    def test_transcript(self):
        """The transcript has the lines of all connections, with the number of the connection."""
        first = self.connect()
        second = MemoryClient(self.factory)
        first.send(b"noop\nNOOP\r\n")
        second.send(b"QUIT\r\n")
        lines = [(line.connection, str(line)) for line in self.factory.transcript.lines()]
        self.assertEqual(
            lines,
            [
                (1, "S: +OK POP3 server ready"),
                (2, "S: +OK POP3 server ready"),
                (1, "C: noop"),
                (1, "S: -ERR log in first"),
                (1, "C: NOOP"),
                (1, "S: -ERR log in first"),
                (2, "C: QUIT"),
                (2, "S: +OK localhost POP3 server signing off"),
            ],
        )

    def test_greeting_delay(self):
        """The greeting is late, and nothing is answered before it."""
        client = self.connect(greeting_delay=5)
        self.assertEqual(client.send(b"QUIT\r\n"), b"")
        client.clock.advance(4.9)
        self.assertEqual(client.received(), b"")
        client.clock.advance(0.1)
        replies = client.received()
        self.assertTrue(replies.startswith(GREETING + b"+OK localhost"))
        self.assertTrue(client.closed)

    def test_reply_delay(self):
        """Each reply is late, and pipelined commands are delayed one after the other."""
        client = self.connect(reply_delay=2)
        self.assertEqual(client.received(), GREETING)
        self.assertEqual(client.send(LOGIN + b"STAT\r\nRETR 1\r\nQUIT\r\n"), b"")
        for expected in (b"+OK send", b"+OK ann's", b"+OK 2 39", b"+OK 19 octets", b"+OK local"):
            client.clock.advance(1.9)
            self.assertEqual(client.received(), b"")
            client.clock.advance(0.1)
            client.clock.advance(0)
            reply = client.received()
            self.assertTrue(reply.startswith(expected), repr(reply))
        self.assertTrue(client.closed)

    def test_lost_while_delayed(self):
        """A connection that is lost during a delay does nothing more, and its lock is released."""
        client = self.log_in()
        self.faults.set(Faults(reply_delay=2))
        client.send(b"DELE 1\r\n")
        client.lose()
        self.assertEqual(client.clock.getDelayedCalls(), [])
        self.assertEqual(self.factory.open, set())
        self.assertEqual(self.maildrops.locked, set())

    def test_resumed_while_delayed(self):
        """A transport that resumes its producer does not end a delay."""
        client = self.connect(reply_delay=2)
        client.received()
        client.send(b"USER ann\r\nUSER ann\r\n")
        client.server.resumeProducing()
        self.assertEqual(client.received(), b"")
        client.clock.advance(2)
        self.assertEqual(client.received(), b"+OK send PASS\r\n")

    def test_octets_per_second(self):
        """Output is sent in pieces, ten a second, and the connection is closed after the last."""
        client = self.connect(octets_per_second=50)
        self.assertEqual(client.received(), GREETING[:5])
        sent = b""
        client.send(b"QUIT\r\nQUIT\r\n")
        while not client.closed:
            client.clock.advance(0.1)
            piece = client.received()
            self.assertLessEqual(len(piece), 5)
            sent += piece
        reply = b"+OK localhost POP3 server signing off\r\n"
        self.assertEqual(GREETING[5:] + reply, sent)

    def test_speed_restored(self):
        """Without the fault, all that is left is sent in one piece, and later replies at once."""
        client = self.connect(octets_per_second=1)
        self.assertEqual(client.received(), b"+")
        self.faults.set(Faults())
        client.clock.advance(1)
        self.assertEqual(client.received(), GREETING[1:])
        self.assertEqual(client.send(b"USER ann\r\n"), b"+OK send PASS\r\n")

    def test_lost_while_sending(self):
        """A connection that is lost while it sends slowly sends nothing more."""
        client = self.connect(octets_per_second=10)
        client.lose()
        self.assertEqual(client.clock.getDelayedCalls(), [])

    def test_drop_after(self):
        """The connection is closed after so many octets; later commands are not carried out."""
        client = self.log_in(drop_after=150)
        before = len(GREETING) + 15 + len(b"+OK ann's maildrop has 2 messages (39 octets)\r\n")
        client.server.dataReceived(b"RETR 1\r\nRETR 1\r\nDELE 1\r\nQUIT\r\n")
        client.clock.advance(0)
        self.assertEqual(len(client.received()) + before, 150)
        self.assertTrue(client.closed)
        client.send(b"STAT\r\n")
        self.assertEqual(client.received(), b"")
        client.lose()
        self.assertEqual(len(self.maildrops.stored[b"ann"]), 2)

    def test_drop_at_once(self):
        """With drop_after=0 there is no greeting; with the octets of the greeting it is whole."""
        for octets in (0, 1, len(GREETING)):
            client = self.connect(drop_after=octets)
            client.clock.advance(0)
            self.assertEqual(client.received(), GREETING[:octets])
            self.assertTrue(client.closed)

    def test_drop_set_later(self):
        """If more was sent already, the next reply is dropped whole."""
        client = self.connect()
        self.assertEqual(client.received(), GREETING)
        self.faults.set(Faults(drop_after=3))
        client.send(b"USER ann\r\n")
        self.assertEqual(client.received(), b"")
        self.assertTrue(client.closed)
        self.assertEqual(str(self.factory.transcript.lines()[-1]), "C: USER ann")

    def test_starts_tls_after_reply(self):
        """STLS starts TLS when its reply is sent, however slowly."""
        client = self.connect(octets_per_second=100)
        with patch.object(POP3Server, "upgrade_to_tls") as upgrade:
            client.server.upgrade_to_tls()
            self.assertFalse(upgrade.called)
            client.clock.pump([0.1, 0.1, 0.1])
            self.assertTrue(upgrade.called)

    def test_failed_login(self):
        """The reply to a failed login is not delayed, and the third one is the last."""
        client = self.connect()
        for _ in range(3):
            self.assertIn(b"-ERR [AUTH]", client.send(b"USER ann\r\nPASS wrong\r\n"))
        self.assertTrue(client.closed)

    def test_peers(self):
        """The factory knows its open connections, and the names of all clients in the log."""
        client = self.connect()
        self.assertEqual(self.factory.open, {client.server})
        client.lose()
        self.assertEqual(self.factory.open, set())
        self.assertEqual(self.factory.peers, {"127.0.0.1:54321"})


class FaultyWriterTests(SynchronousTestCase):
    """The writer sends exactly what its faults allow."""

    @given(
        st.lists(st.binary(max_size=20)),
        st.none() | st.integers(0, 60),
        st.none() | st.integers(1, 100),
    )
    def test_octets(self, writes, limit, rate):
        """Whatever the pieces and the speed, the octets up to the limit are sent and recorded."""
        clock, transport, recorded, drops = Clock(), MemoryTransport(), [], []
        faults = ActiveFaults(Faults(drop_after=limit, octets_per_second=rate))
        writer = FaultyWriter(
            transport, clock.callLater, faults, recorded.append, lambda: drops.append(1)
        )
        for octets in writes:
            writer.write(octets)
            clock.advance(0.1)
        while clock.getDelayedCalls():
            clock.advance(10)
        expected = b"".join(writes)
        self.assertEqual(transport.value(), expected[:limit])
        self.assertEqual(b"".join(recorded), expected[:limit])
        is_dropped = bool(writes) and limit is not None and len(expected) >= limit
        self.assertEqual((writer.is_dropped, len(drops)), (is_dropped, int(is_dropped)))
