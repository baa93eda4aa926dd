"""Tests of popserv.auth.credentials, with the examples of RFC 1725 and RFC 2195."""

from twisted.cred.credentials import ICredentials, IUsernameHashedPassword
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv.auth.credentials import (
    APOPCredentials,
    CertificateCredentials,
    CramMD5Credentials,
    RemoteUserCredentials,
)
from popserv.auth.hmac_md5 import hmac_md5_context
from popserv.interfaces import (
    IAPOPCredentials,
    ICertificateCredentials,
    ICramMD5Credentials,
    IRemoteUserCredentials,
)

# The example of APOP in RFC 1725 section 7.
TIMESTAMP = b"<1896.697170952@dbc.mtview.ca.us>"
DIGEST = b"c4c9334bac560ecc979e58001b3e22fb"
SECRET = b"tanstaaf"

# The example of CRAM-MD5 in RFC 2195 section 2.
CRAM_MD5_CHALLENGE = b"<1896.697170952@postoffice.reston.mci.net>"
CRAM_MD5_DIGEST = b"b913a602c7eda7a495b4e6e7334d3890"


class APOPCredentialsTests(SynchronousTestCase):
    """APOPCredentials."""

    def test_interfaces(self):
        """They are not credentials of a kind that password checkers of twisted.cred accept."""
        credentials = APOPCredentials(b"mrose", TIMESTAMP, DIGEST)
        verifyObject(IAPOPCredentials, credentials)
        verifyObject(ICredentials, credentials)
        self.assertFalse(IUsernameHashedPassword.providedBy(credentials))
        self.assertEqual(credentials.username, b"mrose")

    def test_example(self):
        """The example of RFC 1725 section 7 is accepted."""
        self.assertIs(APOPCredentials(b"mrose", TIMESTAMP, DIGEST).check_secret(SECRET), True)

    def test_other_secret(self):
        """Any other secret is rejected."""
        credentials = APOPCredentials(b"mrose", TIMESTAMP, DIGEST)
        for secret in (b"", b"tanstaa", b"tanstaaff", b"TANSTAAF", b"\xff", b"tanstaaf\0", DIGEST):
            self.assertIs(credentials.check_secret(secret), False)

    def test_other_timestamp(self):
        """A digest for the timestamp of another greeting is rejected, so it cannot be replayed."""
        for timestamp in (b"", TIMESTAMP.strip(b"<>"), TIMESTAMP.replace(b"1896", b"1897")):
            self.assertIs(APOPCredentials(b"mrose", timestamp, DIGEST).check_secret(SECRET), False)

    def test_syntax(self):
        """A digest must be 32 lower-case hexadecimal digits."""
        for digest in (b"", DIGEST.upper(), DIGEST[:-1], DIGEST + b"0", b"\xff" * 32, b"0" * 32):
            self.assertIs(APOPCredentials(b"mrose", TIMESTAMP, digest).check_secret(SECRET), False)


class CramMD5CredentialsTests(SynchronousTestCase):
    """CramMD5Credentials."""

    def test_example(self):
        """The example of RFC 2195 section 2 is accepted; other values are rejected."""
        right = CramMD5Credentials(b"tim", CRAM_MD5_CHALLENGE, CRAM_MD5_DIGEST)
        verifyObject(IUsernameHashedPassword, right)
        self.assertIs(right.checkPassword(b"tanstaaftanstaaf"), True)
        for challenge, digest, password in [
            (CRAM_MD5_CHALLENGE[1:], CRAM_MD5_DIGEST, b"tanstaaftanstaaf"),
            (CRAM_MD5_CHALLENGE, CRAM_MD5_DIGEST.upper(), b"tanstaaftanstaaf"),
            (CRAM_MD5_CHALLENGE, CRAM_MD5_DIGEST[1:], b"tanstaaftanstaaf"),
            (CRAM_MD5_CHALLENGE, b"\xff" * 32, b"tanstaaftanstaaf"),
            (CRAM_MD5_CHALLENGE, b"", b""),
            (CRAM_MD5_CHALLENGE, CRAM_MD5_DIGEST, b""),
            (CRAM_MD5_CHALLENGE, CRAM_MD5_DIGEST, b"tanstaaf"),
        ]:
            self.assertIs(
                CramMD5Credentials(b"tim", challenge, digest).checkPassword(password), False
            )

    def test_context(self):
        """The example is also accepted by the context of the password, and by no other."""
        credentials = CramMD5Credentials(b"tim", CRAM_MD5_CHALLENGE, CRAM_MD5_DIGEST)
        verifyObject(ICramMD5Credentials, credentials)
        for password, is_right in ((b"tanstaaftanstaaf", True), (b"tanstaaf", False)):
            self.assertIs(credentials.check_context(hmac_md5_context(password)), is_right)


class CertificateCredentialsTests(SynchronousTestCase):
    """CertificateCredentials."""

    def test_names(self):
        """The credentials have the names of the certificate, and the client's own, if any."""
        for names, username in (([b"ann", b"bob"], b""), ([b"ann"], b"ann")):
            credentials = CertificateCredentials(names, *filter(None, [username]))
            verifyObject(ICertificateCredentials, credentials)
            self.assertEqual((credentials.names, credentials.username), (names, username))


class RemoteUserCredentialsTests(SynchronousTestCase):
    """RemoteUserCredentials."""

    def test_interfaces(self):
        """They have the arguments of USER and RPOP, and the client's address (RFC 1225, RPOP)."""
        credentials = RemoteUserCredentials(b"mrose", b"rose", "192.0.2.7", 1023)
        verifyObject(IRemoteUserCredentials, credentials)
        verifyObject(ICredentials, credentials)
        self.assertFalse(IUsernameHashedPassword.providedBy(credentials))
        self.assertEqual(
            (credentials.username, credentials.remote_user, credentials.host, credentials.port),
            (b"mrose", b"rose", "192.0.2.7", 1023),
        )
