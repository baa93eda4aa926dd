"""Tests of popserv.doctor.conversation."""

import socket
import ssl
from itertools import count

from twisted.trial.unittest import SynchronousTestCase

from popserv.doctor import conversation
from popserv.doctor.conversation import Conversation, Refused, ServerFailed
from popserv.doctor.targets import trusting_context
from tests.certificates import issue, make_authority
from tests.doctor.harness import ScriptedServer, open_directory


class ConversationCase(SynchronousTestCase):
    """A client of servers that do anything."""

    def connect(self, octets=b"", *, serve=None, **options):
        """Return a conversation with a server that sends octets, and then waits."""

        def send(connection):
            connection.sendall(octets)
            while connection.recv(4096):
                pass

        server = ScriptedServer(self, serve or send)
        connected = Conversation(server.address, **options)
        self.addCleanup(connected.abandon)
        return connected

    def assert_fails(self, text, function, *args):
        """Check that a call fails with a text."""
        error = self.assertRaises(ServerFailed, function, *args)
        self.assertIn(text, str(error))
        return error


class ConversationTests(ConversationCase):
    """Lines, and what ends a conversation."""

    def test_status(self):
        """A status line is accepted, or refused with its response code."""
        connected = self.connect(b"+OK hi\r\n+ \n-ERR [IN-USE] locked\r\n-ERR no\r\nx\r\n")
        self.assertEqual(connected.status("a"), b"hi")
        self.assertEqual(connected.status("a"), b"")
        error = self.assert_fails('a was refused: "[IN-USE] locked"', connected.status, "a")
        self.assertEqual(error.code, b"IN-USE")
        self.assertEqual(self.assertRaises(Refused, connected.status, "a").code, b"")
        self.assert_fails('instead of the reply to a came "x"', connected.status, "a")

    def test_lines(self):
        """The lines of a response end with a dot, and lose the first of two."""
        connected = self.connect(b"one\r\n..two\n\r\n.\r\n")
        self.assertEqual(list(connected.lines("x")), [b"one", b".two", b""])

    def test_closed(self):
        """A server that closes the connection has failed."""
        connected = self.connect(serve=lambda connection: connection.recv(100))
        self.assert_fails("PASS: the server has closed the connection", connected.ask, b"PASS x")

    def test_silent(self):
        """A server that does not answer is given up."""
        connected = self.connect(reply_timeout=0.05)
        self.assert_fails("a: no answer in time", connected.status, "a")

    def test_total(self):
        """A server that answers slowly is given up after the total time."""
        clock = count(0, 10)
        connected = self.connect(b"+OK\r\n", total_timeout=25, clock=lambda: next(clock))
        connected.status("a")
        self.assert_fails("a: no answer in time", connected.status, "a")

    def test_long_line(self):
        """A line without an end is given up."""
        self.patch(conversation, "MAX_LINE", 1000)
        connected = self.connect(b"x" * 2000)
        self.assert_fails("a line has more than 1000 octets", connected.status, "a")

    def test_long_response(self):
        """A response without an end is given up."""

        def endless(connection):
            while True:
                connection.sendall(b"line\r\n" * 1000)

        self.patch(conversation, "MAX_OCTETS", 100_000)
        connected = self.connect(serve=endless)
        self.assert_fails("more than 100000 octets", list, connected.lines("x"))
        self.assert_fails("more than 20000 octets", list, connected.lines("x", 20_000))

    def test_abandon(self):
        """A server that never stops sending is left."""
        clock = count(0, 0.4)

        def endless(connection):
            while True:
                connection.sendall(b"x" * 10_000)

        connected = self.connect(serve=endless, clock=lambda: next(clock))
        connected.abandon()
        self.assertLess(next(clock), 10)

    def test_no_connection(self):
        """A server that cannot be reached has failed, on TCP and on a UNIX socket."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = listener.getsockname()
        self.assert_fails("no connection: Connection refused", Conversation, address)
        path = open_directory(self) / "x"
        self.assert_fails("no connection: No such file", Conversation, str(path))

    def test_unix(self):
        """A UNIX socket works as well; a header is sent first."""
        path = open_directory(self) / "x"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            connected = Conversation(str(path), header=b"PROXY UNKNOWN\r\n")
            self.addCleanup(connected.abandon)
            connection, _ = listener.accept()
            with connection:
                self.assertEqual(connection.recv(100), b"PROXY UNKNOWN\r\n")

    def test_lost(self):
        """A connection that is lost while a line is sent has failed."""
        connected = self.connect()
        connected._socket.shutdown(socket.SHUT_WR)
        self.assert_fails("the connection is lost", connected.send, b"x")


class TLSTests(ConversationCase):
    """TLS in a conversation."""

    def setUp(self):
        """Make a certificate."""
        self.path = open_directory(self) / "pem"
        self.authority = make_authority()
        self.path.write_bytes(issue("localhost", issuer=self.authority).pem())

    def tls(self, connection):
        """Start TLS, and say so."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.path)
        connection.sendall(b"+OK\r\nforged\r\nfor")
        assert connection.recv(4) == b"go\r\n"
        with context.wrap_socket(connection, server_side=True) as secure:
            secure.sendall(b"+OK secure\r\n")
            secure.recv(10)

    def started(self, context):
        """Start TLS with a server."""
        connected = self.connect(serve=self.tls)
        connected.status("a")
        connected.send(b"go")
        connected.start_tls(context, "localhost")
        return connected

    def test_tls(self):
        """What was received before TLS is forgotten."""
        connected = self.started(trusting_context())
        self.assertTrue(connected.uses_tls)
        self.assertEqual(connected.status("a"), b"secure")

    def test_untrusted(self):
        """A certificate that cannot be verified fails; one of a trusted CA does not."""
        self.assert_fails(
            "the certificate cannot be verified", self.started, ssl.create_default_context()
        )
        trusting = ssl.create_default_context(
            cadata=self.authority.certificate_pem().decode("ascii")
        )
        self.assertTrue(self.started(trusting).uses_tls)

    def test_no_tls(self):
        """A server without TLS fails."""
        connected = self.connect(b"+OK\r\n", reply_timeout=0.5)
        self.assert_fails(
            "TLS cannot be started", connected.start_tls, trusting_context(), "localhost"
        )
