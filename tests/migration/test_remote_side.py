"""remote_side: sessions with another server; tests.live has real ones."""

import poplib
import ssl
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from popserv.migration import remote_side
from popserv.migration.remote_side import RemoteMaildrop, Server, logged_in, parse_url

CONTEXT = ssl.create_default_context()


class FakePOP3:
    """A client of a server that has two messages."""

    has_top = True
    capabilities = {"STLS": []}
    listing = [b"1 10", b"3 30"]
    uidl_listing = [b"3 c", b"1 a"]
    refuses = None
    quits = True

    def __init__(self, *arguments, **options):
        self.calls = [("connect", *arguments)]
        self.options = options

    def __getattr__(self, name):
        def call(*arguments):
            if name == self.refuses:
                raise poplib.error_proto(b"-ERR no \xc3\xa9")
            self.calls.append((name, *arguments))

        return call

    def list(self):
        """LIST."""
        return b"+OK", self.listing, 0

    def uidl(self):
        """UIDL."""
        return b"+OK", self.uidl_listing, 0

    def capa(self):
        """CAPA."""
        if self.capabilities is None:
            raise poplib.error_proto("-ERR")
        return self.capabilities

    def top(self, number, lines):
        """TOP."""
        self.calls.append(("top", number, lines))
        if not self.has_top:
            raise poplib.error_proto("-ERR")
        return b"+OK", [b"header"], 0

    def retr(self, number):
        """RETR."""
        self.calls.append(("retr", number))
        return b"+OK", [b"header", b"", b"body"], 0


class UrlTests(SynchronousTestCase):
    """Which servers a URL names."""

    def test_valid(self):
        """A URL has a host and perhaps a port."""
        for url, server in {
            "pop3s://pop.example.org": ("pop3s", "pop.example.org", 995),
            "pop3://[::1]:1110/": ("pop3", "::1", 1110),
            "pop3://10.0.0.1": ("pop3", "10.0.0.1", 110),
        }.items():
            self.assertEqual(parse_url(url, CONTEXT)[:3], server)

    def test_invalid(self):
        """Another URL is rejected."""
        for url in ("imap://h", "pop3://", "pop3:h", "pop3://h/x", "pop3://h:x", "pop3://[h"):
            self.assertIn(url, str(self.assertRaises(ValueError, parse_url, url, CONTEXT)))


class SessionTests(SynchronousTestCase):
    """Logging in, and what is read."""

    def setUp(self):
        """Have a fake client."""
        self.fake = type("Fake", (FakePOP3,), {})
        self.clients = []

        def connect(*arguments, **options):
            self.clients.append(self.fake(*arguments, **options))
            return self.clients[-1]

        self.patch(poplib, "POP3", connect)
        self.patch(poplib, "POP3_SSL", connect)

    def calls(self, scheme="pop3s", host="pop.example.org", allows_plaintext=False):
        """Return the calls of a session in which nothing is read."""
        server = Server(scheme, host, 1, CONTEXT, allows_plaintext)
        with logged_in(server, b"ann\xe9", b"s\xff"):
            pass
        return [call[0] for call in self.clients[-1].calls]

    def test_tls(self):
        """pop3s: starts with TLS, and pop3: by STLS before the login."""
        self.assertEqual(self.calls(), ["connect", "user", "pass_", "quit", "close"])
        self.assertIs(self.clients[-1].options["context"], CONTEXT)
        self.assertEqual(self.calls("pop3"), ["connect", "stls", "user", "pass_", "quit", "close"])
        self.assertIn(("stls", CONTEXT), self.clients[-1].calls)

    def test_octets(self):
        """Names and passwords are sent as they are."""
        self.calls()
        client = self.clients[-1]
        (_, name), (_, password) = (call for call in client.calls if call[0] in ("user", "pass_"))
        self.assertEqual(name.encode(client.encoding), b"ann\xe9")
        self.assertEqual(password.encode(client.encoding), b"s\xff")

    def test_cleartext(self):
        """Without STLS, a password is sent to this machine, or if that is allowed."""
        for capabilities in ({}, None):
            self.fake.capabilities = capabilities
            error = self.assertRaises(ValueError, self.calls, "pop3")
            self.assertIn("use pop3s://, or --insecure", str(error))
            self.assertNotIn("pass_", [call[0] for call in self.clients[-1].calls])
            for host in ("127.0.0.1", "::1", "localhost"):
                self.assertIn("pass_", self.calls("pop3", host))
            self.assertIn("pass_", self.calls("pop3", allows_plaintext=True))

    def test_refused(self):
        """A refused command ends the session; the error has the reply."""
        self.fake.refuses = "pass_"
        error = self.assertRaises(ValueError, self.calls)
        self.assertEqual(str(error), "pop.example.org: -ERR no é")
        self.assertEqual([call[0] for call in self.clients[-1].calls[-2:]], ["quit", "close"])
        for error in (poplib.error_proto("line too long"), poplib.error_proto()):
            with mock.patch.object(remote_side, "RemoteMaildrop", side_effect=error):
                raised = self.assertRaises(ValueError, self.calls)
            self.assertIn("pop.example.org: ", str(raised))

    def test_lost(self):
        """A QUIT that fails does no harm."""
        self.fake.refuses = "quit"
        self.assertEqual(self.calls()[-1], "close")

    def test_messages(self):
        """Numbers need not be consecutive; a message may have no unique-id."""
        maildrop = RemoteMaildrop(FakePOP3())
        self.assertEqual(maildrop.sizes, [10, 30])
        self.assertEqual(maildrop.unique_ids, [b"a", b"c"])
        self.fake.uidl_listing = [b"3 c extra words"]
        self.assertEqual(RemoteMaildrop(self.fake()).unique_ids, [b"", b"c"])
        self.assertEqual(maildrop.header(1), [b"header"])
        self.assertEqual(maildrop.contents(1), [b"header", b"", b"body"])
        self.assertEqual(maildrop._client.calls[1:], [("top", 3, 0), ("retr", 3)])

    def test_without_top(self):
        """Without TOP, headers are read by RETR, and TOP is not tried again."""
        self.fake.has_top = False
        maildrop = RemoteMaildrop(self.fake())
        for position in range(2):
            self.assertEqual(maildrop.header(position)[0], b"header")
        calls = [("top", 1, 0), ("retr", 1), ("retr", 3)]
        self.assertEqual(maildrop._client.calls[1:], calls)

    def test_invalid_listing(self):
        """A listing without numbers is an error."""
        for line in (b"1", b"x 1", b""):
            self.fake.listing = [line]
            self.assertRaises(poplib.error_proto, RemoteMaildrop, self.fake())
