"""RETR and TOP: the octets of a message are compared with those that LIST has reported."""

import os

from hypothesis import given
from hypothesis import strategies as st
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import formatEvent, globalLogPublisher

from popserv.auth.realm import MaildropRealm
from popserv.commands import rfc1460, rfc1725, utf8
from popserv.core.command import CommandTable
from popserv.errors import MaildropBusy
from popserv.maildrops.maildir.store import MaildirMaildrops
from popserv.maildrops.memory import MemoryMaildrops
from popserv.messages.workarounds import WORKAROUNDS
from popserv.server.factory import POP3Factory
from popserv.testing import MemoryClient
from tests.maildrops.maildir.harness import MaildirCase, SizeFileCase, run_inline
from tests.messages.harness import naive_top

CHANGED = b"-ERR [SYS/TEMP] message has changed, log in again\r\n"
NOOP = b"+OK nothing done\r\n"
LARGE = b"Subject: large\n\n" + b"0123456\n" * 50_000


def log_in(maildrops, *, commands=rfc1725.COMMANDS, **options):
    """Return a client of a new server for these maildrops, who is logged in as ann."""
    portal = Portal(
        MaildropRealm(maildrops), [InMemoryUsernamePasswordDatabaseDontUse(ann=b"secret")]
    )
    client = MemoryClient(POP3Factory(CommandTable(commands), portal, host=b"h", **options))
    client.send(b"USER ann\r\nPASS secret\r\n")
    return client


class ChunkedMaildrops(MemoryMaildrops):
    """A store whose messages may be others than those counted, in chunks of a size."""

    def __init__(self, message, size=1 << 16):
        super().__init__()
        self.deliver(b"ann", message)
        self.size = size

    async def open_maildrop(self, user):
        """Return a mailbox that opens messages in chunks, without a length."""
        mailbox = await super().open_maildrop(user)

        async def opened(message):
            text = self.stored[b"ann"][message.uid]
            return (text[at : at + self.size] for at in range(0, len(text), self.size))

        mailbox.open = opened
        return mailbox

    def change(self, message):
        """Replace the message."""
        self.stored[b"ann"][b"m1"] = message


