"""Sessions and failures of the store."""

from types import SimpleNamespace

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import ISSLTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import alsoProvides, directlyProvides

from popserv.errors import MessageChanged, NoSuchMessage, RemovalFailed
from popserv.metrics import catalogue
from popserv.transports.peers import ITLSAtProxy
from tests.metrics.harness import MeasuredMixin


class SessionTests(MeasuredMixin, SynchronousTestCase):
    """Sessions are counted at their beginning and at their end."""

    def test_tls(self):
        """Sessions are counted by the version of TLS, also that of a proxy, or none."""
        for version, tls in [
            (None, "none"),
            ("proxy", "proxy"),
            ("TLSv1.2", "TLSv1.2"),
            ("TLSv9", "other"),
        ]:
            client = self.connect(b"USER ann")
            if version == "proxy":
                alsoProvides(client.transport, ITLSAtProxy)
            elif version:
                state = SimpleNamespace(version=lambda version=version: version)
                client.server.session.tls_state = state
            client.send(b"PASS pw\r\nQUIT\r\n")
            client.lose()
            self.assertEqual(self.value(catalogue.SESSIONS, tls), 1)
        self.assertEqual(sum(self.nonzero(catalogue.SESSIONS).values()), 4)

    def test_handshake(self):
        """A TLS handshake that has failed is counted by the reason."""
        for error in (SSL.Error([("SSL routines", "", "http request")]), ValueError("x")):
            client = self.connect()
            directlyProvides(client.transport, ISSLTransport)
            client.server.connectionLost(Failure(error))
        self.assertEqual(self.nonzero(catalogue.FAILED_HANDSHAKES), {("no-tls",): 1, ("other",): 1})
        self.assertIn("TLS handshake failed: http request", self.log_lines()[0])

    def test_quit(self):
        """A session that QUIT ends is counted once, with what it has removed."""
        client = self.logged_in(b"DELE 2", b"QUIT")
        client.lose()
        self.assertEqual(self.nonzero(catalogue.ENDED_SESSIONS), {("quit",): 1})
        self.assertEqual(self.value(catalogue.REMOVED_MESSAGES), 1)
        self.assertEqual(self.value(catalogue.SESSION_SECONDS), 1)

    def test_closed(self):
        """So is one that the client just closes, which removes nothing."""
        self.logged_in(b"DELE 2").lose()
        self.assertEqual(self.nonzero(catalogue.ENDED_SESSIONS), {("closed",): 1})
        self.assertEqual(self.value(catalogue.REMOVED_MESSAGES), 0)

    def test_no_session(self):
        """Connections without a login are no sessions."""
        self.connect(b"QUIT").lose()
        self.connect().lose()
        self.assertEqual(self.nonzero(catalogue.SESSIONS), {})
        self.assertEqual(self.nonzero(catalogue.ENDED_SESSIONS), {})
        self.assertEqual(self.value(catalogue.SESSION_SECONDS), 0)


class StoreErrorTests(MeasuredMixin, SynchronousTestCase):
    """Failures of the store are counted by what it had to do."""

    def setUp(self):
        """Log in."""
        super().setUp()
        self.client = self.logged_in()
        self.mailbox = self.client.server.session.mailbox

    def let_fail(self, method, error):
        """Have a method of the mailbox fail."""

        async def failing(*_):
            raise error

        setattr(self.mailbox, method, failing)

    def errors(self):
        """Return the failures that were counted."""
        return self.nonzero(catalogue.STORE_ERRORS)

    def test_commands(self):
        """What clients do wrong is no failure of the store, nor what other programs do."""
        self.let_fail("open", NoSuchMessage())
        for line in (b"RETR 9", b"X", b"RETR 1", b"TOP 1 0", b"DELE x"):
            self.client.send(line + b"\r\n")
        self.assertEqual(self.errors(), {})

    def test_read(self):
        """A message that cannot be opened is one."""
        for at, error in enumerate((OSError("disk"), MessageChanged()), 1):
            self.let_fail("open", error)
            self.assertIn(b"-ERR", self.client.send(b"RETR 1\r\n"))
            self.assertEqual(self.errors(), {("read",): at})
        self.flushLoggedErrors(OSError)

    def test_body(self):
        """So is one that breaks off."""
        chunk = Deferred()

        async def opened(_):
            return [b"x" * (1 << 17), chunk]

        self.mailbox.open = opened
        self.patch_framer()
        self.client.send(b"RETR 1\r\n")
        chunk.errback(OSError("disk"))
        self.assertEqual(self.errors(), {("read",): 1})
        self.flushLoggedErrors(OSError)

    def patch_framer(self):
        """Have a message of any octets sent."""
        from popserv.commands import sending
        from popserv.messages.framing import MessageFramer

        self.patch(sending, "MessageFramer", lambda octets: MessageFramer())

    def test_remove(self):
        """So are messages that cannot be removed."""
        for error in (RemovalFailed(1), OSError("disk")):
            client = self.logged_in_as_other(error)
            self.assertIn(b"-ERR", client.send(b"QUIT\r\n"))
        self.assertEqual(self.errors(), {("remove",): 2})
        self.flushLoggedErrors(OSError)

    def logged_in_as_other(self, error):
        """Return a client whose messages cannot be removed."""
        self.client.lose()
        self.client = self.logged_in(b"DELE 1")
        self.mailbox = self.client.server.session.mailbox
        self.let_fail("remove", error)
        return self.client

    def test_release(self):
        """So is a lock that cannot be released."""
        self.client.server.events.log_failed_release(Failure(OSError("disk")))
        self.assertEqual(self.errors(), {("release",): 1})
        self.flushLoggedErrors(OSError)
