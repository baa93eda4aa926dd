"""Tests of popserv.auth.sasl.mechanisms: the table of mechanisms."""

from twisted.cred.credentials import IUsernameHashedPassword, IUsernamePassword

from popserv.auth.sasl.mechanisms import DEFAULT_MECHANISMS, MECHANISMS
from popserv.core.session import Session
from popserv.interfaces import (
    ICertificateCredentials,
    IScramSHA1Credentials,
    IScramSHA256Credentials,
    ITokenCredentials,
)
from tests.auth.sasl.harness import (
    MECHANISMS_BY_NAME,
    AllSupported,
    FakeTLS,
    MechanismCase,
    make_session,
    run_exchange,
)


class TableTests(MechanismCase):
    """The table of mechanisms."""

    def test_names(self):
        """Names have 1 to 20 characters and are unique (RFC 4422 section 3.1)."""
        for each in MECHANISMS:
            self.assertRegex(each.name, rb"^[A-Z0-9_-]{1,20}$")
        self.assertEqual(len(MECHANISMS_BY_NAME), len(MECHANISMS))

    def test_order(self):
        """Stronger mechanisms precede weaker ones, -PLUS mechanisms those without."""
        self.assertEqual(
            [each.name.decode() for each in MECHANISMS],
            "SCRAM-SHA-256-PLUS SCRAM-SHA-256 SCRAM-SHA-1-PLUS SCRAM-SHA-1 EXTERNAL "
            "OAUTHBEARER XOAUTH2 CRAM-MD5 PLAIN LOGIN".split(),
        )

    def test_by_default(self):
        """CRAM-MD5 and the -PLUS mechanisms are not in the default."""
        left_out = {each.name for each in MECHANISMS} - {each.name for each in DEFAULT_MECHANISMS}
        self.assertEqual(left_out, {b"CRAM-MD5", b"SCRAM-SHA-256-PLUS", b"SCRAM-SHA-1-PLUS"})

    def test_available(self):
        """The available mechanisms depend on the connection, as Mechanism describes."""
        everything = set(MECHANISMS_BY_NAME)
        cleartext = {b"OAUTHBEARER", b"XOAUTH2", b"PLAIN", b"LOGIN"}
        plus = {b"SCRAM-SHA-256-PLUS", b"SCRAM-SHA-1-PLUS"}
        bound = FakeTLS({b"tls-exporter": b"x"})
        for options, missing in [
            ({}, plus | {b"EXTERNAL"}),
            ({"allows_cleartext": False}, cleartext | plus | {b"EXTERNAL"}),
            ({"allows_login": False}, everything),
            ({"tls_state": bound}, {b"EXTERNAL"}),
            ({"tls_state": FakeTLS({b"tls-server-end-point": b"x"})}, {b"EXTERNAL"}),
            # RFC 9266 section 3: tls-unique does not count, because TLS 1.3 does not have it.
            ({"tls_state": FakeTLS({b"tls-unique": b"x"})}, plus | {b"EXTERNAL"}),
            ({"tls_state": FakeTLS({}, (b"ann",))}, plus),
            ({"tls_state": FakeTLS({}, (b"ann",)), "allows_cleartext": False}, plus | cleartext),
            ({"tls_state": FakeTLS({}, ())}, plus | {b"EXTERNAL"}),
            ({"tls_state": bound, "allows_cleartext": False}, cleartext | {b"EXTERNAL"}),
        ]:
            available = {
                each.name for each in MECHANISMS if each.is_available(make_session(**options))
            }
            self.assertEqual(everything - available, missing, options)

    def test_supports(self):
        """A mechanism is available only if its credentials are supported."""
        authenticator = AllSupported()
        authenticator.supports = lambda credentials: credentials is IUsernamePassword
        session = Session(authenticator)
        available = [each.name for each in MECHANISMS if each.is_available(session)]
        self.assertEqual(available, [b"PLAIN", b"LOGIN"])


class ScramTests(MechanismCase):
    """The four SCRAM mechanisms; test_scram.py tests their exchange."""

    def test_hashes(self):
        """Each mechanism has its hash, and channel binding if it ends in -PLUS."""
        tls_state = FakeTLS()
        for name, kind, header in [
            (b"SCRAM-SHA-256", IScramSHA256Credentials, b"n,,"),
            (b"SCRAM-SHA-1", IScramSHA1Credentials, b"n,,"),
            (b"SCRAM-SHA-256-PLUS", IScramSHA256Credentials, b"p=tls-exporter,,"),
            (b"SCRAM-SHA-1-PLUS", IScramSHA1Credentials, b"p=tls-server-end-point,,"),
        ]:
            self.assertIs(MECHANISMS_BY_NAME[name].credentials, kind)
            credentials, _ = run_exchange(name, header + b"n=user,r=abc", tls_state=tls_state)
            self.assertEqual(credentials.username, b"user")
            self.assertMalformed(name, b"nonsense", tls_state=tls_state)

    def test_downgrade(self):
        """A client that did not see an offered -PLUS mechanism fails (RFC 5802 section 6)."""
        first = b"y,,n=user,r=abc"
        for name in (b"SCRAM-SHA-256", b"SCRAM-SHA-1"):
            self.assertFails(name, first, offered=[name, name + b"-PLUS"])
            run_exchange(name, first, offered=[name])
        # The -PLUS mechanism of the other hash has no effect.
        run_exchange(b"SCRAM-SHA-1", first, offered=[b"SCRAM-SHA-1", b"SCRAM-SHA-256-PLUS"])


class FieldsTests(MechanismCase):
    """The fields of the mechanisms."""

    def test_credentials(self):
        """Each mechanism has the interface of its credentials."""
        for name, kind in [
            (b"PLAIN", IUsernamePassword),
            (b"LOGIN", IUsernamePassword),
            (b"CRAM-MD5", IUsernameHashedPassword),
            (b"EXTERNAL", ICertificateCredentials),
            (b"OAUTHBEARER", ITokenCredentials),
            (b"XOAUTH2", ITokenCredentials),
        ]:
            self.assertIs(MECHANISMS_BY_NAME[name].credentials, kind)

    def test_external(self):
        """EXTERNAL of the table has neither a default domain nor folders."""
        tls_state = FakeTLS({}, (b"ann",))
        credentials, _ = run_exchange(b"EXTERNAL", b"ann", tls_state=tls_state)
        self.assertEqual(list(credentials.names), [b"ann"])
        for identity in (b"ann+a", b"ann/a", b"annXa"):
            self.assertFails(b"EXTERNAL", identity, tls_state=tls_state)

    def test_server_first(self):
        """Only in CRAM-MD5 the server sends data first (RFC 2195 section 2)."""
        self.assertEqual([each.name for each in MECHANISMS if each.server_first], [b"CRAM-MD5"])
