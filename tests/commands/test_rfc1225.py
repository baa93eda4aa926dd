"""RPOP, and the old texts of USER and QUIT (RFC 1225 and the draft before it)."""

from twisted.cred.credentials import IUsernamePassword
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.logger import formatEvent
from zope.interface.verify import verifyObject

from popserv.commands.dialects import DIALECTS
from popserv.interfaces import IRemoteUserCredentials
from tests.commands.harness import REMOTE_PEER, Checker, CommandTestCase, check_password

RESERVED = IPv4Address("TCP", "192.0.2.7", 1023)
NOT_AVAILABLE = b"-ERR RPOP is not available\r\n"
WELCOME = b"+OK ann's maildrop has 2 messages (10 octets)\r\n"


def check_remote_user(credentials):
    """Accept the user anne of 192.0.2.7 as ann."""
    identity = (credentials.remote_user, credentials.host)
    return credentials.username if identity == (b"anne", "192.0.2.7") else None


class RPOPTests(CommandTestCase):
    """RPOP: the client's host vouches for the user."""

    def setUp(self):
        """Serve RFC 1225 with a checker that trusts 192.0.2.7."""
        super().setUp()
        self.checker = Checker(check_remote_user, IRemoteUserCredentials)
        self.serve(
            Checker(check_password, IUsernamePassword),
            self.checker,
            dialect=DIALECTS["rfc1225"],
        )

    def test_login(self):
        """USER and RPOP from a reserved port log in like USER and PASS."""
        client = self.connect(peer=RESERVED)
        self.assertEqual(client.send(b"USER ann\r\n"), b"+OK ann is a real hoopy frood\r\n")
        self.assertEqual(client.send(b"RPOP anne\r\n"), WELCOME)
        (seen,) = self.checker.seen
        self.assertTrue(verifyObject(IRemoteUserCredentials, seen))
        fields = (seen.username, seen.remote_user, seen.host, seen.port)
        self.assertEqual(fields, (b"ann", b"anne", "192.0.2.7", 1023))
        client.send(b"DELE 1\r\nQUIT\r\n")
        self.assertEqual(list(self.store.stored[b"ann"]), [b"m2"])
        self.assert_released()

    def test_lowest_port(self):
        """The reserved ports begin with 1."""
        client = self.connect(b"USER ann", peer=IPv4Address("TCP", "192.0.2.7", 1))
        self.assertEqual(client.send(b"RPOP anne\r\n"), WELCOME)

    def test_user_first(self):
        """Each RPOP requires a USER before it."""
        client = self.connect(peer=RESERVED)
        self.assertEqual(client.send(b"RPOP anne\r\n"), b"-ERR send USER first\r\n")
        client.send(b"USER ann\r\n")
        client.send_and_wait(b"RPOP bob\r\n")
        self.assertEqual(client.send(b"RPOP anne\r\n"), b"-ERR send USER first\r\n")

    def test_denied(self):
        """A rejected RPOP is a failed login: the reply is delayed."""
        client = self.connect(b"USER ann", peer=RESERVED)
        self.assertEqual(client.send(b"RPOP bob\r\n"), b"")
        client.clock.advance(2)
        self.assertEqual(client.received(), b"-ERR [AUTH] permission denied\r\n")
        self.assertIn("the checker's own words", self.log_text())
        client.send(b"USER ann\r\n")
        self.assertEqual(client.send(b"RPOP anne\r\n"), WELCOME)

    def test_failed_logins(self):
        """The third failed login closes the connection."""
        client = self.connect(peer=RESERVED)
        for _ in range(3):
            self.assertFalse(client.closed)
            client.send(b"USER ann\r\nRPOP bob\r\n")
            client.clock.advance(30)
        self.assertTrue(client.closed)

    def test_reserved_ports(self):
        """From another port RPOP is rejected without asking the checker, and the log says why."""
        tcp = [
            (kind("TCP", host, port), f"{shown}:{port}", "the client's port is not reserved")
            for port in (0, 1024, 65535)
            for kind, host, shown in (
                (IPv4Address, "192.0.2.7", "192.0.2.7"),
                (IPv6Address, "::ffff:192.0.2.7", "192.0.2.7"),
            )
        ]
        socket = (UNIXAddress("/x"), "UNIX socket", "the client has no IP address")
        for peer, shown, cause in (*tcp, socket):
            client = self.connect(b"USER ann", peer=peer)
            reply = client.send(b"RPOP anne\r\n")
            self.assertEqual(reply, b"-ERR RPOP requires a reserved client port\r\n")
            self.assertEqual(
                formatEvent(self.log[-1]),
                f'{shown}: "ann" was refused with "RPOP requires a reserved client port": {cause}',
            )
        self.assertEqual(self.checker.seen, [])
        # The name of USER is still valid.
        self.assertEqual(client.send(b"PASS pw\r\n"), WELCOME)

    def test_not_available(self):
        """RPOP is rejected without a checker for it, and where login requires TLS."""
        self.serve(dialect=DIALECTS["rfc1225"])
        client = self.connect(peer=RESERVED)
        self.assertEqual(client.send(b"RPOP anne\r\n"), NOT_AVAILABLE)
        self.serve(self.checker, dialect=DIALECTS["rfc1225"], require_tls=True)
        client = self.connect(peer=RESERVED)
        self.assertEqual(client.send(b"RPOP anne\r\n"), NOT_AVAILABLE)
        self.assertEqual(client.send(b"USER ann\r\n")[:5], b"-ERR ")

    def test_without_passwords(self):
        """USER is available for RPOP where PASS is not."""
        client = self.connect(b"USER ann", peer=RESERVED)
        self.assertEqual(client.send(b"PASS pw\r\n")[:24], b"-ERR cleartext passwords")
        self.assertEqual(client.send(b"RPOP anne\r\n"), WELCOME)

    def test_user_not_available(self):
        """USER is rejected where neither RPOP nor PASS is available."""
        self.serve(dialect=DIALECTS["rfc1225"])
        client = self.connect(peer=REMOTE_PEER)
        self.assertEqual(client.send(b"USER ann\r\n")[:24], b"-ERR cleartext passwords")

    def test_after_login(self):
        """RPOP is rejected after the login."""
        client = self.connect(b"USER ann", b"RPOP anne", peer=RESERVED)
        self.assertEqual(client.send(b"RPOP anne\r\n"), b"-ERR already logged in\r\n")


