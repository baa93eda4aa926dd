"""Password guessing and floods of connections, among other clients.

The clients connect through the PROXY protocol.  The tests count replies and log lines and
do not depend on the speed of the machine.
"""

import re
import select
import signal
import socket
import ssl

from popserv.auth.passwords.schemes import new_scram_sha256
from popserv.auth.passwords.users_file import default_path
from popserv.auth.passwords.users_file_editing import set_secret
from popserv.auth.throttle.slots import MAX_CONCURRENT
from popserv.auth.throttle.starts import BURST
from tests.certificates import issue
from tests.live.harness import TIMEOUT, Server, ServerTestCase, temporary_directory, until

FLOODER = "192.0.2.66"
BEHIND_PROXY = ("--listen", "haproxy:tcp:0:interface=127.0.0.1", "--allow-plaintext")

RESET = (1).to_bytes(4, "little") + bytes(4)
"""The value of SO_LINGER with which close() resets the connection."""


class FloodCase(ServerTestCase):
    """A server behind a PROXY protocol balancer."""

    options = BEHIND_PROXY

    def connect(self, address, *lines):
        """Return a connection from this address on which these lines were sent."""
        header = b"PROXY TCP4 %b 203.0.113.1 4711 110\r\n" % address.encode()
        connection = self.server.connect(header=header)
        self.addCleanup(connection.abandon)
        for line in lines:
            connection.socket.sendall(line + b"\r\n")
        return connection

    def log_in(self, address, name, password="secret"):
        """Return the reply to PASS, and end the session."""
        connection = self.connect(address, b"USER " + name.encode())
        connection.line()
        reply = connection.ask(b"PASS " + password.encode())
        connection.close()
        return reply

    def count_failures(self, address):
        """Return the number of failed logins of an address in the log."""
        line = rf'{re.escape(address)}:\d+: login of ".*" by \w+ failed: '
        return len(re.findall(line, self.server.log))


class LoginFloodTests(FloodCase):
    """Many logins from one address."""

    def add_slow_user(self):
        """Add a user whose password takes about a tenth of a second to hash."""
        field = new_scram_sha256(b"secret", 400_000)
        set_secret(default_path(str(self.server.root)), b"slow", field, new=True)

    def test_aborted_logins(self):
        """A thousand aborted logins of one address cost few hashes and do not block other users."""
        self.add_slow_user()
        users = [self.server.add_user([b"x\n"])[0] for _ in range(10)]
        replies = []
        for n in range(1000):
            connection = self.connect(FLOODER, b"USER slow", b"PASS guess-%d" % n)
            connection.line()
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            connection.abandon()
            if n >= 500 and n % 50 == 0:
                # By now there were more logins than can wait for a hash.
                replies.append(self.log_in(f"198.51.100.{len(replies)}", users[len(replies)]))
        self.assertEqual([reply for reply in replies if not reply.startswith(b"+OK")], [])
        self.assertEqual(len(replies), len(users))
        self.assertLess(self.count_failures(FLOODER), 50)
        self.assertNotIn("Traceback", self.server.log)

    def test_password_guessing(self):
        """Concurrent failed logins of one address are limited and delayed, and are logged.

        One log line says that the replies to the address are delayed.
        """
        attacker = "192.0.2.67"
        name, _ = self.server.add_user([b"x\n"])
        connections = [
            self.connect(attacker, b"USER " + name.encode(), b"PASS %d" % n) for n in range(20)
        ]
        until(lambda: self.count_failures(attacker) >= MAX_CONCURRENT, "the first failed logins")
        self.assertEqual(self.log_in("198.51.100.99", name)[:3], b"+OK")
        message = "repeated login failures, replies are delayed"
        self.assertEqual(self.server.log.count(f"{attacker}: {message}"), 1)
        for connection in connections:
            connection.abandon()