class AnyStoreTests(MaildirCase):
    """Stores whose messages change after they were counted, or were counted wrongly."""

    def setUp(self):
        """Record the log."""
        super().setUp()
        self.log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)

    def test_small(self):
        """A changed message that is read before the status line is refused."""
        for line in (b"RETR 1", b"TOP 1 9"):
            for after in (b"a: b\n\n1\n2", b"a: b\n\n1\n2\n3\n", b"", b"a: b\n\n1\r2\n"):
                maildrops = ChunkedMaildrops(b"a: b\n\n1\n2\n")
                client = log_in(maildrops)
                sent = client.send(line + b"\r\n")
                self.assertEqual(sent[-5:], b"\r\n.\r\n")
                maildrops.change(after)
                # A last line without a line end has the same wire form.
                expected = sent if after.endswith(b"2") else CHANGED
                self.assertEqual(client.send(line + b"\r\nNOOP\r\n"), expected + NOOP)
                client.lose()
        self.assertIn("1 of its 14 octets are missing", " ".join(map(formatEvent, self.log)))

    def test_part_of_small(self):
        """TOP compares a changed message only if it sends it to its end, or more octets of it."""
        for lines in (0, 1):
            for after in (b"a: b\n\n1\n2", b"a: b\n\n1\n2\n3\n", b"", b"a: b\n\n1\r2\n"):
                maildrops = ChunkedMaildrops(b"a: b\n\n1\n2\n")
                client = log_in(maildrops)
                maildrops.change(after)
                reply = client.send(b"TOP 1 %d\r\nNOOP\r\n" % lines)
                body = b"".join(line + b"\r\n" for line in naive_top(after, lines))
                expected = b"+OK top of message follows\r\n" + body + b".\r\n"
                if not after:
                    expected = CHANGED
                self.assertEqual(reply, expected + NOOP)
                client.lose()

    def test_large(self):
        """Of a changed message no octet too many is sent, and no terminator after too few."""
        for line in (b"RETR 1", b"TOP 1 99999"):
            for after in (LARGE + b"x", LARGE[:-1] + b"\n\n", LARGE[:-8], LARGE[:200_000]):
                maildrops = ChunkedMaildrops(LARGE)
                client = log_in(maildrops)
                reported = int(client.send(b"LIST 1\r\n").split()[2])
                maildrops.change(after)
                sent = client.send(line + b"\r\nNOOP\r\n")
                status, _, body = sent.partition(b"\r\n")
                self.assertEqual(status[:4], b"+OK ")
                self.assertLessEqual(len(body), reported)
                self.assertNotIn(b".\r\n", body)
                self.assertNotIn(NOOP, sent)
                self.assertTrue(client.transport.aborted)
                client.lose()
                self.assertEqual(maildrops.locked, set())
        lines = [formatEvent(event) for event in self.log]
        self.assertEqual(sum("has changed, connection aborted: " in x for x in lines), 8)

    def test_part(self):
        """TOP of a part of a large message does not read the rest."""
        maildrops = ChunkedMaildrops(LARGE)
        client = log_in(maildrops)
        maildrops.change(LARGE[:200_000])
        top = b"+OK top of message follows\r\nSubject: large\r\n\r\n0123456\r\n.\r\n"
        self.assertEqual(client.send(b"TOP 1 1\r\n"), top)
        client.lose()

    @given(st.binary(max_size=60), st.binary(max_size=60), st.integers(1, 9), st.booleans())
    def test_workarounds(self, before, after, size, as_stored):
        """In every form, a message has the octets of LIST, or is refused."""
        before, after = b"a: \xc3\xa9\n" + before, b"a: \xc3\xa9\n" + after
        maildrops = ChunkedMaildrops(before, size)
        commands = [*rfc1725.COMMANDS, *utf8.COMMANDS]
        client = log_in(maildrops, commands=commands, workarounds=WORKAROUNDS)
        if as_stored:
            client.send(b"UTF8\r\n")
        reported = int(client.send(b"LIST 1\r\n").split()[2])
        for message in (before, after):
            maildrops.change(message)
            sent = client.send(b"RETR 1\r\n")
            if sent != CHANGED or message == before:
                lines = sent.split(b"\r\n")[1:-2]
                octets = sum(len(line.removeprefix(b".")) + 2 for line in lines)
                self.assertEqual(octets, reported)
        client.lose()

    def test_not_retrieved(self):
        """A message that was refused is not recorded as retrieved, nor as accessed."""
        maildrops = ChunkedMaildrops(b"one\n")
        commands = [
            *(command for command in rfc1725.COMMANDS if command.keyword not in (b"RETR", b"DELE")),
            *(command for command in rfc1460.COMMANDS if command.keyword != b"RSET"),
        ]
        for after, recorded in ((b"longer\n", set()), (b"ONE\n", {b"m1"})):
            client = log_in(maildrops, commands=commands)
            client.send(b"LIST\r\n")
            maildrops.change(after)
            client.send(b"RETR 1\r\n")
            self.assertEqual(client.send(b"LAST\r\n"), b"+OK %d\r\n" % len(recorded))
            client.send(b"QUIT\r\n")
            client.lose()
            self.assertEqual(maildrops.retrieved[b"ann"], recorded)
            maildrops.change(b"one\n")


