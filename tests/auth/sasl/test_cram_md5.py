"""Tests of popserv.auth.sasl.cram_md5: CRAM-MD5 (RFC 2195)."""

from tests.auth.sasl.harness import MechanismCase, run_exchange
from tests.auth.test_credentials import CRAM_MD5_DIGEST


class CramMD5Tests(MechanismCase):
    """CRAM-MD5 (RFC 2195)."""

    def test_response(self):
        """The response is a name, which may have spaces, and a digest."""
        for response, name in [(b"tim " + CRAM_MD5_DIGEST, b"tim"), (b"t i m x", b"t i m")]:
            credentials, client = run_exchange(b"CRAM-MD5", response)
            self.assertEqual(credentials.username, name)
            self.assertRegex(client.challenges[0], rb"^<\d+\.\d+@dewey>$")

    def test_unique(self):
        """Challenges are unique (section 2)."""
        challenges = {run_exchange(b"CRAM-MD5", b"a b")[1].challenges[0] for _ in range(100)}
        self.assertEqual(len(challenges), 100)

    def test_malformed(self):
        """A response without a name or a digest is malformed."""
        for response in (b"", b"tim", b" " + CRAM_MD5_DIGEST):
            self.assertMalformed(b"CRAM-MD5", response)
