"""STLS: what came before it is nothing, and what comes behind it is TLS (RFC 2595 section 4)."""

from hypothesis import given
from hypothesis import strategies as st

from tests.commands.harness import (
    BEGIN_TLS,
    HERE,
    NO_TLS,
    STRANGER,
    ServerCase,
)


class STLSTests(ServerCase):
    """The server's end of it, over TLS that is none."""

    def setUp(self):
        """Make TLS possible."""
        super().setUp()
        self.tls = object()
        self.serve(tls=self.tls)

    def test_begins(self):
        """STLS is answered in the clear, then TLS begins with what the server has for it."""
        client = self.connect(peer=STRANGER)
        self.assertEqual(client.send(b"stls\r\n"), BEGIN_TLS)
        self.assertEqual(client.transport.contexts, [self.tls])
        client.server.handshakeCompleted()
        self.assertEqual(client.received(), b"", "no second greeting (section 4)")
        self.assertIn(b"maildrop has 2", client.send(b"USER ann\r\nPASS pw\r\n"))

    def test_no_argument(self):
        """STLS takes no argument (section 4)."""
        client = self.connect()
        self.assertEqual(client.send(b"STLS now\r\n"), b"-ERR no argument allowed\r\n")
        self.assertEqual(client.transport.contexts, [])

    def test_only_once(self):
        """Over TLS, by STLS or from the first octet on, there is no STLS."""
        client = self.connect()
        client.starttls()
        self.assertEqual(client.send(b"STLS\r\n"), NO_TLS)
        self.assertEqual(self.connect(tls=True).send(b"STLS\r\n"), NO_TLS)

    def test_not_after_login(self):
        """STLS is for the AUTHORIZATION state alone (section 4)."""
        client = self.connect(b"USER ann", b"PASS pw")
        self.assertEqual(client.send(b"STLS\r\n"), b"-ERR already logged in\r\n")
        self.assertEqual(client.transport.contexts, [])

    def test_no_certificate(self):
        """A server without a certificate has no STLS."""
        self.serve()
        self.assertEqual(self.connect().send(b"STLS\r\n"), NO_TLS)

    def test_name_is_forgotten(self):
        """What USER said before STLS, anybody may have said (section 7)."""
        client = self.connect(b"USER ann")
        client.starttls()
        self.assertEqual(client.send(b"PASS pw\r\n"), b"-ERR send USER first\r\n")

    def test_modes_are_forgotten(self):
        """So are the language, and UTF8."""
        client = self.connect(b"LANG de", b"UTF8")
        self.assertEqual(client.send(b"NOOP\r\n"), b"-ERR zuerst anmelden\r\n")
        self.assertTrue(client.server.session.as_stored)
        client.starttls()
        self.assertEqual(client.send(b"NOOP\r\n"), b"-ERR log in first\r\n")
        self.assertFalse(client.server.session.as_stored)

    def test_timestamp_stays(self):
        """There is no second greeting, so APOP's timestamp stays that of the first."""
        self.factory.apop_available = lambda: True
        client = self.connect()
        timestamp = client.server.session.timestamp
        self.assertIn(timestamp, client.greeting)
        client.starttls()
        self.assertEqual(client.server.session.timestamp, timestamp)

    def test_guesses_stay(self):
        """STLS gives nobody more guesses."""
        client = self.connect()
        for _ in range(2):
            client.late(b"USER ann\r\nPASS no\r\n")
        client.starttls()
        client.late(b"USER ann\r\nPASS no\r\n")
        self.assertTrue(client.closed)

    def test_half_a_line_is_dropped(self):
        """Octets behind STLS are no beginning of the first line over TLS (section 7)."""
        client = self.connect()
        self.assertEqual(client.send(b"STLS\r\nUSER ann\r\nCAPA\r\nNO"), BEGIN_TLS)
        client.server.handshakeCompleted()
        self.assertEqual(client.received(), b"")
        self.assertEqual(client.send(b"OP\r\n"), b"-ERR unknown command\r\n")
        self.assertEqual(client.send(b"PASS pw\r\n"), b"-ERR send USER first\r\n")

    def test_long_line_is_dropped(self):
        """So is the beginning of a line that is too long, or would be an AUTH's."""
        for more in (b"x" * 5000, b"AUTH PLAIN " + b"A" * 5000, b"x" * 200_000):
            client = self.connect()
            self.assertEqual(client.send(b"STLS\r\n" + more), BEGIN_TLS)
            client.server.handshakeCompleted()
            self.assertEqual(client.send(b"NOOP\r\n"), b"-ERR log in first\r\n")

    def test_every_split(self):
        """Wherever packets are cut, what is in the clear behind STLS is never obeyed.

        What comes in a packet of its own comes to TLS, not to the server.
        """
        octets = b"USER ann\r\nSTLS\r\nCAPA\r\nUSER ann\r\nPASS pw\r\n"
        for at in range(octets.index(b"STLS") + 6):
            client = self.connect(peer=HERE)
            said = client.send(octets[:at]) + client.send(octets[at:])
            self.assertEqual(said, b"+OK send PASS\r\n" + BEGIN_TLS)
            client.server.handshakeCompleted()
            self.assertEqual(client.received(), b"")
            self.assertEqual(client.send(b"PASS pw\r\n"), b"-ERR send USER first\r\n")

    @given(st.integers(0, 120), st.integers(0, 120))
    def test_behind_others(self, before, behind):
        """Behind however many pipelined commands, in whatever turn of theirs, it is the same."""
        client = self.connect()
        said = client.send(b"LANG en\r\n" * before + b"STLS\r\n" + b"CAPA\r\n" * behind)
        for _ in range(5):
            client.clock.advance(0)
            said += client.received()
        self.assertEqual(said, b"+OK en language changed\r\n" * before + BEGIN_TLS)
        client.server.handshakeCompleted()
        self.assertEqual(client.send(b"NOOP\r\n"), b"-ERR log in first\r\n")

    def test_producer(self):
        """TLS has no producer while it shakes hands, or it would tell it to pause; then it has."""
        client = self.connect()
        client.send(b"STLS\r\n")
        self.assertIsNone(client.transport.producer)
        client.server.handshakeCompleted()
        self.assertIs(client.transport.producer, client.server)

    def test_full_output(self):
        """A client that had not read what was sent before is listened to over TLS."""
        client = self.connect()
        write = client.transport.write

        def full(octets):
            write(octets)
            client.server.pauseProducing()

        client.transport.write = full
        self.assertEqual(client.send(b"STLS\r\n"), BEGIN_TLS)
        client.transport.write = write
        self.assertEqual(client.transport.producerState, "producing")
        client.server.handshakeCompleted()
        self.assertEqual(client.send(b"NOOP\r\n"), b"-ERR log in first\r\n")

    def test_idle_in_the_handshake(self):
        """A handshake that does not end is ended by the idle timer."""
        client = self.connect(b"STLS")
        client.clock.advance(601)
        self.assertTrue(client.closed)
        client.server.handshakeCompleted()
        self.assertIsNone(client.transport.producer)

    def test_lost_in_the_handshake(self):
        """A connection that is lost in mid-handshake leaves nothing."""
        client = self.connect(b"STLS")
        client.lose()
        self.assertEqual(list(self.factory.connections), [])
        self.assertEqual(client.clock.getDelayedCalls(), [])
        self.assertReleased(0)