class UnknownNetworkTests(FloodCase):
    """Many connections from networks that nobody has logged in from."""

    def new_server(self):
        """Start the server, with and without TLS."""
        type(self).directory = directory = temporary_directory()
        (directory / "pop.pem").write_bytes(issue("localhost").pem())
        tls = ("--listen-tls", BEHIND_PROXY[1], "--certificate", directory / "pop.pem")
        return Server(*BEHIND_PROXY, *tls)

    def arrive(self, number, port, octets=b""):
        """Return a socket whose client has sent its PROXY header and these octets."""
        client = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self.addCleanup(client.close)
        address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        client.sendall(f"PROXY TCP4 {address} 203.0.113.1 4711 110\r\n".encode() + octets)
        return client

    def over_tls(self, client):
        """Return a socket over TLS, after the handshake."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        over_tls = context.wrap_socket(client)
        self.addCleanup(over_tls.close)
        return over_tls

    def test_rush(self):
        """All of them are served, with and without TLS, and those that are gone hold up nobody."""
        name, _ = self.server.add_user([b"x\n"])
        self.assertEqual(self.log_in("198.51.100.7", name)[:3], b"+OK")
        plain, tls = self.server.ports[:2]
        guess = b"USER %b\r\nPASS x\r\n" % name.encode()
        waiting = [self.arrive(n, plain) for n in range(2 * BURST)]
        for n in range(300, 320):
            gone = self.arrive(n, (plain, tls)[n % 2], guess if n % 4 else b"")
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            gone.close()
        over_tls = [self.arrive(n, tls) for n in range(1000, 1010)]
        half_closed = self.arrive(2000, plain, b"NOOP\r\n")
        half_closed.shutdown(socket.SHUT_WR)
        # A known network, meanwhile.
        self.assertEqual(self.log_in("198.51.100.7", name)[:3], b"+OK")
        greeting = b"+OK POP3 server ready\r\n"
        for client in (*waiting, *map(self.over_tls, over_tls)):
            self.assertEqual(client.recv(100), greeting)
        self.assertEqual(half_closed.makefile("rb").read(), greeting + b"-ERR log in first\r\n")
        self.assertEqual(self.log_in("198.51.100.8", name)[:3], b"+OK")
        self.assertNotIn("Traceback", self.server.log)

    def test_one_flooder(self):
        """However many connections one address opens and keeps, others do not wait for them."""
        name, _ = self.server.add_user([b"x\n"])
        plain = self.server.ports[0]
        flood = [self.arrive(66, plain) for _ in range(2 * BURST)]
        for number in (1, 2, 3):
            self.assertEqual(self.log_in(f"198.51.100.{100 + number}", name)[:3], b"+OK")
        greeted = select.poll()
        for client in flood:
            greeted.register(client, select.POLLIN)
        # Without turns, all of them would be before the users.
        self.assertLess(len(greeted.poll(0)), len(flood))


class ConnectionLimitTests(FloodCase):
    """More connections than --max-connections."""

    options = (*BEHIND_PROXY, "--max-connections", "20")

    def test_flood(self):
        """At the limit, the server closes connections of the address with the most of them."""
        name, _ = self.server.add_user([b"x\n"])
        other = self.connect("198.51.100.7", b"USER " + name.encode())
        self.assertEqual(other.line(), b"+OK send PASS")
        flood = []
        for _ in range(60):
            flood.append(self.connect(FLOODER, b"USER x"))
            self.assertEqual(flood[-1].line(), b"+OK send PASS")
        self.assertEqual(other.ask(b"PASS secret")[:3], b"+OK")
        self.assertEqual(self.log_in("198.51.100.8", name)[:15], b"-ERR [IN-USE] m")
        self.assertEqual(other.close()[:3], b"+OK")
        self.assertEqual(flood[0].rest(), b"")

    def test_rush(self):
        """At the limit, clients who connect at the same moment do not take each other's place."""
        for n in range(20):
            flooder = self.connect(f"198.51.100.{100 + n}", b"USER x")
            self.assertEqual(flooder.line(), b"+OK send PASS")
        process = self.server.process
        self.addCleanup(process.send_signal, signal.SIGCONT)
        process.send_signal(signal.SIGSTOP)
        rush = []
        for n in range(10):
            client = socket.create_connection(("127.0.0.1", self.server.port), TIMEOUT)
            self.addCleanup(client.close)
            client.sendall(b"PROXY TCP4 192.0.2.%d 203.0.113.1 4711 110\r\nQUIT\r\n" % n)
            rush.append(client.makefile("rb"))
        process.send_signal(signal.SIGCONT)
        self.assertEqual([client.read().count(b"+OK") for client in rush], [2] * 10)
