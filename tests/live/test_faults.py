"""Faults: killed servers, lost clients, removed messages, hostile input.

None of them may lose mail, leave a lock behind, or disclose a secret.
"""

import random
import signal
import socket

from twisted.trial.unittest import TestCase

from popserv.core.grammar import MAX_LINE
from popserv.server.protocol import POP3Server
from tests.live.harness import (
    Server,
    ServerTestCase,
    read_maildir,
    split_lines,
    temporary_directory,
    until,
)

MESSAGES = [b"Subject: %d\n\n.\nbody %d\n" % (n, n) for n in range(1, 6)]
LARGE = b"Subject: large\n\n" + b"0123456789abcdef" * 4 * 250_000 + b"\n"

CANARY = "Canary-7f3a9c"


class KilledServerTests(TestCase):
    """A server that is killed."""

    def test_kill(self):
        """Messages that were marked as deleted when the server was killed are not removed."""
        first = Server(root=temporary_directory(self))
        name, maildir = first.add_user(MESSAGES)
        session = first.login(name)
        self.addCleanup(session.abandon)
        for n in range(1, 4):
            session.ask(b"DELE %d" % n)
        first.stop(signal.SIGKILL)
        second = Server(root=first.root)
        self.addCleanup(second.stop)
        session = second.login(name)
        self.assertEqual(session.ask(b"STAT").split()[1], b"%d" % len(MESSAGES))
        session.close()
        self.assertEqual(read_maildir(maildir), MESSAGES)


class MaildropFaultTests(ServerTestCase):
    """Maildrops that other programs change, that are locked, or that cannot be opened."""

    def log_in(self, name):
        """Return the reply to PASS with the user's password."""
        connection = self.server.connect()
        self.addCleanup(connection.abandon)
        connection.ask(b"USER " + name.encode())
        return connection.ask(b"PASS secret")

    def assert_unlocked(self, name):
        """Wait until the user can log in, which requires the lock."""
        until(lambda: self.log_in(name).startswith(b"+OK"), "the lock to be released")

    def test_client_killed(self):
        """A client that disconnects during RETR leaves neither a lock nor a change."""
        name, maildir = self.server.add_user([*MESSAGES, LARGE])
        for disconnect in (self.close, self.reset):
            session = self.server.login(name)
            session.ask(b"DELE 1")
            session.ask(b"RETR 6")
            disconnect(session)
            self.assert_unlocked(name)
            self.assertEqual(read_maildir(maildir), [*MESSAGES, LARGE])
            self.doCleanups()

    def close(self, connection):
        """Close the connection as the exit of a program does."""
        connection.abandon()

    def reset(self, connection):
        """Reset the connection as a restarted machine does."""
        linger = (1).to_bytes(4, "little") + bytes(4)
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        connection.abandon()

    def test_no_quit(self):
        """A session that ends without QUIT removes no message (RFC 1725 section 6)."""
        name, maildir = self.server.add_user(MESSAGES)
        session = self.server.login(name)
        session.ask(b"DELE 1")
        session.abandon()
        self.assert_unlocked(name)
        self.assertEqual(read_maildir(maildir), MESSAGES)

    def test_changed_by_others(self):
        """Messages that other programs rename are found; RETR of removed ones is -ERR."""
        session, maildir = self.login(MESSAGES)
        first, second, *_ = sorted((maildir / "new").iterdir())
        first.rename(maildir / "cur" / f"{first.name}:2,S")
        second.unlink()
        self.assertEqual(session.ask(b"RETR 1")[:3], b"+OK")
        self.assertEqual(session.lines(), split_lines(MESSAGES[0]))
        self.assertEqual(session.ask(b"RETR 2")[:5], b"-ERR ")
        self.assertEqual(session.ask(b"RETR 3")[:3], b"+OK")
        self.assertEqual(session.lines(), split_lines(MESSAGES[2]))
        self.assertEqual(session.ask(b"STAT").split()[1], b"5")
        for n in (1, 2):
            session.ask(b"DELE %d" % n)
        self.assertEqual(session.close()[:3], b"+OK")
        self.assertEqual(read_maildir(maildir), MESSAGES[2:])

    def test_busy(self):
        """A user can have only one session at a time (RFC 1725 section 4)."""
        name, _ = self.server.add_user(MESSAGES)
        session = self.server.login(name)
        self.assertTrue(self.log_in(name).startswith(b"-ERR [IN-USE] "))
        session.close()
        self.assert_unlocked(name)

    def test_unreadable(self):
        """If a maildrop cannot be opened, the reason is in the log and not in the reply."""
        name, maildir = self.server.add_user()
        (maildir / "new").rmdir()
        (maildir / "new").write_bytes(b"")
        reply = self.log_in(name)
        self.assertTrue(reply.startswith(b"-ERR [SYS/PERM] "), repr(reply))
        self.assertNotIn(b"irectory", reply)
        self.assertIn(f"{maildir}/new is a file", self.server.log)


