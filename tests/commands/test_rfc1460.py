"""LAST (RFC 1460 section 5)."""

from unittest.mock import patch

from popserv.commands import rfc1460
from popserv.commands.dialects import DIALECTS
from popserv.errors import RemovalFailed, TryLater
from popserv.maildrops.memory import MemoryMailbox
from tests.commands.harness import CommandTestCase

LOGIN = (b"USER ann", b"PASS pw")


class LastTests(CommandTestCase):
    """The highest message-number accessed, within a session and in later sessions."""

    def setUp(self):
        """Deliver two more messages."""
        super().setUp()
        self.store.deliver(b"ann", b"three\n")
        self.store.deliver(b"ann", b"four\n")
        self.serve(dialect=DIALECTS["rfc1460"])

    def last(self, client):
        """Return the number in the reply to LAST."""
        reply = client.send(b"LAST\r\n")
        self.assertEqual(reply[:4], b"+OK ", reply)
        return int(reply[4:])

    def last_after(self, *lines, quits=True):
        """Return LAST at the start of the session after one with these lines."""
        client = self.connect(*LOGIN, *lines)
        if quits:
            client.send(b"QUIT\r\n")
        client.lose()
        client = self.connect(*LOGIN)
        last = self.last(client)
        client.send(b"QUIT\r\n")
        client.lose()
        return last

    def test_nothing_accessed(self):
        """LAST is 0 if no message was accessed."""
        self.assertEqual(self.last_after(), 0)

    def test_retr_and_dele(self):
        """RETR and DELE raise LAST and never lower it; other commands do not change it."""
        client = self.connect(*LOGIN)
        for line, last in (
            *((b"TOP 4 9", 0), (b"LIST 4", 0), (b"RETR 2", 2), (b"RETR 1", 2), (b"DELE 3", 3)),
            *((b"DELE 1", 3), (b"STAT", 3), (b"NOOP", 3), (b"RETR 4", 4)),
        ):
            client.send(line + b"\r\n")
            self.assertEqual(self.last(client), last, line)

    def test_errors(self):
        """A command with a negative reply does not change LAST."""
        client = self.connect(*LOGIN, b"DELE 1")
        for line in (b"RETR 5", b"RETR 0", b"DELE 5", b"RETR 1", b"DELE 1", b"RETR x", b"RETR"):
            self.assertEqual(client.send(line + b"\r\n")[:5], b"-ERR ")
            self.assertEqual(self.last(client), 1)
        del self.store.stored[b"ann"][b"m3"]
        self.assertIn(b"removed by another", client.send(b"RETR 3\r\n"))
        self.assertEqual(self.last(client), 1)

    def test_partly_sent(self):
        """A message that was not sent to the end is neither accessed nor retrieved."""
        client = self.connect(*LOGIN, b"RETR 1")
        client.server.pauseProducing()
        client.send(b"RETR 2\r\n")
        access = client.server.session.access
        client.lose()
        self.assertEqual((access._highest, list(access._retrieved)), (1, [0]))

    def test_rset(self):
        """RSET resets LAST to 0."""
        self.assertEqual(self.last_after(b"RETR 2"), 2)
        client = self.connect(*LOGIN, b"RETR 3", b"DELE 1", b"RSET")
        self.assertEqual(self.last(client), 0)
        self.assertEqual(client.send(b"STAT\r\n"), b"+OK 4 23\r\n")
        client.send(b"RETR 1\r\n")
        self.assertEqual(self.last(client), 1)

    def test_rset_of_rfc1225(self):
        """RSET of RFC 1225 resets LAST to its value at the start of the session."""
        self.serve(dialect=DIALECTS["rfc1225"])
        self.assertEqual(self.last_after(b"RETR 2"), 2)
        client = self.connect(*LOGIN, b"RSET")
        self.assertEqual(self.last(client), 2)
        client.send(b"RETR 4\r\nRSET\r\n")
        self.assertEqual(self.last(client), 2)
        client.send(b"QUIT\r\n")
        client.lose()
        self.assertEqual(self.last_after(), 2)

    def test_rset_first(self):
        """RSET resets LAST to 0 also as the first command; earlier sessions are still recorded."""
        self.assertEqual(self.last_after(b"RETR 2"), 2)
        client = self.connect(*LOGIN, b"RSET")
        self.assertEqual(self.last(client), 0)
        client.send(b"QUIT\r\n")
        client.lose()
        self.assertEqual(self.last_after(), 2)

    def test_rset_and_next_session(self):
        """A message that was retrieved before RSET is not recorded for the next session."""
        self.assertEqual(self.last_after(b"RETR 3", b"RSET", b"RETR 1"), 1)

    def test_next_session(self):
        """Retrieved messages are recorded for later sessions; removals change their numbers."""
        self.assertEqual(self.last_after(b"RETR 1", b"RETR 3"), 3)
        self.assertEqual(self.last_after(b"DELE 1"), 2)
        self.assertEqual(self.last_after(b"DELE 2"), 0)

    def test_removed(self):
        """If the last retrieved message is removed, LAST is the one retrieved before it."""
        self.assertEqual(self.last_after(b"RETR 1", b"RETR 4", b"DELE 4"), 1)

    def test_dele_without_retr(self):
        """A message that was marked but not retrieved is not recorded."""
        self.assertEqual(self.last_after(b"RETR 1", b"DELE 4", b"RSET", b"DELE 4", quits=False), 0)

    def test_no_quit(self):
        """Without QUIT nothing is recorded."""
        self.assertEqual(self.last_after(b"RETR 1", b"RETR 2", quits=False), 0)
        self.assertEqual(self.last_after(b"RETR 2"), 2)
        self.assertEqual(self.last_after(b"RETR 3", quits=False), 2)

    def test_removal_failed(self):
        """If a removal fails, the other retrieved messages are recorded."""

        async def fail(mailbox, messages):
            raise RemovalFailed(1)

        with patch.object(MemoryMailbox, "remove", fail):
            client = self.connect(*LOGIN, b"RETR 1", b"RETR 2", b"DELE 2")
            self.assertEqual(client.send(b"QUIT\r\n")[:5], b"-ERR ")
        client.lose()
        self.assertEqual(self.last_after(), 1)

    def test_record_fails(self):
        """If the store cannot record, QUIT succeeds, and the lock is released."""

        async def fail(mailbox, messages):
            raise RuntimeError("a secret of the server's")

        client = self.connect(*LOGIN, b"RETR 1")
        with patch.object(MemoryMailbox, "record_retrieved", fail):
            reply = client.send(b"QUIT\r\n")
        self.assertEqual(reply, b"+OK dewey POP3 server signing off (4 messages left)\r\n")
        client.lose()
        self.assert_released()
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertIn("cannot record the retrieved messages", self.log_text())

    def test_record_later(self):
        """An outage of the store is logged as one line."""

        async def fail(mailbox, messages):
            raise TryLater from OSError("no connection\n")

        client = self.connect(*LOGIN, b"RETR 1")
        with patch.object(MemoryMailbox, "record_retrieved", fail):
            client.send(b"QUIT\r\n")
        client.lose()
        self.assertIn("cannot record the retrieved messages: no connection\\n", self.log_text())

    def test_last_fails(self):
        """If the store cannot return the record, LAST gets -ERR, and can be tried again."""

        async def fail(mailbox):
            raise RuntimeError("a secret of the server's")

        self.last_after(b"RETR 3")
        client = self.connect(*LOGIN)
        with patch.object(MemoryMailbox, "last_retrieved", fail):
            reply = client.send(b"LAST\r\n")
        self.assertEqual(reply, b"-ERR [SYS/TEMP] temporary failure, try again later\r\n")
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(self.last(client), 3)

    def test_other_dialects(self):
        """Dialects without LAST record nothing."""
        for name in ("modern", "rfc1725", "pop-revised"):
            self.serve(dialect=DIALECTS[name])
            client = self.connect(*LOGIN, b"RETR 4", b"QUIT")
            client.lose()
        self.assertEqual(self.store.retrieved[b"ann"], set())

    def test_retr_alone(self):
        """RETR can record messages in another dialect, whose RSET does not undo it."""
        modern = [each for each in DIALECTS["modern"].commands if each.keyword != b"RETR"]
        self.serve(dialect=DIALECTS["modern"]._replace(commands=(*modern, rfc1460.retr)))
        client = self.connect(*LOGIN, b"RETR 3", b"RSET", b"QUIT")
        client.lose()
        self.assertEqual(self.store.retrieved[b"ann"], {b"m3"})
