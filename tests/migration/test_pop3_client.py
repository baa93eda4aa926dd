"""Tests of popserv.migration.pop3_client."""

import os
import re
import socket
import time
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.migration import pop3_client
from popserv.migration.pop3_client import TIMEOUT, CommandRefused, POP3Client, POP3ClientError
from popserv.migration.pop3_urls import Security, ServerAddress
from tests.migration.harness import CA, FakeServer, stuffed

MESSAGES = [
    (b"one", b"Subject: 1\r\n\r\n.\r\n..x\r\n\r\n"),
    (b"two", b"Subject: 2\r\n\r\n" + b"x" * 5000 + b"\r\n." + b"y" * 100_000 + b"\r\n"),
    (b"three", b"X: 3\r\n\r\n"),
]


def send_in_parts(connection, octets):
    """Send octets, with TLS in a record, of which the end arrives later."""
    descriptor = connection.fileno()
    near, far = socket.socketpair()
    original = os.dup(descriptor)
    with near, far, socket.socket(fileno=original) as peer:
        # Only so is there a record to send in parts.
        os.dup2(near.fileno(), descriptor)
        connection.sendall(octets)
        os.dup2(original, descriptor)
        sent = far.recv(1 << 16)
        for part in (sent[:4], sent[4:]):
            time.sleep(0.1)
            peer.sendall(part)


def send_last(connection):
    """Send a message that ends with a bare LF, and nothing more."""
    connection.sendall(b"+OK\r\na: b\r\n\r\nc\n.\r\n")
    connection.shutdown(socket.SHUT_WR)


class ClientCase(SynchronousTestCase):
    """Tests with a fake server."""

    def connect(self, server, **options):
        """Return a client of a server, which trusts the tests' authority."""
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(CA.certificate_pem())
        client = POP3Client(server.address, Security(path), **options)
        self.addCleanup(client.close)
        return client

    def login(self, *arguments, **options):
        """Return a server and a client that is logged in."""
        server = FakeServer(self, *arguments, **options)
        client = self.connect(server)
        client.login(b"ann", b"se cret")
        return server, client

    def assert_fails(self, message, function, *arguments, error=POP3ClientError):
        """Check that a function raises an error with this text."""
        raised = self.assertRaises(error, function, *arguments)
        self.assertIn(message, str(raised))
        return raised


