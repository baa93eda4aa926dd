"""Tests of popserv.testing.faulty.commands."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.messages import MessageFramer
from popserv.messages.framing import TopFramer
from popserv.testing import SAMPLE_MESSAGES
from popserv.testing.faulty.commands import CutFramer, UnterminatedFramer
from tests.testing.faulty.harness import FaultyServerTestCase


class FaultyCommandsTests(FaultyServerTestCase):
    """The faults of commands."""

    def test_no_faults(self):
        """Without faults the replies are those of popserv."""
        client = self.log_in()
        self.assertEqual(client.send(b"STAT\r\n"), b"+OK 2 39\r\n")
        self.assertEqual(
            client.send(b"LIST\r\n"), b"+OK 2 messages (39 octets)\r\n1 19\r\n2 20\r\n.\r\n"
        )
        self.assertEqual(client.send(b"LIST 1\r\n"), b"+OK 1 19\r\n")
        self.assertIn(b"\r\n1 m1\r\n2 m2\r\n.\r\n", client.send(b"UIDL\r\n"))
        self.assertEqual(client.send(b"UIDL 2\r\n"), b"+OK 2 m2\r\n")
        self.assertEqual(
            client.send(b"RETR 2\r\n"), b"+OK 20 octets\r\nSubject: 2\r\n\r\n..two\r\n.\r\n"
        )

    def test_unknown_commands(self):
        """An unknown command is refused as one that does not exist, and is not in CAPA's reply."""
        client = self.log_in(unknown_commands=["UIDL", "STAT"])
        self.assertEqual(client.send(b"uidl\r\n"), b"-ERR unknown command\r\n")
        self.assertEqual(client.send(b"STAT\r\n"), b"-ERR unknown command\r\n")
        capabilities = client.send(b"CAPA\r\n").split(b"\r\n")
        self.assertIn(b"TOP", capabilities)
        self.assertNotIn(b"UIDL", capabilities)
        client = self.connect(unknown_commands=["CAPA"])
        client.received()
        self.assertEqual(client.send(b"CAPA\r\n"), b"-ERR unknown command\r\n")
        self.assertNotIn(b"CAPA", self.factory.commands)
        self.assertIn(b"TOP", self.factory.commands)

    def test_wrong_sizes(self):
        """LIST and STAT announce sizes that are wrong by so many octets, but not below 0."""
        client = self.log_in(wrong_sizes=100)
        self.assertEqual(client.send(b"STAT\r\n"), b"+OK 2 239\r\n")
        self.assertIn(b"\r\n1 119\r\n2 120\r\n.\r\n", client.send(b"LIST\r\n"))
        self.assertEqual(client.send(b"LIST 2\r\n"), b"+OK 2 120\r\n")
        self.assertIn(b"+OK 20 octets\r\n", client.send(b"RETR 2\r\n"))
        client.lose()
        client = self.log_in(wrong_sizes=-19)
        self.assertEqual(client.send(b"STAT\r\n"), b"+OK 2 1\r\n")
        self.assertIn(b"\r\n1 0\r\n2 1\r\n.\r\n", client.send(b"LIST\r\n"))
        self.assertEqual(client.send(b"LIST 1\r\nLIST 2\r\n"), b"+OK 1 0\r\n+OK 2 1\r\n")
        self.assertIn(b"-ERR", client.send(b"LIST 3\r\n"))

    def test_changing_unique_ids(self):
        """Each session has other unique-ids, which are the same within the session."""
        seen = set()
        for _ in range(3):
            client = self.log_in(changing_unique_ids=True)
            listing = client.send(b"UIDL\r\n")
            self.assertEqual(client.send(b"UIDL\r\n"), listing)
            second = client.send(b"UIDL 2\r\n")
            self.assertIn(b"\r\n" + second[4:], listing)
            seen.add(second)
            client.lose()
        self.assertEqual(len(seen), 3)

    def test_fail_retr(self):
        """The RETR with this number is answered -ERR, also for another message or connection."""
        client = self.log_in(fail_retr=2)
        self.assertIn(b"+OK 19 octets", client.send(b"RETR 1\r\n"))
        self.assertIn(b"-ERR [SYS/TEMP]", client.send(b"RETR 2\r\n"))
        self.assertIn(b"+OK 20 octets", client.send(b"RETR 2\r\n"))

    def test_unterminated_retr(self):
        """The response has no terminator, and the connection stays open."""
        client = self.log_in(unterminated_retr=1)
        response = client.send(b"RETR 2\r\n")
        self.assertEqual(response, b"+OK 20 octets\r\nSubject: 2\r\n\r\n..two\r\n")
        self.assertEqual(client.send(b"STAT\r\n"), b"+OK 2 39\r\n")
        self.assertTrue(client.send(b"RETR 1\r\n").endswith(b"one\r\n.\r\n"))

    def test_drop_retr(self):
        """The connection is closed after so many octets of the response, even if there are none."""
        for octets, expected in ((0, b""), (1, b"S"), (19, b"Subject: 2\r\n\r\n..two"), (99, b"")):
            client = self.log_in(drop_retr=(2, octets))
            self.assertTrue(client.send(b"RETR 1\r\n").endswith(b"\r\n.\r\n"))
            response = client.send(b"RETR 2\r\nSTAT\r\n")
            if octets < 99:
                self.assertEqual(response, b"+OK 20 octets\r\n" + expected)
            else:
                self.assertTrue(response.endswith(b"..two\r\n.\r\n"))
            self.assertTrue(client.closed)
            client.lose()


class FramerTests(SynchronousTestCase):
    """The framers change nothing but the end of a response."""

    def frame(self, framer, message, size):
        """Return all that a framer makes of a message in chunks."""
        fed = [framer.feed(message[at : at + size]) for at in range(0, len(message), size)]
        return b"".join(fed) + framer.finish()

    @given(st.sampled_from(SAMPLE_MESSAGES[:10]), st.integers(1, 40), st.integers(0, 60))
    def test_chunks(self, message, size, octets):
        """The result does not depend on the chunks of the message."""
        whole = self.frame(MessageFramer(), message, 1000)
        cut = self.frame(CutFramer(MessageFramer(), octets), message, size)
        self.assertEqual(cut, whole[:octets])
        unterminated = self.frame(UnterminatedFramer(MessageFramer()), message, size)
        self.assertEqual(unterminated + b".\r\n", whole)

    def test_done(self):
        """A framer is done when the one that it changes is."""
        framer = UnterminatedFramer(TopFramer(0))
        self.assertFalse(framer.done)
        framer.feed(b"Subject: 1\n\nbody\n")
        self.assertTrue(framer.done)
