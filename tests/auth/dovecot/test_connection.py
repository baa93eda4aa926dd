"""Tests of popserv.auth.dovecot.connection."""

import secrets

from twisted.internet.defer import Deferred

from popserv.auth.dovecot.connection import (
    HANDSHAKE_TIMEOUT,
    MAX_MECHANISMS,
    ConnectionFailed,
    NoReply,
)
from popserv.core.connection_details import ConnectionDetails
from tests.auth.dovecot.harness import HANDSHAKE, DovecotCase, Side

NOTHING = ConnectionDetails()


class HandshakeTests(DovecotCase):
    """What Dovecot says about itself."""

    def test_mechanisms(self):
        """MECH names a mechanism and its flags."""
        side = self.connect()
        self.assertEqual(
            side.protocol.mechanisms,
            {b"PLAIN": frozenset([b"plaintext"]), b"SCRAM-SHA-256": frozenset([b"mutual-auth"])},
        )

    def test_pieces(self):
        """Lines may arrive in pieces of any size."""
        side = self.connect(b"")
        for octet in HANDSHAKE:
            self.assertIsNone(self.client.current)
            side.send(bytes([octet]))
        self.assertIs(self.client.current, side.protocol)

    def test_unknown(self):
        """Unknown commands are ignored, before and after the handshake."""
        side = self.connect(
            b"VERSION\t1\t9\t\nFUTURE\tx\nMECH\n\n" + HANDSHAKE + b"FUTURE\nMECH\tX\n"
        )
        self.assertNotIn(b"X", side.protocol.mechanisms)
        self.assertIs(self.client.current, side.protocol)

    def test_refused(self):
        """A server that speaks another protocol is not used."""
        for octets in (
            b"VERSION\t2\t0\n" + HANDSHAKE,
            b"VERSION\n",
            b"+OK Dovecot ready.\n",
            b"DONE\n",
            b"VERSION\t1\t1\nSPID\n",
            b"VERSION\t1\t1\nCUID\tx\nDONE\n",
            b"OK\tx\n",
            b"x" * ((1 << 16) + 1),
        ):
            side = self.connect(octets)
            self.assertTrue(side.transport.is_aborted, octets[:30])
            self.assertIsNone(self.client.current)
            self.assertIn("cannot connect to Dovecot: ", self.log_lines()[-1])
            # That of the next attempt.
            self.assertEqual(len(self.reactor.getDelayedCalls()), 1)
            self.setUp()

    def test_flood(self):
        """Megabytes of lines are not kept."""
        mechanisms = b"".join(b"MECH\tX%d\n" % number for number in range(100_000))
        side = self.connect(b"VERSION\t1\t1\n" + mechanisms + b"DONE\n")
        self.assertEqual(len(side.protocol.mechanisms), MAX_MECHANISMS)

    def test_process_id(self):
        """The process ID is a random number, any that Dovecot accepts."""
        for chosen, number in ((0, 1), (-1, 0x7FFFFFFF)):
            self.setUp()
            self.patch(secrets, "randbelow", lambda end, chosen=chosen: range(end)[chosen])
            self.client.start()
            _, factory, *_ = self.reactor.unixClients[-1]
            self.assertEqual(Side(factory).received()[1], b"CPID\t%d" % number)

    def test_silence(self):
        """Without a handshake the connection is closed, and the log names the right socket."""
        side = self.connect(b"VERSION\t1\t1\nSPID\t5\n")
        self.reactor.advance(HANDSHAKE_TIMEOUT)
        self.assertTrue(side.transport.is_aborted)
        self.assertIn("use the socket auth-client", self.log_lines()[-1])

    def test_after_lie(self):
        """Nothing is believed that follows a line which is refused."""
        side = self.connect()
        asked = Deferred.fromCoroutine(side.protocol.begin(b"PLAIN", NOTHING, b""))
        # As with a socket, whose connection is lost in a later turn of the reactor.
        self.patch(side.transport, "abortConnection", lambda: None)
        side.send(b"OK\n")
        side.send(b"OK\t1\tuser=ann\n")
        self.assertNoResult(asked)
        self.fails_with(
            Deferred.fromCoroutine(side.protocol.begin(b"PLAIN", NOTHING, b"")), ConnectionFailed
        )
        side.protocol.connectionLost()
        self.fails_with(asked, ConnectionFailed)


