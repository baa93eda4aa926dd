"""Tests of popserv.auth.passwords.decoys."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.passwords.decoys import Decoys
from popserv.auth.passwords.schemes import new_scram_sha256, split_field
from popserv.auth.passwords.scram_keys import ScramKeys, parse_scram_keys
from tests.auth.sasl.harness import KEYS, ScramClient, scram_outcome


class ScramKeysTests(SynchronousTestCase):
    """Decoys.scram_keys."""

    @given(st.binary(), st.binary(), st.sampled_from(["sha1", "sha256"]), st.integers(1, 10**9))
    def test_lengths(self, name, secret, hash_name, rounds):
        """Decoy keys have the lengths of a user's keys, and are the same each time."""
        decoy = Decoys(secret).scram_keys(hash_name, name, rounds)
        self.assertIsInstance(decoy, ScramKeys)
        self.assertEqual(decoy, Decoys(secret).scram_keys(hash_name, name, rounds))
        self.assertEqual(decoy.iterations, rounds)
        like = KEYS[hash_name]
        self.assertEqual([len(part) for part in decoy[1:]], [len(part) for part in like[1:]])

    def test_like_new_secrets(self):
        """The salt is as long as that of a new secret."""
        text = split_field(new_scram_sha256(b"pencil", 1))[1]
        self.assertEqual(
            len(Decoys(b"key").scram_keys("sha256", b"x", 1).salt), len(parse_scram_keys(text).salt)
        )

    def test_different(self):
        """Each name, secret and hash results in another salt and other keys."""
        decoys = [
            Decoys(secret).scram_keys(hash_name, name, 1)
            for hash_name in ("sha1", "sha256")
            for name in (b"", b"ann", b"bob", b"ann\0", b"\0ann")
            for secret in (b"key", b"other")
        ]
        parts = [part[:16] for decoy in decoys for part in decoy[1:]]
        self.assertEqual(len(set(parts)), 3 * len(decoys))

    def test_no_match(self):
        """No password matches decoy keys."""
        for hash_name in ("sha1", "sha256"):
            decoy = Decoys(b"key").scram_keys(hash_name, b"user", 3)
            for password in (b"", b"user", b"key", b"pencil", decoy.salt, decoy.stored_key):
                client = ScramClient(hash_name, password)
                self.assertIs(scram_outcome(client, decoy, hash_name), False)