class CommandTests(ClientCase):
    """Commands and their replies."""

    def test_session(self):
        """Messages have their sizes, ids and octets; QUIT follows RSET, and marks nothing."""
        server, client = self.login(MESSAGES)
        self.assertEqual(client.capabilities(), [b"TOP", b"UIDL"])
        self.assertEqual(
            client.sizes(), {n: len(octets) for n, (_, octets) in enumerate(MESSAGES, 1)}
        )
        self.assertEqual(client.unique_ids(), {1: b"one", 2: b"two", 3: b"three"})
        for number, (_, octets) in enumerate(MESSAGES, 1):
            chunks = list(client.retrieve(number))
            self.assertEqual(b"".join(chunks), octets)
            self.assertLessEqual(max(map(len, chunks)), 1 << 16)
        self.assertEqual(client.top(1), b"Subject: 1\r\n\r\n")
        client.quit()
        self.assertEqual(server.commands[:3], [b"CAPA", b"USER ann", b"PASS se cret"])
        self.assertEqual(server.commands[-2:], [b"RSET", b"QUIT"])
        self.assertEqual(server.changes, [])

    def test_empty(self):
        """An empty maildrop has empty listings."""
        _, client = self.login()
        self.assertEqual((client.sizes(), client.unique_ids()), ({}, {}))

    def test_remarks(self):
        """A server may add text to the lines of LIST, and blanks to those of UIDL."""
        replies = {b"LIST": stuffed(b"1 120 octets\r\n"), b"UIDL": stuffed(b"1  <a>  \r\n")}
        _, client = self.login(replies=replies)
        self.assertEqual((client.sizes(), client.unique_ids()), ({1: 120}, {1: b"<a>"}))

    def test_large(self):
        """Listings and headers have any number of octets."""
        uids = {number: b"%070d" % number for number in range(1, 2000)}
        header = b"a: " + b"b" * 100_000 + b"\r\n\r\n"
        lines = b"".join(b"%d %b\r\n" % each for each in uids.items())
        replies = {b"UIDL": stuffed(lines), b"TOP": stuffed(header)}
        _, client = self.login(replies=replies)
        self.assertEqual(client.unique_ids(), uids)
        self.assertEqual(client.top(1), header)

    @settings(deadline=None, max_examples=40)
    @given(st.lists(st.sampled_from((b"", b".", b"..", b"\r", b"x" * 32766, b"x" * 32767))))
    def test_octets(self, lines):
        """A message of any lines arrives as it was sent, wherever chunks end."""
        octets = b"".join(line + b"\r\n" for line in lines)
        # One server for all examples.
        if not hasattr(self, "example"):
            self.example = self.login([(b"uid", b"")])
        server, client = self.example
        server.messages[0] = (b"uid", octets)
        self.assertEqual(b"".join(client.retrieve(1)), octets)

    def test_line_ends(self):
        """Line ends are those that the server sends, even if they are not CRLF."""
        reply = b"+OK\na\n..b\r\n.\n"
        _, client = self.login(replies={b"RETR": reply})
        self.assertEqual(b"".join(client.retrieve(1)), b"a\n.b\r\n")

    def test_dot_after_bare_line_end(self):
        """If lines end with CRLF, a dot after a bare LF does not end a message."""
        octets = b"Subject: x\r\n\r\na\n.\n+OK\r\nforged\r\n\n.\nb\n.\r\n+OK\r\nforged\r\n"
        server, client = self.login([(b"uid", b"")])
        server.replies[b"RETR"] = b"+OK\r\n%b.\r\n" % octets
        for _ in range(2):
            self.assertEqual(b"".join(client.retrieve(1)), octets)
        self.assertEqual(client.command(b"NOOP"), b"done")

    def assert_pauses(self, client, octets, pause):
        """Check that a message of 10 octets is read, and how long the client waits."""
        function = socket.socket.settimeout
        given = []

        def set_timeout(connection, seconds):
            given.append(seconds)
            function(connection, seconds if seconds == TIMEOUT else seconds / 1000)

        with mock.patch.object(socket.socket, "settimeout", set_timeout):
            self.assertEqual(list(client.retrieve(1, octets)), [b"a: b\r\n\r\nc\n"])
        # The first is before the command.
        self.assertEqual(given, [0, TIMEOUT, pause, TIMEOUT])

    def test_last_bare_line_end(self):
        """A message may end with a bare LF: the dot ends it if nothing follows for some time."""
        for end in (b".\r\n", b".\n"):
            replies = {b"RETR": b"+OK\r\na: b\r\n\r\nc\n" + end}
            for starts_tls in (False, True):
                _, client = self.login(replies=replies, starts_tls=starts_tls)
                # The time is longer if LIST has told more octets.
                for octets, pause in ((0, 1.0), (10, 1.0), (11, 30.0)):
                    self.assert_pauses(client, octets, pause)
                self.assertEqual(client.command(b"NOOP"), b"done")

    def test_only_bare_line_ends(self):
        """If no line of a response ends with CRLF, the dot ends it at once."""
        for end in (b".\r\n", b".\n"):
            _, client = self.login(replies={b"RETR": b"+OK\r\na: b\n\nc\n" + end})
            with mock.patch.object(POP3Client, "_has_more", return_value=False) as has_more:
                self.assertEqual(list(client.retrieve(1, 10)), [b"a: b\n\nc\n"])
            has_more.assert_called_once_with()

    def test_late_rest(self):
        """What follows in that time belongs to the message, also in parts of a record."""
        contents = b"a: b\r\n\r\nc\n.\r\nd\r\n"

        def send(connection):
            connection.sendall(b"+OK\r\n" + contents[:-3])
            send_in_parts(connection, contents[-3:] + b".\r\n")

        for starts_tls in (False, True):
            _, client = self.login(replies={b"RETR": send}, starts_tls=starts_tls)
            self.assertEqual(b"".join(client.retrieve(1)), contents)
            self.assertEqual(client.command(b"NOOP"), b"done")

    def test_closed_after_bare_line_end(self):
        """The client does not wait for more if the server has closed the connection."""
        for starts_tls in (False, True):
            _, client = self.login(replies={b"RETR": send_last}, starts_tls=starts_tls)
            start = time.monotonic()
            self.assertEqual(b"".join(client.retrieve(1, 100)), b"a: b\r\n\r\nc\n")
            self.assertLess(time.monotonic() - start, 20)

    def test_end_with_bare_line_end(self):
        """Only the dot may have a bare LF: no server sends it so in a message after CRLF."""
        _, client = self.login(replies={b"RETR": b"+OK\r\na\r\n.\n"})
        self.assertEqual(list(client.retrieve(1)), [b"a\r\n"])

    def test_more_than_one_reply(self):
        """What may be the rest of a message is not taken for the reply to the next command."""
        _, client = self.login(replies={b"RSET": b"+OK\r\n+OK forged\r\n"})
        client.command(b"RSET")
        self.assert_fails("before NOOP, more came than one reply", client.command, b"NOOP")

    def test_unfinished(self):
        """A response of which not all was read cannot be taken for that to the next command."""
        _, client = self.login(MESSAGES)
        chunks = client.retrieve(2)
        next(chunks)
        chunks.close()
        self.assertRaises(POP3ClientError, client.sizes)

    def test_endless(self):
        """A response without an end is an error, and fills neither the memory nor a disk."""

        def send(connection):
            connection.sendall(b"+OK\r\n")
            while True:
                connection.sendall(b"%b\r\n" % (b"x" * 1000) * 50)

        for limit, keyword, function in (
            ("MAX_CAPABILITIES", b"CAPA", lambda client: client.capabilities()),
            ("MAX_LISTING", b"LIST", lambda client: client.sizes()),
            ("MAX_LISTING", b"UIDL", lambda client: client.unique_ids()),
            ("MAX_LISTING", b"TOP", lambda client: client.top(1)),
            ("MAX_MESSAGE_OCTETS", b"RETR", lambda client: list(client.retrieve(1))),
        ):
            with mock.patch.object(pop3_client, limit, 100_000):
                server, client = self.login(MESSAGES)
                server.replies[keyword] = send
                message = f"{keyword.decode()}: the response has more than 100000 octets"
                self.assert_fails(message, function, client)
                self.assertRaises(POP3ClientError, client.sizes)

    def test_largest(self):
        """A response may have as many octets as is permitted, and not one more."""
        with mock.patch.object(pop3_client, "MAX_CAPABILITIES", 11):
            server, client = self.login(capa=[b"TOP", b"UIDL"])
            self.assertEqual(client.capabilities(), [b"TOP", b"UIDL"])
            server.capa = [b"TOP", b"UIDLS"]
            self.assert_fails("more than 11 octets", client.capabilities)

    def test_no_capabilities(self):
        """A server need not have CAPA (RFC 2449)."""
        _, client = self.login(replies={b"CAPA": b"-ERR what?\r\n"})
        self.assertIsNone(client.capabilities())

    def test_line_end_in_argument(self):
        """A name or password cannot add commands."""
        server = FakeServer(self)
        client = self.connect(server)
        for user in (b"ann\r\nDELE 1", b"ann\nx", b"a\0b"):
            self.assert_fails("line end or NUL", client.login, user, b"x")
        self.assertEqual(server.commands, [b"CAPA"])


