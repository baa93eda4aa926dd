"""remote_side: sessions with another server; tests.live has real ones."""

from twisted.trial.unittest import SynchronousTestCase

from popserv.migration.pop3_client import CommandRefused, POP3ClientError
from popserv.migration.pop3_urls import Security
from popserv.migration.remote_side import logged_in
from tests.migration.harness import FakeServer, stuffed

MESSAGES = [(b"a", b"Subject: 1\r\n\r\nbo\rdy\r\n"), (b"c", b"Subject: 3\r\n\r\n")]


class SessionTests(SynchronousTestCase):
    """Logging in, and what is read."""

    def session(self, server):
        """Return the context manager of a session."""
        return logged_in(server.address, Security(), b"ann\xe9", b"s\xff")

    def test_messages(self):
        """Messages are known by position; names and passwords are octets."""
        server = FakeServer(
            self,
            MESSAGES,
            replies={
                b"LIST": stuffed(b"1 10\r\n3 30\r\n"),
                b"UIDL": stuffed(b"3 c\r\n1 a\r\n"),
                b"TOP 3 0": stuffed(MESSAGES[1][1]),
            },
        )
        with self.session(server) as maildrop:
            self.assertEqual((maildrop.sizes, maildrop.unique_ids), ([10, 30], [b"a", b"c"]))
            self.assertEqual(maildrop.header(1), [b"Subject: 3", b""])
            self.assertEqual(maildrop.contents(0), [b"Subject: 1", b"", b"bo\rdy"])
            self.assertEqual(b"".join(maildrop.read(0)), MESSAGES[0][1])
        self.assertEqual(server.commands[1:3], [b"USER ann\xe9", b"PASS s\xff"])
        self.assertEqual((server.commands[-1], server.changes), (b"QUIT", []))

    def test_missing_unique_id(self):
        """A message that UIDL leaves out has an empty unique-id."""
        server = FakeServer(self, MESSAGES, replies={b"UIDL": stuffed(b"2 c\r\n")})
        with self.session(server) as maildrop:
            self.assertEqual(maildrop.unique_ids, [b"", b"c"])

    def test_other_octets(self):
        """It is told that messages have other octets than LIST says, as some servers have it."""
        listing = stuffed(b"1 19\r\n2 15\r\n3 6\r\n4 8\r\n")
        bare = b"+OK\nS: x\n\n.\n"
        server = FakeServer(
            self,
            [*MESSAGES, (b"e", b""), (b"f", b"")],
            replies={b"LIST": listing, b"RETR 3": bare, b"RETR 4": bare},
        )
        with self.session(server) as maildrop:
            self.assertEqual(maildrop.remarks(), [])
            # The octets of the last two are those of lines with LF, or with CRLF.
            for position in (3, 2, 1):
                maildrop.contents(position)
            told = "came with other octets than LIST of the server tells, the first of them message"
            self.assertEqual(maildrop.remarks(), [f"1 message {told} 2 with 14 instead of 15"])
            maildrop.contents(0)
            self.assertEqual(maildrop.remarks(), [f"2 messages {told} 1 with 21 instead of 19"])

    def test_no_top(self):
        """Without TOP, a header is read by RETR; TOP is tried once."""
        server = FakeServer(self, MESSAGES, replies={b"TOP": b"-ERR\r\n"})
        with self.session(server) as maildrop:
            for _ in range(2):
                self.assertEqual(maildrop.header(1)[0], b"Subject: 3")
        self.assertEqual(server.commands.count(b"TOP 2 0"), 1)

    def test_failures(self):
        """Errors of the server and of the caller are raised, whether QUIT succeeds or not."""
        server = FakeServer(self, MESSAGES, replies={b"UIDL": b"-ERR no\r\n", b"QUIT": None})
        with self.assertRaises(CommandRefused), self.session(server):
            self.fail("there is no maildrop")
        self.assertEqual(server.commands[-1], b"QUIT")
        server = FakeServer(self, MESSAGES, replies={b"RETR": None})
        with self.assertRaises(POP3ClientError), self.session(server) as maildrop:
            maildrop.contents(0)
        server = FakeServer(self, MESSAGES)
        with self.assertRaises(KeyError), self.session(server):
            raise KeyError
        self.assertEqual(server.commands[-1], b"QUIT")
