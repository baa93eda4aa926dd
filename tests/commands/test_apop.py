"""APOP: when it is available, and what it proves (RFC 1725 section 7)."""

from hashlib import md5

from twisted.cred.credentials import IUsernamePassword

from popserv.interfaces import IAPOPCredentials
from tests.commands.harness import LOGIN_FAILED, Checker, CommandTestCase, check_password
from tests.commands.sasl_harness import WELCOME

NOT_AVAILABLE = b"-ERR APOP is not available\r\n"


def check_digest(credentials):
    """Return ann if the credentials prove that the secret is tanstaaf."""
    digest = md5(credentials.timestamp + b"tanstaaf", usedforsecurity=False).hexdigest()
    return b"ann" if credentials.digest == digest.encode() else None


class APOPTests(CommandTestCase):
    """The digest of the greeting's timestamp and the user's secret."""

    def setUp(self):
        """Serve with a checker of digests, and one of passwords."""
        super().setUp()
        self.checkers = (
            Checker(check_digest, IAPOPCredentials),
            Checker(check_password, IUsernamePassword),
        )
        self.serve(*self.checkers)

    def apop(self, client, secret=b"tanstaaf", name=b"ann"):
        """Return the reply to APOP with the digest of a secret."""
        timestamp = client.greeting.split(b" ")[-1].strip()
        digest = md5(timestamp + secret, usedforsecurity=False).hexdigest()
        return client.send_and_wait(b"APOP %b %b\r\n" % (name, digest.encode()))

    def test_login(self):
        """The digest of the right secret logs in, and that of another one does not."""
        client = self.connect()
        self.assertEqual(self.apop(client, b"other"), LOGIN_FAILED)
        self.assertEqual(self.apop(client), WELCOME)

    def test_name(self):
        """A name may contain spaces, but no control characters."""
        client = self.connect()
        self.assertEqual(
            self.apop(client, name=b"ann\t"), b"-ERR control characters are not allowed\r\n"
        )
        self.assertIn(b"+OK ann of dewey's maildrop", self.apop(client, name=b"ann of dewey"))
        (credentials,) = self.checkers[0].seen
        self.assertEqual(credentials.username, b"ann of dewey")

    def test_user_is_forgotten(self):
        """The name of USER is not used after a failed APOP."""
        client = self.connect(b"USER ann")
        self.assertEqual(self.apop(client, b"other"), LOGIN_FAILED)
        self.assertEqual(client.send(b"PASS pw\r\n"), b"-ERR send USER first\r\n")

    def test_require_tls(self):
        """Where login requires TLS, APOP is not available without it."""
        self.serve(*self.checkers, require_tls=True)
        self.assertEqual(self.apop(self.connect()), NOT_AVAILABLE)
        self.assertEqual(self.apop(self.connect(tls=True)), WELCOME)

    def test_no_timestamp(self):
        """Without a timestamp in the greeting, APOP is not available."""
        self.serve(self.checkers[1])
        client = self.connect()
        self.assertNotIn(b"<", client.greeting)
        self.assertEqual(self.apop(client), NOT_AVAILABLE)
