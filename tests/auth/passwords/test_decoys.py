"""Tests of popserv.auth.passwords.decoys."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.passwords import decoys
from popserv.auth.passwords.decoys import Decoys, machine_secret
from popserv.auth.passwords.schemes import new_scram_sha256, split_field
from popserv.auth.passwords.scram_keys import ScramKeys, parse_scram_keys
from popserv.errors import TryLater
from tests.auth.sasl.harness import KEYS, ScramClient, scram_outcome


class MachineSecretTests(SynchronousTestCase):
    """machine_secret."""

    def secret(self, text):
        """Return the secret of a machine whose file has this text."""
        path = Path(self.mktemp())
        path.write_bytes(text)
        self.patch(decoys, "_MACHINE_ID", str(path))
        return machine_secret()

    def test_stable(self):
        """It stays the same, also with another version of popserv, and has 64 octets."""
        secret = self.secret(b"0123456789abcdef" * 2 + b"\n")
        self.assertEqual(secret[:8].hex(), "68ee1a37b9fc3aed")
        self.assertEqual(len(secret), 64)

    def test_no_machine_id(self):
        """Without a machine id, or with something else in its place, it is random."""
        for text in (b"", b"uninitialized\n", b"0" * 31, b"0" * 33, b"0" * 64, b"G" * 32):
            self.assertNotEqual(self.secret(text), self.secret(text), text)
        self.patch(decoys, "_MACHINE_ID", "/nonexistent")
        self.assertNotEqual(machine_secret(), machine_secret())


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

    def test_stable(self):
        """They stay the same with another version of popserv: other ones would tell the name."""
        keys = Decoys(b"key").scram_keys("sha256", b"Ann", 1)
        starts = [each[:4].hex() for each in keys[1:]]
        self.assertEqual(starts, ["8d2dd843", "3c3e6161", "a3eb6438"])
        long = Decoys(b"key").scram_keys("sha256", b"Ann", 1, 68).salt
        stable = ["8d2dd843", "3d964a7a", "7228584f"]
        self.assertEqual([long[start:][:4].hex() for start in (0, 32, 64)], stable)

    def test_like_new_secrets(self):
        """The salt is as long as that of a new secret."""
        text = split_field(new_scram_sha256(b"pencil", 1))[1]
        self.assertEqual(
            len(Decoys(b"key").scram_keys("sha256", b"x", 1).salt), len(parse_scram_keys(text).salt)
        )

    def test_salt_octets(self):
        """The salt is as long as asked, and starts the same whatever its length is."""
        for hash_name in ("sha1", "sha256"):
            for first, second in ((b"ann", b"bob"), (b"ann", b"ann2")):
                salts = [
                    Decoys(b"key").scram_keys(hash_name, name, 1, 100).salt
                    for name in (first, second)
                ]
                for start in range(0, 100, 4):
                    self.assertNotEqual(salts[0][start:], salts[1][start:])
            parts = {salts[0][start : start + 4] for start in range(0, 100, 4)}
            self.assertEqual(len(parts), 25)
            for octets in (0, 1, 16, 20, 21, 32, 33, 64, 65, 100):
                keys = Decoys(b"key").scram_keys(hash_name, b"ann", 1, octets)
                self.assertEqual(keys.salt, salts[0][:octets])
                like = Decoys(b"key").scram_keys(hash_name, b"ann", 1)
                self.assertEqual(keys[2:], like[2:])

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


class ChooseTests(SynchronousTestCase):
    """Decoys.choose."""

    def test_stable(self):
        """The choice stays the same with another version of popserv."""
        chosen = [Decoys(b"key").choose(b"%d" % n, "abcdefgh") for n in range(12)]
        self.assertEqual("".join(chosen), "dfdbcdbhdbbg")


class PrepareTests(SynchronousTestCase):
    """Decoys.prepare."""

    def test_asked(self):
        """The secret is asked for until it is known, and then no more."""
        answers = [fail(TryLater()), succeed(b"key")]
        made = Decoys(lambda: answers.pop(0))
        self.failureResultOf(Deferred.fromCoroutine(made.prepare()), TryLater)
        # Not with a key that anybody knows.
        self.assertRaises(AttributeError, made.scram_keys, "sha1", b"ann", 1)
        for _ in range(2):
            self.successResultOf(Deferred.fromCoroutine(made.prepare()))
            self.assertEqual(
                made.scram_keys("sha1", b"ann", 1), Decoys(b"key").scram_keys("sha1", b"ann", 1)
            )

    def test_given(self):
        """A secret that was given is used as it is."""
        made = Decoys(b"key")
        before = made.scram_keys("sha1", b"ann", 1)
        self.successResultOf(Deferred.fromCoroutine(made.prepare()))
        self.assertEqual(made.scram_keys("sha1", b"ann", 1), before)
