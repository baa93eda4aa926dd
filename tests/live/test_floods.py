"""One address that guesses or floods, through a proxy that tells of it, beside others that do not.

Counted are answers and lines of the log: no test here depends on how fast the machine is.
"""

import re
import socket

from popserv.auth.passwords.schemes import new_scram_sha256
from popserv.auth.passwords.users_file import default_path
from popserv.auth.passwords.users_file_editing import set_secret
from popserv.auth.throttle.slots import MAX_CONCURRENT
from tests.live.harness import ServerTestCase, until

FLOODER = "192.0.2.66"
BEHIND_PROXY = ("--listen", "haproxy:tcp:0:interface=127.0.0.1", "--allow-plaintext")

RESET = (1).to_bytes(4, "little") + bytes(4)
"""A linger that has close() break the connection."""


class FloodCase(ServerTestCase):
    """A server behind a proxy."""

    options = BEHIND_PROXY

    def connect(self, address, *lines):
        """Return a connection of a client with that address, which has said these lines."""
        connection = self.server.connect()
        self.addCleanup(connection.abandon)
        connection.socket.sendall(b"PROXY TCP4 %b 203.0.113.1 4711 110\r\n" % address.encode())
        for line in lines:
            connection.socket.sendall(line + b"\r\n")
        return connection

    def log_in(self, address, name, password="secret"):
        """Return the answer to a password, and end the session."""
        connection = self.connect(address, b"USER " + name.encode())
        connection.line()
        answer = connection.ask(b"PASS " + password.encode())
        connection.close()
        return answer

    def refused(self, address):
        """Return how many failed logins the log has of an address."""
        line = rf"{re.escape(address)}:\d+: b'.*' was refused with 'authentication failed'"
        return len(re.findall(line, self.server.log))


class LoginFloodTests(FloodCase):
    """Logins that are given up as soon as they are begun."""

    def add_slow_user(self):
        """Add a user whose password takes a tenth of a second to hash, or some."""
        field = new_scram_sha256(b"secret", 400_000)
        set_secret(default_path(str(self.server.root)), b"slow", field, new=True)

    def test_aborted_logins(self):
        """A thousand of one address cost a few hashes, and the logins of all others are let in."""
        self.add_slow_user()
        users = [self.server.add_user([b"x\n"])[0] for _ in range(10)]
        answers = []
        for n in range(1000):
            connection = self.connect(FLOODER, b"USER slow", b"PASS guess-%d" % n)
            connection.line()
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            connection.abandon()
            if n >= 500 and n % 50 == 0:
                # More than wait for a hash at a time have been there by now.
                answers.append(self.log_in(f"198.51.100.{len(answers)}", users[len(answers)]))
        self.assertEqual([answer for answer in answers if not answer.startswith(b"+OK")], [])
        self.assertEqual(len(answers), len(users))
        self.assertLess(self.refused(FLOODER), 50)
        self.assertNotIn("Traceback", self.server.log)

    def test_guesses(self):
        """However many connections one address guesses on, few are told at a time, late and later.

        The log has a line for each, and one that the address has come to the bound.
        """
        guesser = "192.0.2.67"
        name, _ = self.server.add_user([b"x\n"])
        guesses = [
            self.connect(guesser, b"USER " + name.encode(), b"PASS %d" % n) for n in range(20)
        ]
        until(lambda: self.refused(guesser) >= MAX_CONCURRENT, "the first guesses to be looked at")
        self.assertEqual(self.log_in("198.51.100.99", name)[:3], b"+OK")
        told = "repeated login failures, replies are delayed"
        self.assertEqual(self.server.log.count(f"{guesser}: {told}"), 1)
        for guess in guesses:
            guess.abandon()


class RoomTests(FloodCase):
    """More connections than there may be."""

    options = (*BEHIND_PROXY, "--max-connections", "20")

    def test_flood(self):
        """One address that connects again and again closes its own connections, and no others."""
        name, _ = self.server.add_user([b"x\n"])
        alone = self.connect("198.51.100.7", b"USER " + name.encode())
        self.assertEqual(alone.line(), b"+OK send PASS")
        flood = []
        for _ in range(60):
            flood.append(self.connect(FLOODER, b"USER x"))
            self.assertEqual(flood[-1].line(), b"+OK send PASS")
        self.assertEqual(alone.ask(b"PASS secret")[:3], b"+OK")
        self.assertEqual(self.log_in("198.51.100.8", name)[:15], b"-ERR [IN-USE] m")
        self.assertEqual(alone.close()[:3], b"+OK")
        self.assertEqual(flood[0].rest(), b"")
