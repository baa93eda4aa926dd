"""Tests of popserv.auth.users.records."""

from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.names import MAX_NAME
from popserv.auth.users.extra_fields import NO_RULES
from popserv.auth.users.records import name_parts, octets_of, service_user, user_of
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

    def test_sessions(self):
        """A number of sessions is one, and 0 stands for a field that is not set."""
        settings = self.rules(popserv_max_user_sessions=5).settings
        self.assertEqual(settings, UserSettings(max_user_sessions=5))
        self.assertEqual(self.rules(popserv_max_user_sessions=0), NO_RULES)
        for value in (1, True, -2):
            self.assertIn("must be a whole number", self.rules(popserv_max_user_sessions=value)[0])

    def test_octets(self):
        """What is no text has no octets."""
        self.assertEqual(octets_of("\udcff"), b"\xff")
        self.assertIsNone(octets_of(1))


class ServiceUserTests(SynchronousTestCase):
    """The user whom a service names."""

    def test_fields(self):
        """Fields of popserv have an effect, and no others."""
        fields = {b"user": b"bob", b"nologin": b"", b"allow_nets": b"", b"popserv_since": b"2d"}
        user = service_user(b"ann", fields)
        self.assertEqual((user.name, user.password_field, user.maildrop), (b"ann", b"", b"ann"))
        self.assertEqual(user.rules, NO_RULES._replace(settings=UserSettings(since=2 * 86400)))
        self.assertEqual(service_user(b"ann", {}).rules, NO_RULES)

    def test_unknown(self):
        """A field of popserv that is not known refuses: it may be a restriction."""
        for name in (b"popserv_", b"popserv_x\xff", b"popserv_readonly"):
            self.assertIn("unknown extra field", service_user(b"ann", {name: b""}).rules.refusal)


class NamePartsTests(SynchronousTestCase):
    """The parts of a name."""

    def test_parts(self):
        """The domain follows the last @."""
        for name, parts in (
            (b"ann", ("ann", "ann", "")),
            (b"a@b@c", ("a@b@c", "a@b", "c")),
            ("zo\xe9@c".encode(), ("zo\xe9@c", "zo\xe9", "c")),
            (b"a" * MAX_NAME, ("a" * MAX_NAME, "a" * MAX_NAME, "")),
        ):
            found = name_parts(name)
            self.assertEqual(tuple(found[each] for each in ("user", "local", "domain")), parts)

    def test_nobody(self):
        """A name that nobody can have, and a huge one, has none."""
        for name in (b"", b"\xff", b"a\0b", b"a" * (MAX_NAME + 1)):
            self.assertIsNone(name_parts(name))
