"""Tests of popserv.auth.sasl.external: EXTERNAL (RFC 4422 appendix A)."""

from tests.auth.sasl.harness import FakeTLS, MechanismCase, run_exchange


class ExternalTests(MechanismCase):
    """EXTERNAL (RFC 4422 appendix A)."""

    def test_names(self):
        """The credentials have the names in the certificate, and any authorization identity."""
        names = (b"ann@example.org", b"office@example.org")
        for authzid in (b"", *names, b"bob@example.org", b"ANN@example.org", b"ann", b"\0"):
            credentials, client = run_exchange(b"EXTERNAL", authzid, tls_state=FakeTLS({}, names))
            self.assertEqual((credentials.names, credentials.username), (names, authzid))
            self.assertEqual(client.challenges, [b""])

    def test_no_tls(self):
        """Without TLS there are no names."""
        for authzid in (b"", b"ann"):
            credentials, _ = run_exchange(b"EXTERNAL", authzid)
            self.assertEqual(credentials.names, ())
