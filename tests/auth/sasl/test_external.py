"""Tests of popserv.auth.sasl.external: EXTERNAL (RFC 4422 appendix A)."""

from tests.auth.sasl.harness import FakeTLS, MechanismCase, run_exchange


class ExternalTests(MechanismCase):
    """EXTERNAL (RFC 4422 appendix A)."""

    def test_names(self):
        """The authorization identity is empty or one of the names in the certificate."""
        names = (b"ann@example.org", b"office@example.org")
        for authzid in (b"", *names):
            credentials, client = run_exchange(b"EXTERNAL", authzid, tls_state=FakeTLS({}, names))
            self.assertEqual((credentials.names, credentials.username), (names, authzid))
            self.assertEqual(client.challenges, [b""])

    def test_others(self):
        """Other authorization identities fail."""
        for authzid in (b"bob@example.org", b"ANN@example.org", b"ann", b"\0"):
            self.assertFails(b"EXTERNAL", authzid, tls_state=FakeTLS({}, (b"ann@example.org",)))

    def test_no_tls(self):
        """Without TLS there are no names."""
        credentials, _ = run_exchange(b"EXTERNAL", b"")
        self.assertEqual(credentials.names, ())
        self.assertFails(b"EXTERNAL", b"ann")
