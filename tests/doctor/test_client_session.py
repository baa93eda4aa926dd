"""Tests of popserv.doctor.client_session; test_clients has the programs."""

from base64 import b64encode

from twisted.trial.unittest import SynchronousTestCase

from popserv.doctor import client_session
from popserv.doctor.client_session import TLS, ClientSession, LoginRefused, Trip
from popserv.doctor.conversation import ServerFailed
from popserv.doctor.targets import trusting_context
from tests.doctor.harness import target_of
from tests.migration.harness import FakeServer

MESSAGES = [(b"a", b"Subject: a\r\n\r\nbody\r\n"), (b"b", b"Subject: b\r\n\r\n.dot\r\n")]


class ClientSessionTests(SynchronousTestCase):
    """What a program does with replies."""

    def session(self, messages=MESSAGES, *, tls=(True, False), **options):
        """Return a session with a server."""
        self.server = FakeServer(self, messages, **options)
        conversation = target_of(("localhost", self.server.port)).connect(5)
        self.addCleanup(conversation.abandon)
        return ClientSession(
            conversation, TLS(trusting_context(), "localhost", *tls), b"ann", b"pass word"
        )

    def assert_trips(self, code, text, function, *args, **options):
        """Check that a program cannot go on."""
        trip = self.assertRaises(Trip, function, *args, **options)
        self.assertEqual(trip.code, code)
        self.assertIn(text, trip.what)
        self.assertTrue(trip.remedy)

    def listed(self, replies, method, *, messages=MESSAGES, **options):
        """Return a method of a session that has read STAT."""
        session = self.session(messages, replies={b"STAT": b"+OK 2 40\r\n", **replies})
        session.stat()
        return lambda: getattr(session, method)(**options)

    def test_capabilities(self):
        """The last CAPA counts."""
        session = self.session(capa=[b"TOP", b"sasl PLAIN LOGIN", b""])
        session.capa()
        self.assertEqual(session.capabilities, {"TOP", "SASL"})
        self.assertEqual(session.mechanisms, {"PLAIN", "LOGIN"})
        self.server.replies[b"CAPA"] = b"-ERR\r\n"
        session.capa()
        self.assertEqual((session.capabilities, session.mechanisms), (set(), set()))
        # A separator of Unicode.
        session = self.session(capa=[b"\x1c", b"SASL \xff"])
        session.capa()
        self.assertEqual(session.mechanisms, {"\ufffd"})

    def test_stls(self):
        """TLS starts if the server offers it; a server that then refuses it trips."""
        session = self.session(starts_tls=True)
        session.secure()
        session.secure()
        self.assertEqual(self.server.commands, [b"CAPA", b"STLS", b"CAPA"])
        session = self.session(capa=[b"STLS"], replies={b"STLS": b"-ERR\r\n"})
        self.assert_trips("client-stls", "STLS was refused", session.secure)
        session = self.session()
        session.secure()
        self.assertEqual(self.server.commands, [b"CAPA"])

    def test_login(self):
        """Each way to log in sends its lines."""
        for method, options, lines in (
            ("user_pass", {}, [b"USER ann", b"PASS pass word"]),
            ("auth_plain", {"initial": True}, [b"AUTH PLAIN " + b64encode(b"\0ann\0pass word")]),
            (
                "auth_plain",
                {"initial": False},
                [b"AUTH PLAIN", b64encode(b"\0ann\0pass word")],
            ),
            ("auth_login", {}, [b"AUTH LOGIN", b64encode(b"ann"), b64encode(b"pass word")]),
        ):
            session = self.session()
            getattr(session, method)(**options)
            self.assertEqual(self.server.commands, lines)

    def test_refused(self):
        """A refused password is told with its code, and without the password."""
        session = self.session(replies={b"PASS": b"-ERR [AUTH] no\r\n"})
        error = self.assertRaises(LoginRefused, session.user_pass)
        self.assertEqual((error.code, str(error)), (b"AUTH", 'PASS was refused: "[AUTH] no"'))

    def test_cleartext(self):
        """A password is not sent in cleartext where that is not allowed, or TLS is offered."""
        session = self.session(tls=(False, False))
        self.assert_trips("client-tls", "without TLS", session.user_pass)
        session = self.session(tls=(True, True))
        self.assert_trips("client-tls", "it does not use STLS", session.user_pass)
        self.assertEqual(self.server.commands, [])
        session = self.session(tls=(False, True), starts_tls=True)
        session.secure()
        session.user_pass()

    def test_stat(self):
        """STAT needs two numbers."""
        session = self.session(replies={b"STAT": b"+OK many\r\n"})
        self.assert_trips("client-stat", 'the reply "many"', session.stat)
        session = self.session(replies={b"STAT": b"-ERR\r\n"})
        self.assert_trips("client-stat", "STAT was refused", session.stat)
        for numbers in (b"1 %b", b"%b 1"):
            reply = b"+OK " + numbers % (b"9" * 5000) + b"\r\n"
            session = self.session(replies={b"STAT": reply})
            self.assert_trips("client-stat", "instead of two numbers", session.stat)

    def test_separator(self):
        """Several spaces in a listing trip programs that split at one."""
        for method, reply in (
            ("scan_listing", {b"LIST": b"+OK\r\n1  20\r\n.\r\n"}),
            ("unique_ids", {b"UIDL": b"+OK\r\n1  a\r\n.\r\n"}),
        ):
            self.listed(reply, method)()
            self.assertRaises(Trip, self.listed(reply, method, separator=b" "))

    def test_lines(self):
        """A line of another form trips, as does a listing that is refused."""
        for method, keyword in (("scan_listing", b"LIST"), ("unique_ids", b"UIDL")):
            code = f"client-{keyword.decode().lower()}"
            reply = {keyword: b"+OK\r\nx\r\n.\r\n"}
            self.assert_trips(code, 'has the line "x"', self.listed(reply, method))
            reply = {keyword: b"+OK\r\n%b 1\r\n.\r\n" % (b"9" * 5000)}
            self.assert_trips(code, "has the line", self.listed(reply, method))
            reply = {keyword: b"-ERR\r\n"}
            self.assert_trips(code, "was refused", self.listed(reply, method))

    def test_order(self):
        """Numbers out of order trip Gmail, and missing ones mpop."""
        for method, keyword in (("scan_listing", b"LIST"), ("unique_ids", b"UIDL")):
            reply = {keyword: b"+OK\r\n2 20\r\n1 19\r\n.\r\n"}
            self.listed(reply, method, complete=True)()
            trips = self.listed(reply, method, in_order=True)
            self.assert_trips(f"client-{keyword.decode().lower()}", "in the order", trips)
            reply = {keyword: b"+OK\r\n1 20\r\n.\r\n"}
            self.listed(reply, method, in_order=True)()
            trips = self.listed(reply, method, complete=True)
            self.assert_trips(f"client-{keyword.decode().lower()}", "lists 1", trips)
            # A list of so many numbers would need all memory.
            reply[b"STAT"] = b"+OK 999999999999999999 1\r\n"
            trips = self.listed(reply, method, complete=True)
            self.assert_trips(f"client-{keyword.decode().lower()}", "lists 1", trips)

    def test_equal_ids(self):
        """A unique-id of two messages trips."""
        reply = {b"UIDL": b"+OK\r\n1 a\r\n2 a\r\n.\r\n"}
        self.assert_trips("client-uidl", "the same unique-id", self.listed(reply, "unique_ids"))

    def test_one_id(self):
        """UIDL of one message returns its number and its unique-id."""
        self.listed({b"UIDL 2": b"+OK 2 b\r\n"}, "uidl_of_last")()
        trips = self.listed({b"UIDL 2": b"+OK b\r\n"}, "uidl_of_last")
        self.assert_trips("client-uidl", 'UIDL 2 has the reply "b"', trips)
        self.session().uidl_of_last()

    def test_top(self):
        """TOP is read for the first and the last message; a refusal trips."""
        self.listed({}, "top", lines=5)()
        self.assertEqual(self.server.commands[-2:], [b"TOP 1 5", b"TOP 2 5"])
        self.assert_trips(
            "client-top", "TOP was", self.listed({b"TOP": b"-ERR\r\n"}, "top", lines=1)
        )

    def test_retrieve(self):
        """RETR is read for both, one by one or together; an empty maildrop has none."""
        for pipelined in (False, True):
            self.listed({}, "retrieve", pipelined=pipelined)()
            self.assertEqual(self.server.commands[-2:], [b"RETR 1", b"RETR 2"])
        session = self.session()
        session.retrieve(pipelined=True)
        self.assertEqual(self.server.commands, [])
        trips = self.listed({b"RETR": b"-ERR gone\r\n"}, "retrieve")
        self.assert_trips("client-retr", "RETR 1 was refused", trips)

    def test_octets(self):
        """Other octets than those of LIST trip, for whole messages only."""
        session = self.session(replies={b"LIST": b"+OK\r\n1 20\r\n2 9\r\n.\r\n"})
        session.scan_listing()
        session.top(lines=0)
        self.assert_trips("client-size", "has 20 octets, and LIST says 9", session.retrieve)

    def test_large(self):
        """A message may be as large as LIST or STAT has told, and not larger."""
        self.patch(client_session, "MAX_OCTETS", 60)
        messages = [(b"a", b"." + b"x" * 97 + b"\r\n")]
        for stat, reads_sizes in ((b"+OK 1 100\r\n", False), (b"+OK 1 10\r\n", True)):
            session = self.session(messages, replies={b"STAT": stat})
            session.stat()
            if reads_sizes:
                session.scan_listing()
            session.retrieve()
        # As dots are stuffed, it may be sent with twice the octets.
        for told, maximum in ((10, 60), (40, 80)):
            session = self.session(messages, replies={b"STAT": b"+OK 1 %d\r\n" % told})
            session.stat()
            error = self.assertRaises(ServerFailed, session.retrieve)
            self.assertIn(f"RETR 1 has more than {maximum} octets", str(error))

    def test_nul(self):
        """A NUL trips Outlook alone."""
        messages = [(b"a", b"A: 1\r\n\r\n\0\r\n")] * 2
        self.listed({}, "retrieve", messages=messages)()
        trips = self.listed({}, "retrieve", messages=messages, hangs_on_nul=True)
        self.assert_trips("client-nul", "has a NUL", trips)

    def test_empty(self):
        """An empty message trips Gmail alone."""
        messages = [(b"a", b"")] * 2
        self.listed({}, "retrieve", messages=messages)()
        trips = self.listed({}, "retrieve", messages=messages, needs_contents=True)
        self.assert_trips("client-empty", "is empty", trips)

    def test_end(self):
        """A session ends with RSET; QUIT is a check of its own, and a refusal trips."""
        session = self.session(replies={b"QUIT": b"-ERR no\r\n"})
        session.try_command(b"X")
        self.assert_trips("client-quit", "QUIT was refused", session.quit)
        session = self.session()
        session.end()
        self.server.replies[b"RSET"] = None
        session.end()
        self.assertEqual(self.server.commands, [b"RSET", b"RSET"])
