"""AUTH in packets of any size, and with long lines."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.cred.credentials import IUsernamePassword

from popserv.core.grammar import MAX_SASL_LINE
from popserv.interfaces import ITokenCredentials
from tests.commands.harness import (
    CANCELLED,
    Checker,
    CommandTestCase,
    accept_all,
    response_line,
)
from tests.commands.sasl_harness import EMPTY, NOT_AVAILABLE, PLAIN, TOO_LONG, WELCOME


class PacketTests(CommandTestCase):
    """The division into packets does not matter."""

    EXCHANGE = b"AUTH LOGIN\r\nYW5u\r\ncHc=\r\nSTAT\r\n"
    REPLIES = b"+ VXNlcm5hbWU6\r\n+ UGFzc3dvcmQ6\r\n" + WELCOME + b"+OK 2 10\r\n"

    def test_pipelined(self):
        """A complete exchange may arrive in one packet with later commands."""
        self.assertEqual(self.connect().send(self.EXCHANGE), self.REPLIES)

    def test_one_turn(self):
        """An exchange that has arrived needs no turn of the reactor."""
        client = self.connect()
        client.server.dataReceived(self.EXCHANGE)
        self.assertEqual(client.received(), self.REPLIES)

    def test_every_split(self):
        """An exchange may be divided anywhere."""
        for at in range(len(self.EXCHANGE)):
            client = self.connect()
            replies = client.send(self.EXCHANGE[:at]) + client.send(self.EXCHANGE[at:])
            self.assertEqual(replies, self.REPLIES)
            client.lose()

    def test_single_octets(self):
        """An exchange may arrive in packets of one octet."""
        client = self.connect()
        replies = b"".join(client.send(bytes([octet])) for octet in self.EXCHANGE)
        self.assertEqual(replies, self.REPLIES)

    def test_pipelined_during_login(self):
        """Lines that arrive during a login are processed after it."""
        self.store.slow = {"login"}
        client = self.connect()
        client.send(b"AUTH LOGIN\r\nYW5u\r\ncHc=\r\nRETR 1\r\n")
        self.assertEqual(client.transport.producerState, "paused")
        self.assertEqual(client.send(b"NOOP\r\n"), b"")
        self.store.waiting["login"].callback(None)
        replies = client.received()
        self.assertTrue(replies.startswith(WELCOME + b"+OK 5 octets\r\none\r\n.\r\n+OK"), replies)

    def test_many(self):
        """Other sessions are served between many pipelined exchanges."""
        client = self.connect()
        client.server.MAX_BAD_COMMANDS = 1000
        exchange = b"AUTH LOGIN\r\nYW5u\r\n*\r\n"
        client.server.dataReceived(exchange * 100 + b"AUTH PLAIN " + response_line(PLAIN))
        replies = client.received()
        self.assertLess(replies.count(CANCELLED), 20)
        client.clock.advance(0)
        replies += client.received()
        self.assertEqual(replies.count(CANCELLED), 100)
        self.assertTrue(replies.endswith(WELCOME))

    def test_client_does_not_read(self):
        """While the client does not read a challenge, its response is not processed."""
        client = self.connect()
        write = client.transport.write

        def full(octets):
            write(octets)
            client.server.pauseProducing()

        client.transport.write = full
        client.server.pauseProducing()
        replies = b""
        for line in self.EXCHANGE.splitlines(keepends=True):
            self.assertEqual(client.send(line), b"")
            client.server.resumeProducing()
            replies += client.received()
        self.assertEqual(replies, self.REPLIES)


class LongLineTests(CommandTestCase):
    """Responses of up to 64 KiB, and lines that are too long."""

    def setUp(self):
        """Accept any token."""
        super().setUp()
        self.checker = Checker(accept_all, ITokenCredentials, IUsernamePassword)
        self.serve(self.checker)

    def test_large_token(self):
        """A token of 64 KiB may be in the AUTH line or in a response."""
        token = b"x" * (1 << 16)
        response = response_line(b"n,a=ann,\1auth=Bearer " + token + b"\1\1")
        for octets in (
            b"AUTH OAUTHBEARER " + response,
            b"auth oauthbearer " + response,
            b"AUTH OAUTHBEARER\r\n" + response,
        ):
            octets += b"STAT\r\n"
            for size in (997, 1024, 1025, 1026, 1460, 16384, 65536, len(octets)):
                client = self.connect()
                replies = b"".join(
                    client.send(octets[at : at + size]) for at in range(0, len(octets), size)
                )
                self.assertEqual(replies.removeprefix(EMPTY), WELCOME + b"+OK 2 10\r\n")
                self.assertEqual(self.checker.seen.pop().token, token)
                client.lose()

    def test_single_octets(self):
        """A long AUTH line may arrive in packets of one octet."""
        octets = b"AUTH PLAIN " + response_line(b"\0ann\0" + b"x" * 1500) + b"STAT\r\n"
        client = self.connect()
        replies = b"".join(client.send(octets[at : at + 1]) for at in range(len(octets)))
        self.assertEqual(replies, WELCOME + b"+OK 2 10\r\n")

    @given(st.lists(st.integers(1, 3000), max_size=9), st.integers(0, 9000), st.booleans())
    def test_any_packets(self, sizes, length, in_one_line):
        """The division into packets does not matter for long lines."""
        between = b" " if in_one_line else b"\r\n"
        octets = b"AUTH PLAIN" + between + response_line(b"\0ann\0x" + b"x" * length) + b"STAT\r\n"
        client = self.connect()
        replies = b""
        for size in [*sizes, len(octets)]:
            packet, octets = octets[:size], octets[size:]
            replies += client.send(packet) if packet else b""
        self.assertEqual(replies.removeprefix(EMPTY), WELCOME + b"+OK 2 10\r\n")
        client.lose()

    def test_longest(self):
        """A line of MAX_SASL_LINE octets is accepted, a longer one is not."""
        for start, more in [
            (b"AUTH X ", 0),
            (b"AUTH PLAIN\r\n", 0),
            (b"AUTH X ", 1),
            (b"AUTH PLAIN\r\n", 1),
        ]:
            line = start.split(b"\r\n")[-1]
            octets = start + b"A" * (MAX_SASL_LINE - len(line) + more) + b"\r\n"
            for size in (len(octets), 1460):
                client = self.connect()
                replies = b"".join(
                    client.send(octets[at : at + size]) for at in range(0, len(octets), size)
                )
                self.assertEqual(replies.endswith(TOO_LONG), bool(more), (start, more, replies))
                self.assertEqual(client.closed, bool(more))

    def test_without_end(self):
        """A line without an end gets one reply, and is not stored."""
        for start in (b"AUTH PLAIN ", b"AUTH PLAIN\r\n"):
            client = self.connect()
            replies = client.send(start)
            for _ in range(100):
                replies += client.send(b"A" * 4096)
            self.assertEqual(replies.removeprefix(EMPTY), TOO_LONG)
            self.assertTrue(client.closed)
            self.assertEqual(client.server.clearLineBuffer(), b"")
            client.lose()
            self.assertEqual(self.checker.seen, [])

    def test_other_lines(self):
        """Lines other than AUTH are limited to 1024 octets."""
        for start in (b"", b"AUTH", b"AUTHOR ", b" AUTH ", b"APOP ", b"NOOP\r\nAUTHX "):
            octets = start + b"A" * (1026 - len(start.split(b"\r\n")[-1]))
            client = self.connect()
            self.assertTrue(client.send(octets).endswith(TOO_LONG), start)
            self.assertTrue(client.closed)

    def test_limit_after_auth(self):
        """After a long AUTH line or an exchange, other lines are limited as before."""
        for lines in (
            [b"AUTH X " + b"A" * 5000],
            [b"AUTH PLAIN", b"*"],
            [b"AUTH PLAIN", b"A" * 5000],
        ):
            client = self.connect(*lines)
            self.assertFalse(client.closed)
            self.assertEqual(client.send(b"NOOP " + b"A" * 1100), TOO_LONG)

    def test_two_long_lines(self):
        """Each of several long lines in one packet is checked."""
        long_auth = b"AUTH X " + b"A" * 5000 + b"\r\n"
        self.assertEqual(self.connect().send(long_auth * 3), NOT_AVAILABLE * 3)
        self.assertEqual(self.connect().send(long_auth + b"A" * 5000), NOT_AVAILABLE + TOO_LONG)