class MaildirTests(SizeFileCase):
    """Messages changed in place with the same length and time of modification."""

    def setUp(self):
        """Deliver a small message and a large one, of 3375 and 900,000 octets."""
        super().setUp()
        self.small, self.large = (b"abcdefg\r\n" + b"0123456\n" * n for n in (374, 99_999))
        self.names = (b"new/1600000001.a", b"new/1600000003.c")
        for name, message in zip(self.names, (self.small, self.large), strict=True):
            self.put(name, message)

    def change(self, name, message):
        """Change a message, and nothing that tells that it has changed."""
        path = self.path_of(name)
        status = os.stat(path)
        self.assertEqual(status.st_size, len(message))
        with open(path, "r+b") as file:
            file.write(message)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def retrieve(self):
        """Return the octets that LIST reports, and the reply to RETR, of both messages."""
        client = log_in(self.maildrops)
        listed = client.send(b"LIST\r\n").split(b"\r\n")
        octets = [int(listed[n].split()[1]) for n in (1, 3)]
        replies = [client.send(b"RETR %d\r\n" % n) for n in (1, 3)]
        aborted = client.transport.aborted
        if not aborted:
            client.send(b"QUIT\r\n")
        client.lose()
        return octets, replies, aborted

    def assert_right(self, *messages):
        """Check that both messages are sent, with the octets that LIST has reported."""
        octets, replies, aborted = self.retrieve()
        self.assertFalse(aborted)
        for reported, reply, message in zip(octets, replies, messages, strict=True):
            wire = b"".join(line + b"\r\n" for line in message.splitlines())
            self.assertEqual(reply, b"+OK %d octets\r\n%b.\r\n" % (reported, wire))
            self.assertEqual(reported, len(wire))

    def test_changed(self):
        """The message is refused, or its connection breaks; it is right from the next login on."""
        for restarts in (False, True):
            small, large = self.small, self.large
            for _ in range(3):
                if restarts:
                    self.restart()
                self.assert_right(small, large)
            self.assertTrue(os.path.exists(self.file))
            small = b"abcdefg\n\n" + small[9:]
            self.change(self.names[0], small)
            if restarts:
                self.restart()
            octets, replies, aborted = self.retrieve()
            self.assertEqual((octets[0], replies[0], aborted), (3375, CHANGED, False))
            if restarts:
                self.restart()
            self.assert_right(small, large)
            large = large[:-8] + b"012345\r\n"
            self.change(self.names[1], large)
            if restarts:
                self.restart()
            octets, replies, aborted = self.retrieve()
            self.assertTrue(aborted)
            self.assertNotIn(b"\r\n.\r\n", replies[1])
            if restarts:
                self.restart()
            self.assert_right(small, large)
            for name, message in zip(self.names, (self.small, self.large), strict=True):
                self.put(name, message)
            self.maildrops = MaildirMaildrops(self.root, run=run_inline)
            self.retrieve()

    def test_same_octets(self):
        """A changed message with the same octets is sent."""
        self.assert_right(self.small, self.large)
        self.change(self.names[0], self.small.upper())
        self.assert_right(self.small.upper(), self.large)

    def test_discard_fails(self):
        """If the sizes cannot be discarded, the message is refused all the same."""
        client = log_in(self.maildrops)
        client.send(b"NOOP\r\n")
        self.change(self.names[0], b"abcdefg\n\n" + self.small[9:])

        async def run(function, *args):
            raise RuntimeError("no thread")

        client.server.session.mailbox._run = run
        self.assertEqual(client.send(b"RETR 1\r\n"), CHANGED)
        client.lose()
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_lost_meanwhile(self):
        """If the client is lost while the sizes are discarded, its maildrop is released then."""
        for line, message in (
            (b"RETR 1", b"abcdefg\n\n" + self.small[9:]),
            (b"RETR 3", self.large[:-8] + b"012345\r\n"),
        ):
            client = log_in(self.maildrops)
            self.change(self.names[line == b"RETR 3"], message)
            mailbox = client.server.session.mailbox
            waiting = Deferred()

            async def run(function, *args, waiting=waiting):
                await waiting
                return function(*args)

            mailbox._run = run
            client.send(line + b"\r\nNOOP\r\n")
            client.lose()
            with self.assertRaises(MaildropBusy), self.session():
                pass
            waiting.callback(None)
            self.assertFalse(client.transport.aborted)
            with self.session():
                pass