class HostileInputTests(ServerTestCase):
    """Input that is not POP3."""

    def assert_alive(self):
        """Fail unless the server still serves clients."""
        self.assertEqual(self.server.connect().close()[:3], b"+OK")
        self.assertIsNone(self.server.process.poll())
        self.assertNotIn("Traceback", self.server.log)

    def exchange(self, octets):
        """Send octets on a new connection and half-close it; return all replies."""
        connection = self.server.connect()
        self.addCleanup(connection.abandon)
        connection.socket.sendall(octets)
        connection.socket.shutdown(socket.SHUT_WR)
        return connection.rest()

    def test_random(self):
        """Each line of random octets is answered -ERR, or the connection is closed."""
        rng = random.Random(1725)
        for _ in range(50):
            replies = self.exchange(rng.randbytes(rng.randrange(1, 3000)))
            for line in replies.splitlines():
                self.assertTrue(line.startswith(b"-ERR "), repr(line))
        self.assert_alive()

    def test_endless_line(self):
        """A line of 10 MB is answered once, and is never held in memory."""
        connection = self.server.connect()
        self.addCleanup(connection.abandon)
        before = self.server.reset_peak()
        chunk = b"x" * (1 << 16)
        try:
            for _ in range(160):
                connection.socket.sendall(chunk)
        except OSError:
            # The server has closed; its reply is in the buffer unless the connection was reset.
            pass
        self.assertIn(connection.rest(), (b"-ERR line too long\r\n", b""))
        self.assertLess(self.server.peak - before, 2 << 20)
        self.assert_alive()

    def test_line_too_long(self):
        """A line over the limit is answered -ERR, and the connection is closed."""
        connection = self.server.connect()
        self.addCleanup(connection.abandon)
        self.assertTrue(connection.ask(b"N" * MAX_LINE).startswith(b"-ERR unknown"))
        self.assertEqual(connection.ask(b"N" * (MAX_LINE + 1)), b"-ERR line too long")
        self.assertEqual(connection.rest(), b"")

    def session(self, *commands):
        """Return the octets of a whole session: login, commands, QUIT."""
        name, _ = self.server.add_user(MESSAGES)
        return b"".join(
            command + b"\r\n"
            for command in (b"USER " + name.encode(), b"PASS secret", *commands, b"QUIT")
        )

    def test_pipelined(self):
        """Pipelined commands are answered in order (RFC 2449 section 6.8)."""
        count = 5000
        replies = self.exchange(self.session(*[b"NOOP", b"LIST 2", b"RETR 9"] * count))
        _, _, *inner, last = replies.splitlines()
        self.assertEqual([line.split()[0] for line in inner], [b"+OK", b"+OK", b"-ERR"] * count)
        self.assertIn(b"signing off", last)

    def test_split_everywhere(self):
        """A session that is sent octet by octet has the same replies as one sent at once."""
        octets = self.session(b"STAT", b"RETR 1", b"TOP 2 1", b"UIDL", b"DELE 1")
        connection = self.server.connect()
        self.addCleanup(connection.abandon)
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(octets)):
            connection.socket.sendall(octets[at : at + 1])
        whole = self.exchange(self.session(b"STAT", b"RETR 1", b"TOP 2 1", b"UIDL", b"DELE 1"))
        self.assertEqual(connection.rest().splitlines()[2:], whole.splitlines()[2:])

    def test_half_closed(self):
        """A client that half-closes the connection after its last command gets every reply."""
        replies = self.exchange(self.session(*[b"RETR %d" % n for n in range(1, 6)] * 200))
        self.assertEqual(replies.count(b"\r\n.\r\n"), 1000)
        self.assertIn(b"signing off", replies.splitlines()[-1])

    def test_nul(self):
        """A command that contains NUL is answered -ERR."""
        for line in (b"\0", b"NO\0OP", b"USER a\0b", b"USER joe\0", b"APOP a\0b " + b"0" * 32):
            self.assertTrue(self.exchange(line + b"\r\n").startswith(b"-ERR "), repr(line))
        self.assert_alive()

    def test_bad_commands(self):
        """Twenty consecutive bad commands close the connection."""
        allowed = POP3Server.MAX_BAD_COMMANDS
        replies = self.exchange(b"GET / HTTP/1.1\r\n" * (allowed + 5))
        self.assertEqual(replies, b"-ERR unknown command\r\n" * allowed)

    def test_failed_logins(self):
        """The third failed login closes the connection."""
        connection = self.server.connect()
        self.addCleanup(connection.abandon)
        name, _ = self.server.add_user()
        attempts = (name, "nobody", name)
        replies = []
        for attempt in attempts:
            connection.ask(b"USER " + attempt.encode())
            replies.append(connection.ask(b"PASS " + CANARY.encode()))
        self.assertEqual(len(attempts), POP3Server.MAX_FAILED_LOGINS)
        # The reply must not depend on whether the user exists (RFC 1725 section 12).
        self.assertEqual(replies, [b"-ERR [AUTH] authentication failed"] * 3)
        self.assertEqual(connection.rest(), b"")

    def test_canary(self):
        """No password is in the log, whether correct or not, and in whichever command it came."""
        name, _ = self.server.add_user(MESSAGES, password=CANARY)
        self.server.login(name, CANARY).close()
        user = b"USER " + name.encode() + b"\r\n"
        for octets in (
            user + b"PASS " + CANARY.encode() + b"x\r\n",
            b"PASS " + CANARY.encode() + b"\r\n",
            user + b"PASS \0" + CANARY.encode() + b"\xff\r\n",
            b"APOP " + name.encode() + b" " + CANARY.encode() + b"\r\n",
            CANARY.encode() + b"\r\n",
            b"PASS " + CANARY.encode() * 200 + b"\r\n",
        ):
            self.exchange(octets)
        self.assertIn(name, self.server.log)
        self.assertNotIn(CANARY, self.server.log)
        self.assert_alive()
