"""Tests of popserv.migration.pop3_urls."""

import ssl

from twisted.trial.unittest import SynchronousTestCase

from popserv.migration.pop3_urls import Security, ServerAddress, is_url
from tests.migration.harness import CA


class ServerAddressTests(SynchronousTestCase):
    """URLs of servers."""

    def test_valid(self):
        """A URL has a scheme, a host and a port, for which RFC 1939 and RFC 8314 have defaults."""
        cases = {
            "pop3://old.example": ("old.example", 110, False),
            "pop3://old.example:1110/": ("old.example", 1110, False),
            "pop3s://new.example": ("new.example", 995, True),
            "POP3S://[2001:db8::1]:9995": ("2001:db8::1", 9995, True),
        }
        for url, expected in cases.items():
            address = ServerAddress.from_url(url)
            self.assertEqual((address.host, address.port, address.implicit_tls), expected)

    def test_invalid(self):
        """Anything else is refused, and the message names it."""
        for url in (
            *("imap://host", "pop3:host", "pop3://", "pop3://:110", "host", "pop3://host:0"),
            *("pop3://host:x", "pop3://host:99999", "pop3://host/inbox"),
            *("pop3://host?x", "pop3://host#x", "pop3://[::1"),
        ):
            error = self.assertRaises(ValueError, ServerAddress.from_url, url)
            self.assertIn(url, str(error))

    def test_password(self):
        """A name is refused, and what may be a password is not repeated."""
        for url in ("pop3://ann@host", "pop3://ann:secret@host", "pop3:x:sec@ret@host"):
            error = str(self.assertRaises(ValueError, ServerAddress.from_url, url))
            self.assertEqual(error, "pop3:...@host: only a host and a port may follow pop3://")

    def test_is_url(self):
        """The scheme decides whether a text is meant as a URL."""
        given = ("pop3://x", "pop3s://", "maildir:/x", "pop3:x", "imap://x")
        self.assertEqual([is_url(text) for text in given], [True, True, False, False, False])

    def test_loopback(self):
        """Addresses of this machine are known, with or without a name."""
        hosts = ("127.0.0.1", "127.1.2.3", "[::1]", "localhost", "LOCALHOST", "192.0.2.1", "old")
        found = [ServerAddress.from_url(f"pop3://{host}").is_loopback for host in hosts]
        self.assertEqual(found, [True] * 5 + [False] * 2)

    def test_text(self):
        """In messages a server is its host and its port, also in IPv6."""
        self.assertEqual(str(ServerAddress.from_url("pop3://old")), "old:110")
        self.assertEqual(str(ServerAddress.from_url("pop3s://[::1]")), "[::1]:995")


class SecurityTests(SynchronousTestCase):
    """How certificates are verified."""

    def test_default(self):
        """Certificates and names are verified unless the connection may be insecure."""
        context = Security().context()
        self.assertEqual((context.verify_mode, context.check_hostname), (ssl.CERT_REQUIRED, True))
        context = Security(insecure=True).context()
        self.assertEqual((context.verify_mode, context.check_hostname), (ssl.CERT_NONE, False))

    def test_ca_file(self):
        """The file's certificates replace those of the system; the message names a bad file."""
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(CA.certificate_pem())
        self.assertEqual(Security(path).context().cert_store_stats()["x509"], 1)
        with open(path, "wb") as file:
            file.write(b"nothing")
        for bad in (path, "/missing"):
            error = self.assertRaises(ValueError, Security(bad).context)
            self.assertIn(f"--ca-file {bad}: ", str(error))