class OldTextsTests(CommandTestCase):
    """Replies with the texts of the old dialects."""

    def connect_to(self, name):
        """Return a client of a server of this dialect."""
        self.serve(dialect=DIALECTS[name])
        return self.connect()

    def test_user(self):
        """The reply to USER contains the name, unless it is long or unprintable."""
        client = self.connect_to("pop-revised")
        for name in (b"ann", b"nobody"):
            reply = client.send(b"USER " + name + b"\r\n")
            self.assertEqual(reply, b"+OK %b is a real hoopy frood\r\n" % name)
        for name in (b"\xe9", b"x" * 41):
            reply = client.send(b"USER " + name + b"\r\n")
            self.assertEqual(reply, b"+OK this is a real hoopy frood\r\n")

    def test_quit(self):
        """The reply to QUIT contains the dialect's name of the service."""
        for name, service in (("pop-revised", b"POP"), ("rfc1225", b"POP3")):
            client = self.connect_to(name)
            self.assertEqual(
                client.send(b"QUIT\r\n"), b"+OK dewey %b server signing off\r\n" % service
            )
            self.assertTrue(client.closed)
        client = self.connect_to("pop-revised")
        client.send(b"USER ann\r\nPASS pw\r\nDELE 2\r\n")
        reply = client.send(b"QUIT\r\n")
        self.assertEqual(reply, b"+OK dewey POP server signing off (1 message left)\r\n")
