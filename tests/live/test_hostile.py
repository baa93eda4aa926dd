"""Hostile clients: what they cost the server is bounded, and others are served meanwhile.

``make attack`` measures the same with more connections.
"""

import contextlib
import io
import os
import socket
import ssl
from functools import partial

from OpenSSL import SSL
from twisted.trial.unittest import TestCase

from tests.live.harness import TIMEOUT, Connection, ServerTestCase, read_maildir, until
from tests.live.hostile import __main__ as hostile
from tests.live.hostile import guessing, idle, timing
from tests.live.test_attacks import MB, AttackCase
from tests.live.test_bounds import LARGE, large_maildir
from tests.live.test_floods import RESET

SESSION_ID = 43
"""The octets before the session ID of the first record in a handshake (RFC 5246 section 7.4)."""

EXCHANGES = 20
"""How many cancelled exchanges end a connection."""


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
        self.assertTrue(0 < failures <= 200, failures)

    def test_right_guess(self):
        """A guess that is right is noticed."""
        server = guessing.start()
        self.addCleanup(server.stop)
        for count in (1, 2):
            # The second time, the maildrop is in use.
            client = server.connect(header=guessing.header(0))
            self.addCleanup(client.abandon)
            client.ask(b"USER ann")
            client.ask(b"PASS secret")
            until(lambda n=count: len(guessing.right_guesses(server.log)) >= n, "the log line")

    def test_exit_code(self):
        """The exit code of make attack is 1 if polls are too slow, or guesses are not checked."""
        for attacked, addresses, failures, code in (
            (3.0, 1000, 10, 0),
            (3.1, 1000, 10, 1),
            (1.0, 1000, 9, 1),
            (1.0, 999, 9, 0),
        ):
            result = ([1.0] * 100, [attacked] * 100, failures)
            self.patch(guessing, "attack", lambda *_, result=result: result)
            with contextlib.redirect_stdout(io.StringIO()):
                arguments = ["--only", "guessing", "--names", "10", "--addresses", str(addresses)]
                self.assertEqual(hostile.main(arguments), code, (attacked, addresses, failures))


class TimingTests(TestCase):
    """The measurement of the times of refusals; that of ``make attack`` has enough samples."""

    def test_compare(self):
        """The probability is that of a greater value, and small differences are by chance."""
        for one, other, greater in (
            ([1, 2, 3], [4, 5], 1),
            ([4, 5], [1, 2, 3], 0),
            ([1, 2, 3], [2], 0.5),
            ([7, 7], [7, 7], 0.5),
            ([1, 3], [2, 4], 0.75),
        ):
            self.assertEqual(timing.compare(one, other)[0], greater)
        self.assertEqual(timing.compare([7, 7], [7, 7])[1], 1)
        self.assertGreater(timing.compare(range(50), range(1, 51))[1], 0.5)
        self.assertLess(timing.compare(range(50), range(25, 75))[1], timing.SIGNIFICANT)

    def test_steps(self):
        """Each way to log in is refused for each reason."""
        lines = []
        timing.measure(2, lines.append)
        self.assertEqual(len(lines), 1 + len(timing.STEPS) * len(timing.REASONS))


class HelloCase(AttackCase):
    """Clients that begin a handshake."""

    def hello(self, version=ssl.TLSVersion.MAXIMUM_SUPPORTED):
        """Return the first message of a handshake."""
        sent, context = ssl.MemoryBIO(), self.context()
        context.maximum_version = version
        client = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname="localhost")
        with contextlib.suppress(ssl.SSLWantReadError):
            client.do_handshake()
        return sent.read()


class SlowTests(HelloCase):
    """Clients that send an octet now and then, at a server that is full."""

    options = ("--allow-plaintext", "--max-connections", "20")

    def test_slow_at_each_step(self):
        """Whatever step a slow client hangs at, it is closed to make room for others."""
        name, _ = self.server.add_user([b"x\n"])
        _, port, over_tls = self.server.ports
        header, hello = b"PROXY TCP4 192.0.2.66 192.0.2.1 4711 110\r\n", self.hello()
        steps = (
            *((port, b"PRO"), (port, header), (port, header + b"U")),
            *((port, header + b"USER x\r\nP"), (port, header + b"AUTH LOGIN\r\nA")),
            *((port, header + b"STLS\r\n\x16\x03"), (port, header + b"STLS\r\n")),
            # Before the handshake of TLS, within its first record, and after that.
            *((over_tls, b""), (over_tls, b"\x16\x03"), (over_tls, hello[:99]), (over_tls, hello)),
        )
        for step in steps:
            flood = []
            for _ in range(30):
                client = socket.create_connection(("127.0.0.1", step[0]), TIMEOUT)
                self.addCleanup(client.close)
                client.sendall(step[1])
                flood.append(client)
            # Of clients on this machine, the oldest is closed; the server has accepted all then.
            with contextlib.suppress(ConnectionError):
                while step[0] == over_tls and flood[9].recv(1 << 16):
                    pass
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

    def test_slow_after_handshake(self):
        """So is one that hangs within a command over TLS, or within a record of it."""
        name, _ = self.server.add_user([b"x\n"])
        for octets in (b"USER x\r\nP", b""):
            flood = []
            for _ in range(30):
                flood.append(self.connect_tls())
                flood[-1].socket.sendall(octets)
                # The beginning of a record of 32 octets.
                os.write(flood[-1].socket.fileno(), b"\x17\x03\x03\x00\x20x")
            self.assertEqual(self.server.login(name).close()[:3], b"+OK")
            for client in flood:
                client.abandon()


