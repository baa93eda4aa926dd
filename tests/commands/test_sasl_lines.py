"""AUTH in packets of every size, and the longest lines."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.cred.credentials import IUsernamePassword

from popserv.core.grammar import MAX_SASL_LINE
from popserv.interfaces import ITokenCredentials
from tests.commands.harness import (
    CANCELLED,
    Checker,
    ServerCase,
    anybody,
    encoded,
)
from tests.commands.sasl_harness import EMPTY, NOT_OFFERED, PLAIN, TOO_LONG, WELCOME


class PacketTests(ServerCase):
    """How octets come in packets makes no difference."""

    DIALOGUE = b"AUTH LOGIN\r\nYW5u\r\ncHc=\r\nSTAT\r\n"
    ANSWER = b"+ VXNlcm5hbWU6\r\n+ UGFzc3dvcmQ6\r\n" + WELCOME + b"+OK 2 10\r\n"

    def test_pipelined(self):
        """A whole dialogue in one packet, and what follows it."""
        self.assertEqual(self.connect().send(self.DIALOGUE), self.ANSWER)

    def test_every_split(self):
        """A dialogue cut in two anywhere."""
        for at in range(len(self.DIALOGUE)):
            client = self.connect()
            answer = client.send(self.DIALOGUE[:at]) + client.send(self.DIALOGUE[at:])
            self.assertEqual(answer, self.ANSWER)
            client.lose()

    def test_octets(self):
        """A dialogue an octet at a time."""
        client = self.connect()
        answer = b"".join(client.send(bytes([octet])) for octet in self.DIALOGUE)
        self.assertEqual(answer, self.ANSWER)

    def test_pipelined_behind_a_wait(self):
        """A line that comes before it is asked for is taken when it is."""
        self.store.slow = {"login"}
        client = self.connect()
        client.send(b"AUTH LOGIN\r\nYW5u\r\ncHc=\r\nRETR 1\r\n")
        self.assertEqual(client.transport.producerState, "paused")
        self.assertEqual(client.send(b"NOOP\r\n"), b"")
        self.store.waiting["login"].callback(None)
        answer = client.received()
        self.assertTrue(answer.startswith(WELCOME + b"+OK 5 octets\r\none\r\n.\r\n+OK"), answer)

    def test_many(self):
        """However many exchanges are pipelined, others have their turn, and all are answered."""
        client = self.connect()
        client.server.MAX_BAD_COMMANDS = 1000
        exchange = b"AUTH LOGIN\r\nYW5u\r\n*\r\n"
        client.server.dataReceived(exchange * 100 + b"AUTH PLAIN " + encoded(PLAIN))
        answer = client.received()
        self.assertLess(answer.count(CANCELLED), 20)
        client.clock.advance(0)
        answer += client.received()
        self.assertEqual(answer.count(CANCELLED), 100)
        self.assertTrue(answer.endswith(WELCOME))

    def test_client_does_not_read(self):
        """A client that does not read its challenge is not listened to until it has."""
        client = self.connect()
        write = client.transport.write

        def full(octets):
            write(octets)
            client.server.pauseProducing()

        client.transport.write = full
        client.server.pauseProducing()
        answer = b""
        for line in self.DIALOGUE.splitlines(keepends=True):
            self.assertEqual(client.send(line), b"")
            client.server.resumeProducing()
            answer += client.received()
        self.assertEqual(answer, self.ANSWER)


class LongLineTests(ServerCase):
    """Tokens of 64 KiB, and the end of all lengths."""

    def setUp(self):
        """Let any token in."""
        super().setUp()
        self.checker = Checker(anybody, ITokenCredentials, IUsernamePassword)
        self.serve(self.checker)

    def test_large_token(self):
        """A token of 64 KiB goes in an AUTH line or in a response, in packets of any size."""
        token = b"x" * (1 << 16)
        response = encoded(b"n,a=ann,\1auth=Bearer " + token + b"\1\1")
        for octets in (
            b"AUTH OAUTHBEARER " + response,
            b"auth oauthbearer " + response,
            b"AUTH OAUTHBEARER\r\n" + response,
        ):
            octets += b"STAT\r\n"
            for size in (997, 1024, 1025, 1026, 1460, 16384, 65536, len(octets)):
                client = self.connect()
                answer = b"".join(
                    client.send(octets[at : at + size]) for at in range(0, len(octets), size)
                )
                self.assertEqual(answer.removeprefix(EMPTY), WELCOME + b"+OK 2 10\r\n")
                self.assertEqual(self.checker.seen.pop().token, token)
                client.lose()

    def test_an_octet_at_a_time(self):
        """The limit moves in the middle of a line, wherever the packets end."""
        octets = b"AUTH PLAIN " + encoded(b"\0ann\0" + b"x" * 1500) + b"STAT\r\n"
        client = self.connect()
        answer = b"".join(client.send(octets[at : at + 1]) for at in range(len(octets)))
        self.assertEqual(answer, WELCOME + b"+OK 2 10\r\n")

    @given(st.lists(st.integers(1, 3000), max_size=9), st.integers(0, 9000), st.booleans())
    def test_any_packets(self, sizes, length, in_one_line):
        """Whatever the packets, the outcome is one."""
        between = b" " if in_one_line else b"\r\n"
        octets = b"AUTH PLAIN" + between + encoded(b"\0ann\0x" + b"x" * length) + b"STAT\r\n"
        client = self.connect()
        answer = b""
        for size in [*sizes, len(octets)]:
            packet, octets = octets[:size], octets[size:]
            answer += client.send(packet) if packet else b""
        self.assertEqual(answer.removeprefix(EMPTY), WELCOME + b"+OK 2 10\r\n")
        client.lose()

    def test_longest(self):
        """The longest line is as long as it says, and one octet more is too long."""
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
                answer = b"".join(
                    client.send(octets[at : at + size]) for at in range(0, len(octets), size)
                )
                self.assertEqual(answer.endswith(TOO_LONG), bool(more), (start, more, answer))
                self.assertEqual(client.closed, bool(more))

    def test_without_end(self):
        """A line that never ends is refused, once, and nothing of it is kept."""
        for start in (b"AUTH PLAIN ", b"AUTH PLAIN\r\n"):
            client = self.connect()
            answer = client.send(start)
            for _ in range(100):
                answer += client.send(b"A" * 4096)
            self.assertEqual(answer.removeprefix(EMPTY), TOO_LONG)
            self.assertTrue(client.closed)
            self.assertEqual(client.server.clearLineBuffer(), b"")
            client.lose()
            self.assertEqual(self.checker.seen, [])

    def test_other_lines(self):
        """No other line may be longer than before, however alike it looks."""
        for start in (b"", b"AUTH", b"AUTHOR ", b" AUTH ", b"APOP ", b"NOOP\r\nAUTHX "):
            octets = start + b"A" * (1026 - len(start.split(b"\r\n")[-1]))
            client = self.connect()
            self.assertTrue(client.send(octets).endswith(TOO_LONG), start)
            self.assertTrue(client.closed)

    def test_limit_comes_back(self):
        """After a long AUTH line, or a dialogue, other lines are as short as ever."""
        for lines in (
            [b"AUTH X " + b"A" * 5000],
            [b"AUTH PLAIN", b"*"],
            [b"AUTH PLAIN", b"A" * 5000],
        ):
            client = self.connect(*lines)
            self.assertFalse(client.closed)
            self.assertEqual(client.send(b"NOOP " + b"A" * 1100), TOO_LONG)

    def test_long_behind_long(self):
        """Of two long lines in one packet each is judged for itself."""
        long_auth = b"AUTH X " + b"A" * 5000 + b"\r\n"
        self.assertEqual(self.connect().send(long_auth * 3), NOT_OFFERED * 3)
        self.assertEqual(self.connect().send(long_auth + b"A" * 5000), NOT_OFFERED + TOO_LONG)
