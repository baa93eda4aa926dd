"""APOP's credentials, against the RFC's own example, and RPOP's."""

from twisted.cred.credentials import ICredentials, IUsernameHashedPassword
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv.auth.credentials import APOPCredentials, RemoteUserCredentials
from popserv.interfaces import IAPOPCredentials, IRemoteUserCredentials

# RFC 1725 section 7, the example of APOP.
TIMESTAMP = b"<1896.697170952@dbc.mtview.ca.us>"
DIGEST = b"c4c9334bac560ecc979e58001b3e22fb"
SECRET = b"tanstaaf"


class APOPCredentialsTests(SynchronousTestCase):
    """APOPCredentials: a digest proves a secret, and nothing else does."""

    def test_interfaces(self):
        """They are credentials of popserv's own kind, not of one that password checkers take."""
        credentials = APOPCredentials(b"mrose", TIMESTAMP, DIGEST)
        verifyObject(IAPOPCredentials, credentials)
        verifyObject(ICredentials, credentials)
        self.assertFalse(IUsernameHashedPassword.providedBy(credentials))
        self.assertEqual(credentials.username, b"mrose")

    def test_example(self):
        """The RFC's example is accepted (RFC 1725 section 7)."""
        self.assertIs(APOPCredentials(b"mrose", TIMESTAMP, DIGEST).check_secret(SECRET), True)

    def test_other_secret(self):
        """Any other secret is refused."""
        credentials = APOPCredentials(b"mrose", TIMESTAMP, DIGEST)
        for secret in (b"", b"tanstaa", b"tanstaaff", b"TANSTAAF", b"\xff", b"tanstaaf\0", DIGEST):
            self.assertIs(credentials.check_secret(secret), False)

    def test_other_timestamp(self):
        """A digest for another greeting's timestamp is refused: it cannot be sent again."""
        for timestamp in (b"", TIMESTAMP.strip(b"<>"), TIMESTAMP.replace(b"1896", b"1897")):
            self.assertIs(APOPCredentials(b"mrose", timestamp, DIGEST).check_secret(SECRET), False)

    def test_form(self):
        """A digest is 32 lower-case hexadecimal digits, and nothing in another form."""
        for digest in (b"", DIGEST.upper(), DIGEST[:-1], DIGEST + b"0", b"\xff" * 32, b"0" * 32):
            self.assertIs(APOPCredentials(b"mrose", TIMESTAMP, digest).check_secret(SECRET), False)


class RemoteUserCredentialsTests(SynchronousTestCase):
    """RemoteUserCredentials: what a client says of itself, for a checker to believe or not."""

    def test_interfaces(self):
        """They hold what USER and RPOP said, and where the client is (RFC 1225, RPOP)."""
        credentials = RemoteUserCredentials(b"mrose", b"rose", "192.0.2.7", 1023)
        verifyObject(IRemoteUserCredentials, credentials)
        verifyObject(ICredentials, credentials)
        self.assertFalse(IUsernameHashedPassword.providedBy(credentials))
        self.assertEqual(
            (credentials.username, credentials.remote_user, credentials.host, credentials.port),
            (b"mrose", b"rose", "192.0.2.7", 1023),
        )