class ErrorTests(ClientCase):
    """Errors name the server, the user, and what the server has said."""

    def test_refused(self):
        """A refused command has the server's text, escaped."""
        server = FakeServer(self, replies={b"PASS": b"-ERR [AUTH] \x1b no\r\n"})
        client = self.connect(server)
        error = self.assert_fails(
            f'localhost:{server.port}: PASS was refused: "[AUTH] \\x1b no"',
            *(client.login, b"ann", b"secret"),
            error=CommandRefused,
        )
        self.assertEqual(error.text, b"[AUTH] \x1b no")
        self.assertNotIn("secret", str(error))

    def test_greeting(self):
        """A server may refuse the connection, close it, or not be one of POP3."""
        for greeting, message in {
            b"-ERR busy\r\n": 'the greeting was refused: "busy"',
            b"220 smtp\r\n": 'instead of the reply to the greeting came "220 smtp"',
            b"": "the greeting: no answer in time",
        }.items():
            server = FakeServer(self, greeting=greeting)
            self.assert_fails(message, lambda server=server: self.connect(server, timeout=0.2))

    def test_closed(self):
        """A connection that the server closes within a message is an error, not a short message."""
        _, client = self.login(replies={b"RETR": b"+OK\r\nhalf", b"NOOP": None})
        chunks = client.retrieve(1)
        client._socket.shutdown(socket.SHUT_WR)
        self.assert_fails("RETR: the server has closed the connection", list, chunks)
        self.assert_fails("", client.command, b"NOOP")
        _, client = self.login(replies={b"NOOP": None})
        self.assert_fails("NOOP: the server has closed", client.command, b"NOOP")

    def test_bad_listing(self):
        """A line that is not one of LIST or UIDL is an error."""
        for line in (b"1", b"x 1", b"1 x", b"9" * 5000 + b" 1"):
            _, client = self.login(replies={b"LIST": stuffed(line + b"\r\n")})
            self.assert_fails('LIST has the line "', client.sizes)
        _, client = self.login(replies={b"UIDL": stuffed(b"1 \xff \xff\r\n")})
        self.assert_fails(r'UIDL has the line "1 \xff \xff"', client.unique_ids)

    def test_no_server(self):
        """Without a server, the message has the reason."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        address = ServerAddress.from_url(f"pop3://127.0.0.1:{port}")
        self.assert_fails(f"127.0.0.1:{port}: Connection refused", POP3Client, address, Security())

    def test_context_manager(self):
        """With ``with``, the connection is closed, without QUIT."""
        server, client = self.login(MESSAGES)
        with client:
            client.sizes()
        self.assertRaises(POP3ClientError, client.sizes)
        self.assertNotIn(b"QUIT", server.commands)


class SecurityTests(ClientCase):
    """TLS, and connections without."""

    def test_stls(self):
        """TLS starts before a password is sent if the server offers STLS."""
        server = FakeServer(self, MESSAGES, starts_tls=True)
        client = self.connect(server)
        client.login(b"ann", b"secret")
        self.assertEqual(server.commands[:3], [b"CAPA", b"STLS", b"USER ann"])
        self.assertEqual(client._socket.version(), "TLSv1.3")
        self.assertEqual(b"".join(client.retrieve(2)), MESSAGES[1][1])

    def test_implicit(self):
        """With pop3s:// the connection starts with TLS."""
        server = FakeServer(self, MESSAGES, implicit_tls=True)
        client = self.connect(server)
        self.assertEqual(client._socket.version(), "TLSv1.3")
        self.assertEqual(server.commands, [])

    def test_not_verified(self):
        """A certificate of an unknown authority is refused, unless --insecure is given."""
        for options in ({"starts_tls": True}, {"implicit_tls": True}):
            server = FakeServer(self, MESSAGES, **options)
            self.assert_fails("--ca-file", POP3Client, server.address, Security())
            self.assertNotIn(b"USER ann", server.commands)
            client = POP3Client(server.address, Security(insecure=True))
            client.login(b"ann", b"secret")
            client.close()

    def test_no_tls(self):
        """TLS with a server that has none on this port fails with the reason."""
        server = FakeServer(self)
        address = ServerAddress("localhost", server.port, True)
        self.assert_fails(
            "; if TLS does not start at once on this port, use pop3://",
            POP3Client,
            address,
            Security(),
        )

    def test_cleartext(self):
        """A server on another machine must have TLS, unless the connection may be insecure."""
        server = FakeServer(self)
        self.patch(ServerAddress, "is_loopback", False)
        self.assert_fails("does not offer STLS", POP3Client, server.address, Security())
        POP3Client(server.address, Security(insecure=True)).close()
        self.assertTrue(re.fullmatch(rb"(CAPA)+", b"".join(server.commands)))
