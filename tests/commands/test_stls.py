"""STLS: everything before it is discarded, and everything after it is TLS (RFC 2595 section 4)."""

from hypothesis import given
from hypothesis import strategies as st

from popserv.messages.downgrade.downgrader import Downgrader
from tests.commands.harness import (
    BEGIN_TLS,
    LOCAL_PEER,
    NO_TLS,
    REMOTE_PEER,
    CommandTestCase,
)


class STLSTests(CommandTestCase):
    """The server's side of STLS, with simulated TLS."""

    def setUp(self):
        """Serve with TLS."""
        super().setUp()
        self.tls = object()
        self.serve(tls=self.tls)

    def test_stls(self):
        """The reply to STLS is cleartext; after it TLS starts, and there is no second greeting."""
        client = self.connect(peer=REMOTE_PEER)
        self.assertEqual(client.send(b"stls\r\n"), BEGIN_TLS)
        self.assertEqual(client.transport.contexts, [self.tls])
        client.server.handshakeCompleted()
        self.assertEqual(client.received(), b"", "no second greeting (section 4)")
        self.assertIn(b"maildrop has 2", client.send(b"USER ann\r\nPASS pw\r\n"))

    def test_pipelined(self):
        """The replies to all commands of the packet with STLS are sent before TLS starts."""
        client = self.connect()
        client.send(b"USER ann\r\nSTLS\r\n")
        self.assertEqual(client.transport.before_tls, b"+OK send PASS\r\n" + BEGIN_TLS)

    def test_no_argument(self):
        """STLS has no argument (section 4)."""
        client = self.connect()
        self.assertEqual(client.send(b"STLS now\r\n"), b"-ERR no argument allowed\r\n")
        self.assertEqual(client.transport.contexts, [])

    def test_over_tls(self):
        """Over TLS there is no STLS."""
        client = self.connect()
        client.start_tls()
        self.assertEqual(client.send(b"STLS\r\n"), NO_TLS)
        self.assertEqual(self.connect(tls=True).send(b"STLS\r\n"), NO_TLS)

    def test_after_login(self):
        """STLS is available in the AUTHORIZATION state only (section 4)."""
        client = self.connect(b"USER ann", b"PASS pw")
        self.assertEqual(client.send(b"STLS\r\n"), b"-ERR already logged in\r\n")
        self.assertEqual(client.transport.contexts, [])

    def test_no_certificate(self):
        """A server without a certificate has no STLS."""
        self.serve()
        self.assertEqual(self.connect().send(b"STLS\r\n"), NO_TLS)

    def test_user_is_discarded(self):
        """The name in an earlier USER is discarded (section 7)."""
        client = self.connect(b"USER ann")
        client.start_tls()
        self.assertEqual(client.send(b"PASS pw\r\n"), b"-ERR send USER first\r\n")

    def test_modes_are_discarded(self):
        """The language and UTF8 are discarded."""
        self.serve(tls=object(), downgrader=Downgrader)
        client = self.connect(b"LANG de", b"UTF8")
        self.assertEqual(client.send(b"NOOP\r\n"), b"-ERR zuerst anmelden\r\n")
        self.assertTrue(client.server.session.as_stored)
        client.start_tls()
        self.assertEqual(client.send(b"NOOP\r\n"), b"-ERR log in first\r\n")
        self.assertFalse(client.server.session.as_stored)

    def test_timestamp_stays(self):
        """The timestamp of APOP is still that of the greeting."""
        self.factory.apop_available = lambda: True
        client = self.connect()
        timestamp = client.server.session.timestamp
        self.assertIn(timestamp, client.greeting)
        client.start_tls()
        self.assertEqual(client.server.session.timestamp, timestamp)

    def test_failed_logins_count(self):
        """Failed logins before and after STLS are counted together."""
        client = self.connect()
        for _ in range(2):
            client.send_and_wait(b"USER ann\r\nPASS no\r\n")
        client.start_tls()
        client.send_and_wait(b"USER ann\r\nPASS no\r\n")
        self.assertTrue(client.closed)

    def test_incomplete_line(self):
        """Cleartext after STLS is discarded, including an incomplete line (section 7)."""
        client = self.connect()
        self.assertEqual(client.send(b"STLS\r\nUSER ann\r\nCAPA\r\nNO"), BEGIN_TLS)
        client.server.handshakeCompleted()
        self.assertEqual(client.received(), b"")
        self.assertEqual(client.send(b"OP\r\n"), b"-ERR unknown command\r\n")
        self.assertEqual(client.send(b"PASS pw\r\n"), b"-ERR send USER first\r\n")

    def test_long_line(self):
        """Long cleartext after STLS is discarded."""
        for more in (b"x" * 5000, b"AUTH PLAIN " + b"A" * 5000, b"x" * 200_000):
            client = self.connect()
            self.assertEqual(client.send(b"STLS\r\n" + more), BEGIN_TLS)
            client.server.handshakeCompleted()
            self.assertEqual(client.send(b"NOOP\r\n"), b"-ERR log in first\r\n")

    def test_every_split(self):
        """Cleartext after STLS in the same packet is discarded, however the packets are divided."""
        octets = b"USER ann\r\nSTLS\r\nCAPA\r\nUSER ann\r\nPASS pw\r\n"
        for at in range(octets.index(b"STLS") + 6):
            client = self.connect(peer=LOCAL_PEER)
            replies = client.send(octets[:at]) + client.send(octets[at:])
            self.assertEqual(replies, b"+OK send PASS\r\n" + BEGIN_TLS)
            client.server.handshakeCompleted()
            self.assertEqual(client.received(), b"")
            self.assertEqual(client.send(b"PASS pw\r\n"), b"-ERR send USER first\r\n")

    @given(st.integers(0, 120), st.integers(0, 120))
    def test_pipelining(self, before, after):
        """STLS works among any number of pipelined commands."""
        client = self.connect()
        replies = client.send(b"LANG en\r\n" * before + b"STLS\r\n" + b"CAPA\r\n" * after)
        for _ in range(5):
            client.clock.advance(0)
            replies += client.received()
        self.assertEqual(replies, b"+OK en language changed\r\n" * before + BEGIN_TLS)
        client.server.handshakeCompleted()
        self.assertEqual(client.send(b"NOOP\r\n"), b"-ERR log in first\r\n")

    def test_producer(self):
        """The producer is unregistered during the handshake, which it would otherwise pause."""
        client = self.connect()
        client.send(b"STLS\r\n")
        self.assertIsNone(client.transport.producer)
        client.server.handshakeCompleted()
        self.assertIs(client.transport.producer, client.server)

    def test_full_output(self):
        """If the client has not read earlier replies, the handshake is still read."""
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

    def test_idle_in_handshake(self):
        """The idle timer closes a connection whose handshake does not end."""
        client = self.connect(b"STLS")
        client.clock.advance(601)
        self.assertTrue(client.closed)
        client.server.handshakeCompleted()
        self.assertIsNone(client.transport.producer)

    def test_lost_in_handshake(self):
        """If the connection is lost during the handshake, no timers are left."""
        client = self.connect(b"STLS")
        client.lose()
        self.assertEqual(list(self.factory.connections), [])
        self.assertEqual(client.clock.getDelayedCalls(), [])
        self.assert_released(0)
