"""LAST (RFC 1460 section 5)."""

from unittest.mock import patch

from popserv.commands import rfc1460
from popserv.commands.dialects import DIALECTS
from popserv.errors import RemovalFailed
from popserv.maildrops.memory import MemoryMailbox
from tests.commands.harness import ServerCase

LOGIN = (b"USER ann", b"PASS pw")


class LastTests(ServerCase):
    """The highest number accessed, in a session and from session to session."""

    def setUp(self):
        """Four messages for ann."""
        super().setUp()
        self.store.deliver(b"ann", b"three\n")
        self.store.deliver(b"ann", b"four\n")
        self.serve(dialect=DIALECTS["rfc1460"])

    def last(self, client):
        """What LAST says."""
        answer = client.send(b"LAST\r\n")
        self.assertEqual(answer[:4], b"+OK ", answer)
        return int(answer[4:])

    def after(self, *lines, quits=True):
        """What LAST says after a session of these lines, at the start of the next."""
        client = self.connect(*LOGIN, *lines)
        if quits:
            client.send(b"QUIT\r\n")
        client.lose()
        client = self.connect(*LOGIN)
        last = self.last(client)
        client.send(b"QUIT\r\n")
        client.lose()
        return last

    def test_nothing(self):
        """Zero in a maildrop of which nothing was accessed."""
        self.assertEqual(self.after(), 0)

    def test_retr_and_dele(self):
        """RETR and DELE raise it, and never lower it; TOP, LIST and UIDL's like do not."""
        client = self.connect(*LOGIN)
        for line, last in (
            *((b"TOP 4 9", 0), (b"LIST 4", 0), (b"RETR 2", 2), (b"RETR 1", 2), (b"DELE 3", 3)),
            *((b"DELE 1", 3), (b"STAT", 3), (b"NOOP", 3), (b"RETR 4", 4)),
        ):
            client.send(line + b"\r\n")
            self.assertEqual(self.last(client), last, line)

    def test_refused(self):
        """What is refused accesses nothing."""
        client = self.connect(*LOGIN, b"DELE 1")
        for line in (b"RETR 5", b"RETR 0", b"DELE 5", b"RETR 1", b"DELE 1", b"RETR x", b"RETR"):
            self.assertEqual(client.send(line + b"\r\n")[:5], b"-ERR ")
            self.assertEqual(self.last(client), 1)
        del self.store.stored[b"ann"][b"m3"]
        self.assertIn(b"removed by another", client.send(b"RETR 3\r\n"))
        self.assertEqual(self.last(client), 1)

    def test_rset(self):
        """RSET sets it to zero, whatever was accessed before, and takes the marks away."""
        self.assertEqual(self.after(b"RETR 2"), 2)
        client = self.connect(*LOGIN, b"RETR 3", b"DELE 1", b"RSET")
        self.assertEqual(self.last(client), 0)
        self.assertEqual(client.send(b"STAT\r\n"), b"+OK 4 23\r\n")
        client.send(b"RETR 1\r\n")
        self.assertEqual(self.last(client), 1)

    def test_rset_of_rfc1225(self):
        """RFC 1225's RSET sets it to what it was at the beginning, and forgets as much."""
        self.serve(dialect=DIALECTS["rfc1225"])
        self.assertEqual(self.after(b"RETR 2"), 2)
        client = self.connect(*LOGIN, b"RSET")
        self.assertEqual(self.last(client), 2)
        client.send(b"RETR 4\r\nRSET\r\n")
        self.assertEqual(self.last(client), 2)
        client.send(b"QUIT\r\n")
        client.lose()
        self.assertEqual(self.after(), 2)

    def test_rset_first(self):
        """RSET as the first thing sets it to zero, too; what was retrieved before stays known."""
        self.assertEqual(self.after(b"RETR 2"), 2)
        client = self.connect(*LOGIN, b"RSET")
        self.assertEqual(self.last(client), 0)
        client.send(b"QUIT\r\n")
        client.lose()
        self.assertEqual(self.after(), 2)

    def test_rset_forgets(self):
        """What was retrieved before RSET in the same session is not remembered."""
        self.assertEqual(self.after(b"RETR 3", b"RSET", b"RETR 1"), 1)

    def test_next_session(self):
        """What earlier sessions retrieved is known, and what they deleted moves it along."""
        self.assertEqual(self.after(b"RETR 1", b"RETR 3"), 3)
        self.assertEqual(self.after(b"DELE 1"), 2)
        self.assertEqual(self.after(b"DELE 2"), 0)

    def test_deleted_itself(self):
        """A message that was retrieved and removed leaves the one before it that was retrieved."""
        self.assertEqual(self.after(b"RETR 1", b"RETR 4", b"DELE 4"), 1)

    def test_dele_alone(self):
        """A message that was marked, and never retrieved, is not known to the next session."""
        self.assertEqual(self.after(b"RETR 1", b"DELE 4", b"RSET", b"DELE 4", quits=False), 0)

    def test_broken_off(self):
        """Without QUIT nobody knows what came through, and nothing is remembered."""
        self.assertEqual(self.after(b"RETR 1", b"RETR 2", quits=False), 0)
        self.assertEqual(self.after(b"RETR 2"), 2)
        self.assertEqual(self.after(b"RETR 3", quits=False), 2)

    def test_removal_failed(self):
        """QUIT that cannot remove all remembers what was retrieved, but for what it should have."""

        async def fail(mailbox, messages):
            raise RemovalFailed(1)

        with patch.object(MemoryMailbox, "remove", fail):
            client = self.connect(*LOGIN, b"RETR 1", b"RETR 2", b"DELE 2")
            self.assertEqual(client.send(b"QUIT\r\n")[:5], b"-ERR ")
        client.lose()
        self.assertEqual(self.after(), 1)

    def test_fault(self):
        """A store that cannot remember spoils no QUIT, and keeps no lock."""

        async def fail(mailbox, messages):
            raise RuntimeError("a secret of the server's")

        client = self.connect(*LOGIN, b"RETR 1")
        with patch.object(MemoryMailbox, "record_retrieved", fail):
            told = client.send(b"QUIT\r\n")
        self.assertEqual(told, b"+OK dewey POP3 server signing off (4 messages left)\r\n")
        client.lose()
        self.assertReleased()
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertIn("cannot record the retrieved messages", self.logged())

    def test_fault_in_last(self):
        """A store that cannot say what was retrieved gets LAST an -ERR, and is asked again."""

        async def fail(mailbox):
            raise RuntimeError("a secret of the server's")

        self.after(b"RETR 3")
        client = self.connect(*LOGIN)
        with patch.object(MemoryMailbox, "last_retrieved", fail):
            told = client.send(b"LAST\r\n")
        self.assertEqual(told, b"-ERR [SYS/TEMP] temporary failure, try again later\r\n")
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(self.last(client), 3)

    def test_other_dialects(self):
        """A dialect without LAST remembers nothing."""
        for name in ("modern", "rfc1725", "pop-revised"):
            self.serve(dialect=DIALECTS[name])
            client = self.connect(*LOGIN, b"RETR 4", b"QUIT")
            client.lose()
        self.assertEqual(self.store.retrieved[b"ann"], set())

    def test_marking(self):
        """Its RETR in another dialect notes what was retrieved; RSET there takes none back."""
        modern = [each for each in DIALECTS["modern"].commands if each.keyword != b"RETR"]
        self.serve(dialect=DIALECTS["modern"]._replace(commands=(*modern, rfc1460.retr)))
        client = self.connect(*LOGIN, b"RETR 3", b"RSET", b"QUIT")
        client.lose()
        self.assertEqual(self.store.retrieved[b"ann"], {b"m3"})
