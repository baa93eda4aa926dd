"""RPOP, and USER and QUIT of its time (RFC 1225, and the draft before it)."""

from twisted.cred.credentials import IUsernamePassword
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from zope.interface.verify import verifyObject

from popserv.commands.dialects import DIALECTS
from popserv.interfaces import IRemoteUserCredentials
from tests.commands.harness import STRANGER, Checker, ServerCase, password_of_ann

RESERVED = IPv4Address("TCP", "192.0.2.7", 1023)
NOT_OFFERED = b"-ERR RPOP is not available\r\n"
WELCOME = b"+OK ann's maildrop has 2 messages (10 octets)\r\n"


def annes_ann(credentials):
    """Let the user anne of 192.0.2.7 be ann here."""
    told = (credentials.remote_user, credentials.host)
    return credentials.username if told == (b"anne", "192.0.2.7") else None


class RPOPTests(ServerCase):
    """Who a host says that its user is."""

    def setUp(self):
        """A server that trusts 192.0.2.7."""
        super().setUp()
        self.checker = Checker(annes_ann, IRemoteUserCredentials)
        self.serve(
            Checker(password_of_ann, IUsernamePassword),
            self.checker,
            dialect=DIALECTS["rfc1225"],
        )

    def test_login(self):
        """USER and RPOP from a reserved port open the maildrop, as USER and PASS would."""
        client = self.connect(peer=RESERVED)
        self.assertEqual(client.send(b"USER ann\r\n"), b"+OK ann is a real hoopy frood\r\n")
        self.assertEqual(client.send(b"RPOP anne\r\n"), WELCOME)
        (seen,) = self.checker.seen
        self.assertTrue(verifyObject(IRemoteUserCredentials, seen))
        told = (seen.username, seen.remote_user, seen.host, seen.port)
        self.assertEqual(told, (b"ann", b"anne", "192.0.2.7", 1023))
        client.send(b"DELE 1\r\nQUIT\r\n")
        self.assertEqual(list(self.store.stored[b"ann"]), [b"m2"])
        self.assertReleased()

    def test_user_first(self):
        """RPOP without USER before it is refused, and each needs a USER of its own."""
        client = self.connect(peer=RESERVED)
        self.assertEqual(client.send(b"RPOP anne\r\n"), b"-ERR send USER first\r\n")
        client.send(b"USER ann\r\n")
        client.late(b"RPOP bob\r\n")
        self.assertEqual(client.send(b"RPOP anne\r\n"), b"-ERR send USER first\r\n")

    def test_denied(self):
        """Whom the checker refuses is denied permission, as late as a wrong password."""
        client = self.connect(b"USER ann", peer=RESERVED)
        self.assertEqual(client.send(b"RPOP bob\r\n"), b"")
        client.clock.advance(2)
        self.assertEqual(client.received(), b"-ERR [AUTH] permission denied\r\n")
        self.assertIn("the checker's own words", self.logged())
        client.send(b"USER ann\r\n")
        self.assertEqual(client.send(b"RPOP anne\r\n"), WELCOME)

    def test_guesses(self):
        """The third refusal closes the connection."""
        client = self.connect(peer=RESERVED)
        for _ in range(3):
            self.assertFalse(client.closed)
            client.send(b"USER ann\r\nRPOP bob\r\n")
            client.clock.advance(30)
        self.assertTrue(client.closed)

    def test_reserved_ports(self):
        """From any other than a reserved port RPOP is refused, and the checker never asked."""
        for port in (0, 1024, 65535):
            for kind, host in ((IPv4Address, "192.0.2.7"), (IPv6Address, "::ffff:192.0.2.7")):
                client = self.connect(b"USER ann", peer=kind("TCP", host, port))
                told = client.send(b"RPOP anne\r\n")
                self.assertEqual(told, b"-ERR RPOP requires a reserved client port\r\n")
        client = self.connect(b"USER ann", peer=UNIXAddress("/x"))
        told = client.send(b"RPOP anne\r\n")
        self.assertEqual(told, b"-ERR RPOP requires a reserved client port\r\n")
        self.assertEqual(self.checker.seen, [])
        self.assertIn("192.0.2.7:1024: b'ann' was refused with", self.logged())
        for cause in ("the client's port is not reserved", "the client has no IP address"):
            self.assertIn(f"reserved client port': {cause}", self.logged())
        # The name still stands.
        self.assertEqual(client.send(b"PASS pw\r\n"), WELCOME)

    def test_not_offered(self):
        """Without a checker for it RPOP is refused, and so it is where no login may be tried."""
        self.serve(dialect=DIALECTS["rfc1225"])
        client = self.connect(peer=RESERVED)
        self.assertEqual(client.send(b"RPOP anne\r\n"), NOT_OFFERED)
        self.serve(self.checker, dialect=DIALECTS["rfc1225"], require_tls=True)
        client = self.connect(peer=RESERVED)
        self.assertEqual(client.send(b"RPOP anne\r\n"), NOT_OFFERED)
        self.assertEqual(client.send(b"USER ann\r\n")[:5], b"-ERR ")

    def test_without_passwords(self):
        """USER is there for RPOP where no password may be sent; PASS is not."""
        client = self.connect(b"USER ann", peer=RESERVED)
        self.assertEqual(client.send(b"PASS pw\r\n")[:24], b"-ERR cleartext passwords")
        self.assertEqual(client.send(b"RPOP anne\r\n"), WELCOME)

    def test_user_refused(self):
        """USER is refused where neither may be given."""
        self.serve(dialect=DIALECTS["rfc1225"])
        client = self.connect(peer=STRANGER)
        self.assertEqual(client.send(b"USER ann\r\n")[:24], b"-ERR cleartext passwords")

    def test_after_login(self):
        """RPOP after the login is refused."""
        client = self.connect(b"USER ann", b"RPOP anne", peer=RESERVED)
        self.assertEqual(client.send(b"RPOP anne\r\n"), b"-ERR already logged in\r\n")


class OldTextsTests(ServerCase):
    """What the old texts say otherwise, for people alone."""

    def connected(self, name):
        """A client of a server of that dialect."""
        self.serve(dialect=DIALECTS[name])
        return self.connect()

    def test_user(self):
        """Every name is a hoopy frood's, and a strange one is not repeated."""
        client = self.connected("pop-revised")
        for name in (b"ann", b"nobody"):
            told = client.send(b"USER " + name + b"\r\n")
            self.assertEqual(told, b"+OK %b is a real hoopy frood\r\n" % name)
        for name in (b"\xe9", b"x" * 41):
            told = client.send(b"USER " + name + b"\r\n")
            self.assertEqual(told, b"+OK this is a real hoopy frood\r\n")

    def test_quit(self):
        """The server signs off by its old name."""
        for name, service in (("pop-revised", b"POP"), ("rfc1225", b"POP3")):
            client = self.connected(name)
            self.assertEqual(
                client.send(b"QUIT\r\n"), b"+OK dewey %b server signing off\r\n" % service
            )
            self.assertTrue(client.closed)
        client = self.connected("pop-revised")
        client.send(b"USER ann\r\nPASS pw\r\nDELE 2\r\n")
        told = client.send(b"QUIT\r\n")
        self.assertEqual(told, b"+OK dewey POP server signing off (1 message left)\r\n")