class HostileTests(HelloCase):
    """Clients that do not read, reset connections, or send records without end."""

    def test_never_reading(self):
        """A client that requests 200 MB again and again and reads nothing takes no memory.

        This is so in cleartext and over TLS.
        """
        for connect in (partial(self.server.connect, receive_buffer=1 << 12), self.connect_tls):
            name, _ = self.server.add_user(link=large_maildir())
            session = connect()
            self.addCleanup(session.abandon)
            session.ask(b"USER " + name.encode())
            self.assertEqual(session.ask(b"PASS secret")[:3], b"+OK")
            before = self.server.memory
            session.socket.sendall(b"RETR 1\r\n" * 100)
            # It is being sent.
            self.assertGreater(int(session.line().split()[1]), LARGE)
            self.assert_alive()
            self.assertLess(self.server.memory - before, 4 * MB)
            session.abandon()
            until(lambda end=f'session of "{name}" ended': end in self.server.log, "the end")

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
            connection.socket.sendall(b"AUTH LOGIN\r\n*\r\n" * 100)
            replies = connection.rest().splitlines()
            self.assertEqual(replies[1::2], [b"-ERR authentication cancelled"] * EXCHANGES)
            connection.abandon()

        # Each of 1,000 exchanges may leave no more than 262 octets.
        self.assert_bounded(attack, 1000 // EXCHANGES, MB >> 2)
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
            with socket.create_connection(("127.0.0.1", self.server.ports[2])) as sock:
                sock.sendall(self.hello())
                self.assertEqual(sock.recv(1), b"\x16")

        self.assert_bounded(attack, 50)
        self.assert_alive()

    def test_reset_in_handshake(self):
        """Handshakes that are reset after any octet of the first message leave nothing behind."""
        hello = self.hello()

        def attack():
            for length in range(len(hello)):
                with socket.create_connection(("127.0.0.1", self.server.ports[2])) as sock:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    sock.sendall(hello[:length])
            # When this one is served, those before it are closed.
            self.connect_tls().abandon()

        # A connection takes some 26 KiB meanwhile; freed memory is not all used again at once.
        self.assert_bounded(attack, 1, 8 * MB)
        self.assert_alive()

    def test_compression(self):
        """The server compresses nothing (RFC 3749): little would become much."""
        hello = self.hello(ssl.TLSVersion.TLSv1_2)
        # After the headers, the version and the random octets: the session ID and the ciphers.
        at = SESSION_ID + 1 + hello[SESSION_ID]
        at += 2 + int.from_bytes(hello[at : at + 2], "big")
        self.assertEqual(hello[at : at + 2], b"\x01\0")
        # DEFLATE is preferred to none.
        message = hello[9:at] + b"\x02\x01\0" + hello[at + 2 :]
        message = b"\x01" + len(message).to_bytes(3, "big") + message
        with socket.create_connection(("127.0.0.1", self.server.ports[2]), TIMEOUT) as sock:
            sock.sendall(hello[:3] + len(message).to_bytes(2, "big") + message)
            reply = sock.makefile("rb")
            head = reply.read(SESSION_ID + 1)
            self.assertEqual((head[0], head[5]), (0x16, 0x02))
            reply.read(head[SESSION_ID] + 2)
            self.assertEqual(reply.read(1), b"\0")

    def test_floods_of_records(self):
        """Records without end that say nothing end the connection: empty ones, alerts, others."""
        head = self.hello()
        floods = (
            # Empty ones, warnings, messages ChangeCipherSpec, and data.
            *(b"\x16\x03\x01\x00\x00", b"\x15\x03\x01\x00\x02\x01\x5a"),
            *(b"\x14\x03\x03\x00\x01\x01", b"\x17\x03\x03\x00\x00"),
        )

        def attack():
            for before in (b"", head):
                for record in floods:
                    with socket.create_connection(("127.0.0.1", self.server.ports[2])) as sock:
                        sock.settimeout(TIMEOUT)
                        # The server may close before it has read all of it.
                        with contextlib.suppress(OSError):
                            sock.sendall(before + record * 20_000)
                        with contextlib.suppress(ConnectionError):
                            while sock.recv(1 << 16):
                                pass

        self.assert_bounded(attack, 1)
        self.assert_alive()
