"""Tests of popserv.auth.passwords.scram_keys."""

import hmac
from base64 import b64decode, b64encode

from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.passwords.scram_keys import (
    SCRAM_ITERATIONS,
    derive_scram_keys,
    parse_iterations,
    parse_scram_keys,
)
from tests.auth.sasl.test_scram import RFC_5802, RFC_7677, attributes


class DeriveTests(SynchronousTestCase):
    """derive_scram_keys."""

    def test_examples(self):
        """The server key results in the server signatures of RFC 5802 and RFC 7677."""
        for hash_name, messages in (("sha1", RFC_5802), ("sha256", RFC_7677)):
            client_first, server_first, client_final, server_final = messages
            received = attributes(server_first)
            salt, iterations = b64decode(received[b"s"]), int(received[b"i"])
            keys = derive_scram_keys(hash_name, b"pencil", salt, iterations)
            self.assertEqual((keys.salt, keys.iterations), (salt, iterations))
            bare, final = client_first.removeprefix(b"n,,"), client_final.rpartition(b",p=")[0]
            message = b",".join([bare, server_first, final])
            signature = hmac.digest(keys.server_key, message, hash_name)
            self.assertEqual(b"v=" + b64encode(signature), server_final)

    def test_salt(self):
        """The default salt is random and has 16 octets."""
        salts = {derive_scram_keys("sha256", b"pencil", iterations=1).salt for _ in range(10)}
        self.assertEqual(len(salts), 10)
        self.assertEqual({len(salt) for salt in salts}, {16})

    def test_iterations(self):
        """New secrets have at least the 4,096 iterations of RFC 7677 section 4."""
        self.assertGreaterEqual(SCRAM_ITERATIONS, 4096)


class ParseTests(SynchronousTestCase):
    """parse_scram_keys and parse_iterations."""

    def test_keys(self):
        """The keys are the iteration count and three base64 strings, separated by commas."""
        keys = derive_scram_keys("sha256", b"pencil", b"salt", 3)
        secret = b",".join([b"3", *map(b64encode, keys[1:])])
        self.assertEqual(parse_scram_keys(secret), keys)

    def test_malformed(self):
        """A malformed secret is a ValueError."""
        for secret in (b"", b"1", b"1,AAAA,AAAA", b"1,AAAA,AAAA,AAAA,AAAA", b"1,A,AAAA,AAAA"):
            self.assertRaises(ValueError, parse_scram_keys, secret)

    def test_iterations(self):
        """An iteration count has one to nine digits, so that it does not overflow in hashlib."""
        self.assertEqual(parse_iterations(b"999999999"), 999_999_999)
        for text in (b"", b"-1", b"+1", b"1_0", b"x", b"1000000000"):
            self.assertRaises(ValueError, parse_iterations, text)
