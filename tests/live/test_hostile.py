"""Hostile clients: what they cost the server is bounded, and others are served meanwhile.

``make attack`` measures the same with more connections.
"""

import contextlib
import socket
import ssl

from OpenSSL import SSL

from tests.live.harness import Connection, ServerTestCase, read_maildir, until
from tests.live.hostile import guessing, idle
from tests.live.test_attacks import MB, AttackCase
from tests.live.test_bounds import LARGE, large_maildir
from tests.live.test_floods import RESET


class IdleTests(ServerTestCase):
    """Idle connections."""

    def test_memory(self):
        """An idle connection takes a few KiB, in each state, and after its end nothing."""
        for transport, limit in (("plain", 8 << 10), ("TLS", 40 << 10)):
            server = idle.start(100)
            self.addCleanup(server.stop)
            for state in idle.STATES:
                # What is allocated once is not counted.
                idle.octets_per_connection(server, transport, state, 100)
                grown = idle.octets_per_connection(server, transport, state, 100)
                self.assertLess(grown, limit, (transport, state))


class GuessingTests(ServerTestCase):
    """Password guessing from many addresses."""

    def test_other_client(self):
        """Another client is served all the time, and no guess lets anybody in."""
        quiet, attacked, failures = guessing.attack(200, 20, 20)
        self.assertEqual(len(quiet), 20)
        self.assertGreater(len(attacked), 1)
        # Each address has four logins at a time, whose replies are delayed by seconds.
        self.assertLessEqual(failures, 200)


class SlowTests(AttackCase):
    """Clients that send an octet now and then, through a proxy, at a server that is full."""

    options = ("--allow-plaintext", "--max-connections", "20")

    def test_slow_at_each_step(self):
        """Whatever step a slow client hangs at, it is closed to make room for others."""
        name, _ = self.server.add_user([b"x\n"])
        port = self.server.ports[1]
        steps = (
            *(b"PRO", b"%b", b"%bU", b"%bUSER x\r\nP"),
            *(b"%bAUTH LOGIN\r\nA", b"%bSTLS\r\n\x16\x03"),
        )
        header = b"PROXY TCP4 192.0.2.66 192.0.2.1 4711 110\r\n"
        for step in steps:
            flood = []
            for _ in range(30):
                client = socket.create_connection(("127.0.0.1", port))
                self.addCleanup(client.close)
                client.sendall(step.replace(b"%b", header))
                flood.append(client)
            session = Connection(
                ("127.0.0.1", port), header=b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 110\r\n"
            )
            for octet in b"USER %b\r\nPASS secret\r\nNOOP\r\n" % name.encode():
                session.socket.sendall(bytes([octet]))
                for client in flood[-3:]:
                    with contextlib.suppress(OSError):
                        client.sendall(b"x")
            replies = [session.line()[:3] for _ in range(3)]
            self.assertEqual(replies, [b"+OK"] * 3, step)
            session.close()
            for client in flood:
                client.close()


class HostileTests(AttackCase):
    """Clients that do not read, reset connections, or send records without end."""

    def test_never_reading(self):
        """A client that requests 200 MB again and again and reads nothing takes no memory."""
        name, _ = self.server.add_user(link=large_maildir())
        session = self.server.login(name, receive_buffer=1 << 12)
        self.addCleanup(session.abandon)
        before = self.server.memory
        session.socket.sendall(b"RETR 1\r\n" * 100)
        # It is being sent.
        self.assertGreater(int(session.line().split()[1]), LARGE)
        self.assert_alive()
        self.assertLess(self.server.memory - before, 4 * MB)

    def test_reset_at_each_octet(self):
        """A connection that is reset anywhere before the end of QUIT removes nothing."""
        name, maildir = self.server.add_user([b"x\n"])
        octets = b"USER %b\r\nPASS secret\r\nSTAT\r\nRETR 1\r\nDELE 1\r\nQUIT\r\n" % name.encode()
        for length in range(len(octets)):
            connection = self.connect()
            connection.socket.sendall(octets[:length])
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            connection.abandon()
        self.assertEqual(len(read_maildir(maildir)), 1)
        # The session of a connection that was reset ends a moment later.
        until(lambda: self.exchange(octets) and not read_maildir(maildir), "the removal")
        self.assert_alive()

    def test_endless_exchanges(self):
        """A client that begins and cancels exchanges without end does not let the server grow."""
        others = self.connect()

        def attack():
            connection = self.connect()
            connection.socket.sendall(b"AUTH LOGIN\r\n*\r\n" * 500)
            connection.socket.shutdown(socket.SHUT_WR)
            refusals = set(connection.rest().splitlines()[1::2])
            self.assertEqual(refusals, {b"-ERR authentication cancelled"})
            connection.abandon()

        self.assert_bounded(attack, 5)
        self.assertEqual(others.ask(b"QUIT")[:3], b"+OK")

    def test_many_records(self):
        """Records of one octet, thousands of them, are read in their order."""

        def attack():
            connection = self.connect_tls()
            for octet in b"CAPA\r\n" * 300:
                connection.socket.send(bytes([octet]))
            connection.socket.send(b"QUIT\r\n")
            self.assertEqual(connection.rest().count(b"\r\n.\r\n"), 300)
            connection.abandon()

        self.assert_bounded(attack, 2)
        self.assert_alive()

    def test_renegotiation(self):
        """Clients cannot renegotiate, again and again (RFC 9325 section 3.5)."""
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
        for _ in range(20):
            sock = socket.create_connection(("127.0.0.1", self.server.ports[2]))
            self.addCleanup(sock.close)
            client = SSL.Connection(context, sock)
            client.set_connect_state()
            client.do_handshake()
            self.assertEqual(client.recv(100)[:3], b"+OK")
            client.renegotiate()
            with self.assertRaisesRegex(SSL.Error, "no renegotiation"):
                client.do_handshake()
            sock.close()
        self.assert_alive()

    def test_half_handshakes(self):
        """Handshakes that clients leave after the first message leave nothing behind."""

        def attack():
            sent = ssl.MemoryBIO()
            client = self.context().wrap_bio(ssl.MemoryBIO(), sent, server_hostname="localhost")
            with contextlib.suppress(ssl.SSLWantReadError):
                client.do_handshake()
            with socket.create_connection(("127.0.0.1", self.server.ports[2])) as sock:
                sock.sendall(sent.read())
                self.assertEqual(sock.recv(1), b"\x16")

        self.assert_bounded(attack, 50)
        self.assert_alive()