class RequestTests(DovecotCase):
    """Requests and replies."""

    def setUp(self):
        """Connect."""
        super().setUp()
        self.side = self.connect()
        self.connection = self.side.protocol

    def begin(self):
        """Begin a request."""
        return Deferred.fromCoroutine(self.connection.begin(b"PLAIN", NOTHING, b"x"))

    def test_order(self):
        """Requests run side by side, and each gets the reply with its number."""
        first, second = self.begin(), self.begin()
        self.assertEqual(self.connection.unanswered, 2)
        numbers = [line.split(b"\t")[1] for line in self.side.received()]
        self.assertEqual(numbers, [b"1", b"2"])
        self.side.send(b"OK\t2\tuser=bob\nFAIL\t1\tuser=ann\n")
        number, reply = self.successResultOf(first)
        self.assertEqual((number, reply.kind, reply.fields), (1, b"FAIL", {b"user": b"ann"}))
        number, reply = self.successResultOf(second)
        self.assertEqual((number, reply.kind, reply.fields), (2, b"OK", {b"user": b"bob"}))
        self.assertEqual(self.connection.unanswered, 0)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_unknown_number(self):
        """A reply without a request, or a second one, is ignored."""
        asked = self.begin()
        self.side.send(b"OK\t9\tuser=eve\n")
        self.assertNoResult(asked)
        self.side.send(b"FAIL\t1\nOK\t1\tuser=eve\nCONT\t1\t\n")
        self.assertEqual(self.successResultOf(asked)[1].kind, b"FAIL")
        later = self.begin()
        self.assertNoResult(later)
        self.side.send(b"OK\t2\tuser=ann\n")
        self.assertEqual(self.successResultOf(later)[1].fields, {b"user": b"ann"})

    def test_conversation(self):
        """A response has the number of its request."""
        self.begin()
        self.side.received()
        self.side.send(b"CONT\t1\tYWJj\n")
        answered = Deferred.fromCoroutine(self.connection.respond(1, b"response"))
        self.assertEqual(self.side.received(), [b"CONT\t1\tcmVzcG9uc2U="])
        self.side.send(b"OK\t1\tuser=ann\n")
        self.assertEqual(self.successResultOf(answered).kind, b"OK")

    def test_long(self):
        """A reply may have 65,536 octets."""
        asked = self.begin()
        start = b"OK\t1\tuser=ann\tx="
        self.side.send(start.ljust(65_536, b"x") + b"\n")
        self.assertEqual(len(self.successResultOf(asked)[1].fields[b"x"]), 65_536 - len(start))

    def test_numbers(self):
        """The numbers begin again after the greatest that Dovecot accepts."""
        self.connection._last_request = 0x7FFFFFFE
        self.begin()
        self.begin()
        numbers = [line.split(b"\t")[1] for line in self.side.received()]
        self.assertEqual(numbers, [b"2147483647", b"1"])

    def test_cancel(self):
        """CANCEL is sent, unless the connection is lost."""
        self.connection.cancel(4)
        self.assertEqual(self.side.received(), [b"CANCEL\t4"])
        self.side.close()
        self.connection.cancel(5)
        self.assertEqual(self.side.received(), [])

    def test_late(self):
        """A request without a reply fails; others go on while Dovecot sends something."""
        late = self.begin()
        self.reactor.advance(30)
        other = self.begin()
        self.side.received()
        self.side.send(b"FUTURE\n")
        self.reactor.advance(30)
        self.fails_with(late, NoReply)
        self.assertEqual(self.side.received(), [b"CANCEL\t1"])
        self.assertNoResult(other)
        self.side.send(b"OK\t1\tuser=eve\nOK\t2\tuser=ann\n")
        self.assertEqual(self.successResultOf(other)[1].fields, {b"user": b"ann"})

    def test_stalled(self):
        """If Dovecot sends nothing at all in 60 seconds, the connection is given up."""
        late = self.begin()
        self.reactor.advance(1)
        other = self.begin()
        self.reactor.advance(58.5)
        self.assertNoResult(late)
        self.reactor.advance(0.5)
        self.fails_with(late, NoReply)
        self.assertIn("sent nothing", str(self.fails_with(other, ConnectionFailed)))
        self.assertTrue(self.side.transport.is_aborted)

    def test_lost(self):
        """If the connection is lost, its requests fail, and later ones as well."""
        asked = self.begin()
        self.side.close()
        self.assertIn("closed", str(self.fails_with(asked, ConnectionFailed)))
        self.fails_with(self.begin(), ConnectionFailed)
