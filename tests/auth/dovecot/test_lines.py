"""Tests of popserv.auth.dovecot.lines."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.dovecot.lines import (
    ProtocolError,
    Reply,
    auth_line,
    continue_line,
    escape,
    parse_number,
    parse_reply,
    unescape,
)
from popserv.core.connection_details import ConnectionDetails
from tests.auth.dovecot.harness import DETAILS


class EscapeTests(SynchronousTestCase):
    """The escapes of Dovecot's str_tabescape."""

    def test_octets(self):
        """The octets that end a parameter or a line are escaped with the octet 1."""
        self.assertEqual(escape(b"a\0b\x01c\td\re\n"), b"a\x010b\x011c\x01td\x01re\x01n")
        self.assertEqual(escape(b"ann@example.org"), b"ann@example.org")

    @given(st.binary())
    def test_round_trip(self, value):
        """What is escaped has no special octet but the 1, and becomes itself again."""
        escaped = escape(value)
        self.assertFalse(set(escaped) & set(b"\0\t\r\n"))
        self.assertEqual(unescape(escaped), value)

    def test_invalid(self):
        """Any other octet may be escaped, too, and is then itself."""
        self.assertEqual(unescape(b"a\x01x\x01\xff\x01"), b"ax\xff\x01")


class RequestTests(SynchronousTestCase):
    """The lines that are sent."""

    def test_auth(self):
        """AUTH tells the ends of the connection, and the response is its last parameter."""
        self.assertEqual(
            auth_line(7, b"PLAIN", DETAILS, b"\0ann\0secret"),
            b"AUTH\t7\tPLAIN\tservice=pop3\tsecured=tls\trip=192.0.2.1\trport=4321\tlip=198.51.100.2\t"
            b"lport=110\tnologin\tresp=AGFubgBzZWNyZXQ=",
        )

    def test_without(self):
        """What is not known is not sent; an empty response is."""
        self.assertEqual(
            auth_line(1, b"LOGIN", ConnectionDetails(), None),
            b"AUTH\t1\tLOGIN\tservice=pop3\tnologin",
        )
        self.assertEqual(
            auth_line(1, b"LOGIN", ConnectionDetails(), b""),
            b"AUTH\t1\tLOGIN\tservice=pop3\tnologin\tresp=",
        )

    def test_secured(self):
        """A connection that nobody can eavesdrop on is secured, and TLS is told."""
        for details, sent in (
            (ConnectionDetails(uses_tls=True), b"\tsecured=tls\t"),
            (ConnectionDetails(uses_tls=True, is_local=True), b"\tsecured=tls\t"),
            (ConnectionDetails(is_local=True), b"\tsecured\t"),
        ):
            self.assertIn(sent, auth_line(1, b"PLAIN", details, None))

    def test_addresses(self):
        """A mapped IPv4 address is sent as such, and a zone is not sent."""
        for host, sent in (
            ("::ffff:192.0.2.1", b"192.0.2.1"),
            ("fe80::1%eth0", b"fe80::1"),
            ("2001:db8::1", b"2001:db8::1"),
        ):
            line = auth_line(1, b"PLAIN", ConnectionDetails((host, 1)), None)
            self.assertIn(b"\trip=%b\trport=1\t" % sent, line)

    def test_continue(self):
        """CONT has the response in base64."""
        self.assertEqual(continue_line(3, b"abc"), b"CONT\t3\tYWJj")
        self.assertEqual(continue_line(3, b""), b"CONT\t3\t")


class ReplyTests(SynchronousTestCase):
    """The lines that are received."""

    def test_fields(self):
        """A field has a value after the equals sign, or none; the first of a name counts."""
        number, reply = parse_reply(
            b"OK", [b"5", b"user=a\x01tnn", b"nologin", b"user=bob", b"", b"x=a=b"]
        )
        fields = {b"user": b"a\tnn", b"nologin": b"", b"": b"", b"x": b"a=b"}
        self.assertEqual((number, reply), (5, Reply(b"OK", fields)))

    def test_data(self):
        """CONT and resp= have data in base64."""
        self.assertEqual(parse_reply(b"CONT", [b"5", b"YWJj"]), (5, Reply(b"CONT", {}, b"abc")))
        for nothing in ([b"5"], [b"5", b""]):
            self.assertEqual(parse_reply(b"CONT", nothing), (5, Reply(b"CONT", {}, b"")))
        self.assertEqual(parse_reply(b"OK", [b"5", b"resp=dj0x"]), (5, Reply(b"OK", {}, b"v=1")))

    def test_malformed(self):
        """A line without a number, or with invalid base64, is an error."""
        for kind, parameters in (
            (b"OK", []),
            (b"OK", [b""]),
            (b"OK", [b"x"]),
            (b"OK", [b"-1"]),
            (b"OK", [b"1" * 11]),
            (b"CONT", [b"1", b"%"]),
            (b"OK", [b"1", b"resp=a"]),
        ):
            with self.assertRaises(ProtocolError):
                parse_reply(kind, parameters)
        with self.assertRaises(ProtocolError):
            parse_number([])

    @given(st.sampled_from([b"OK", b"FAIL", b"CONT"]), st.lists(st.binary(max_size=9)))
    def test_any_line(self, kind, parameters):
        """A line is a reply, or a ProtocolError."""
        try:
            number, reply = parse_reply(kind, parameters)
        except ProtocolError:
            return
        self.assertEqual((number, reply.kind), (int(parameters[0]), kind))
