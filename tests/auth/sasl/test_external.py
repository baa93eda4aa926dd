"""Tests of popserv.auth.sasl.external: EXTERNAL (RFC 4422 appendix A)."""

from popserv.auth.sasl.mechanisms import external
from popserv.errors import LoginFailed
from tests.auth.sasl.harness import FakeTLS, MechanismCase, run_exchange

NAMES = (b"ann@example.org", b"office", b"a\nb@example.org")


class ExternalTests(MechanismCase):
    """EXTERNAL (RFC 4422 appendix A)."""

    def credentials(self, identity, names=NAMES, domain=b"", delimiter=b""):
        """Return the names and the user name of the credentials, or None if the login fails."""
        try:
            credentials, client = run_exchange(
                external(domain, delimiter), identity, tls_state=FakeTLS({}, names)
            )
        except LoginFailed as error:
            self.assertIsInstance(error.__cause__, PermissionError)
            return None
        self.assertEqual(client.challenges, [b""])
        return list(credentials.names), credentials.username

    def test_no_identity(self):
        """Without an authorization identity, the credentials have all names."""
        self.assertEqual(self.credentials(b""), (list(NAMES), b""))
        self.assertEqual(self.credentials(b"", ()), ([], b""))

    def test_identity(self):
        """With a name in the certificate as authorization identity, they have it alone."""
        for name in NAMES:
            self.assertEqual(self.credentials(name), ([name], name))

    def test_other_identity(self):
        """An authorization identity that is not a name in the certificate fails."""
        for identity in (
            *(b"bob@example.org", b"ANN@example.org", b"ann", b"ann@", b"@example.org", b"\0"),
            *(b"office@example.org", b"Office", b" office", b"ann@example.org office"),
        ):
            self.assertIsNone(self.credentials(identity), identity)
            self.assertIsNone(self.credentials(identity, ()), identity)

    def test_default_domain(self):
        """The default domain is added to the identity and the names before they are compared."""
        complete = [b"ann@example.org", b"office@example.org", b"a\nb@example.org"]
        self.assertEqual(self.credentials(b"", domain=b"example.org"), (complete, b""))
        for identity in (b"ann", b"ann@example.org"):
            expected = ([b"ann@example.org"], b"ann@example.org")
            self.assertEqual(self.credentials(identity, domain=b"example.org"), expected)
        for identity in (b"office", b"office@example.org"):
            expected = ([b"office@example.org"], b"office@example.org")
            self.assertEqual(self.credentials(identity, domain=b"example.org"), expected)
        for identity in (b"bob", b"ann@", b"ann@example.net", b"Ann", b"ann@Example.org"):
            self.assertIsNone(self.credentials(identity, domain=b"example.org"), identity)
        self.assertIsNone(self.credentials(b"ann", domain=b"example.net"))

    def test_folder(self):
        """A folder after the delimiter is not part of the name in the certificate."""
        for sent, name in (
            (b"ann+Lists@example.org", b"ann@example.org"),
            (b"office+a+b", b"office"),
            (b"office", b"office"),
        ):
            self.assertEqual(self.credentials(sent, delimiter=b"+"), ([name], sent))
        complete = b"office+Lists@example.org"
        expected = ([b"office@example.org"], complete)
        for sent in (b"office+Lists", complete):
            outcome = self.credentials(sent, domain=b"example.org", delimiter=b"+")
            self.assertEqual(outcome, expected)
        both = (b"ann", b"ann+b")
        self.assertEqual(self.credentials(b"ann+b", both, delimiter=b"+"), ([b"ann+b"], b"ann+b"))
        outcome = self.credentials(b"ann+b+c", both, delimiter=b"+")
        self.assertEqual(outcome, ([b"ann+b"], b"ann+b+c"))
        for sent in (b"bob+Lists@example.org", b"ann+Lists", b"ann-Lists@example.org", b"office+"):
            self.assertIsNone(self.credentials(sent, delimiter=b"+"), sent)
        self.assertIsNone(self.credentials(b"office+Lists"))

    def test_reason(self):
        """The reason for the log has the names in the certificate, as text of one line."""
        for names, shown in (((), "no user"), ((b"ann", b"a\nb"), '"ann", "a\\nb"')):
            error = self.assertFails(b"EXTERNAL", b"bob", tls_state=FakeTLS({}, names))
            self.assertEqual(
                str(error.__cause__),
                f"the client certificate is for {shown}, not for the authorization identity",
            )
        error = self.assertFails(b"EXTERNAL", b"bob", tls_state=FakeTLS({}, (b"a" * 9999,)))
        self.assertLess(len(str(error.__cause__)), 600)

    def test_no_tls(self):
        """Without TLS there are no names."""
        credentials, _ = run_exchange(b"EXTERNAL", b"")
        self.assertEqual(list(credentials.names), [])
        self.assertFails(b"EXTERNAL", b"ann")
