"""Tests of popserv.auth.passwords.records."""

from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.passwords.extra_fields import NO_RULES
from popserv.auth.passwords.records import octets_of, user_of
from popserv.core.user_settings import UserSettings


class UserOfTests(SynchronousTestCase):
    """The user of a record."""

    def rules(self, **fields):
        """Return the rules of a record with these fields."""
        return user_of("ann", b"{PLAIN}x", fields).rules

    def test_user(self):
        """The name is a text or octets, and a valid one."""
        for name in ("ann", b"ann", bytearray(b"ann"), memoryview(b"ann")):
            user = user_of(name, b"{PLAIN}x", {})
            self.assertEqual(user, (b"ann", b"{PLAIN}x", NO_RULES))
        self.assertEqual(user_of("zo\xe9", b"", {}).name, "zo\xe9".encode())
        for name in (None, 1, [], "", "a b", "a/b", ".ann", "a:b"):
            self.assertRaises(ValueError, user_of, name, b"", {})

    def test_not_set(self):
        """None, false and 0 stand for a field that is not set."""
        for value in (None, False, 0):
            self.assertEqual(self.rules(nologin=value, popserv_since=value), NO_RULES)

    def test_flags(self):
        """True and 1 set a field that has no value."""
        for value in (True, 1, "yes"):
            self.assertEqual(self.rules(nologin=value).refusal, "nologin is set")
            self.assertEqual(self.rules(popserv_nologin=value).refusal, "popserv_nologin is set")
            self.assertTrue(self.rules(popserv_require_tls=value).requires_tls)
            settings = self.rules(popserv_read_only=value).settings
            self.assertEqual(settings, UserSettings(read_only=True))
        self.assertEqual(self.rules(nologin="").refusal, "nologin is set")

    def test_values(self):
        """Texts, octets and numbers are values as in a users file."""
        self.assertEqual(self.rules(delay_until=1_700_000_000).not_before, 1_700_000_000)
        self.assertEqual(self.rules(user=b"info").maildrop, b"info")
        self.assertIn("must be yes or no", self.rules(popserv_read_only=2).refusal)
        for value in ([], 1.5, object()):
            self.assertEqual(self.rules(user=value).refusal, "user is neither a text nor a number")

    def test_unknown(self):
        """A field that popserv does not know refuses, and the first reason stays."""
        self.assertIn("unknown extra field quota", self.rules(quota="1G", user=[]).refusal)
        self.assertEqual(self.rules(fail=True, user=[]).refusal, "fail is set")

    def test_octets(self):
        """What is no text has no octets."""
        self.assertEqual(octets_of("\udcff"), b"\xff")
        self.assertIsNone(octets_of(1))
