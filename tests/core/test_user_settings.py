"""Tests of popserv.core.user_settings."""

from twisted.trial.unittest import SynchronousTestCase

from popserv.core.user_settings import (
    ConfiguredUser,
    UnsupportedSettings,
    UserSettings,
    avatar_id,
    check_deleted,
    parse_age,
    parse_sessions,
)

ALL = UserSettings(read_only=True, maildrop=b"/mail", deleted="keep", since=3600.0)


class UserSettingsTests(SynchronousTestCase):
    """The settings of one user."""

    def test_given(self):
        """The settings that differ from the defaults are given."""
        self.assertEqual(UserSettings().given(), [])
        self.assertEqual(UserSettings(), UserSettings(False, b"", None, None, None))
        self.assertEqual(UserSettings(deleted="remove").given(), ["deleted"])
        self.assertEqual(ALL.given(), ["read_only", "maildrop", "deleted", "since"])

    def test_of_mailbox(self):
        """The number of sessions does not concern the store, and everything else does."""
        self.assertEqual(UserSettings(max_user_sessions=2).of_mailbox(), UserSettings())
        self.assertIs(ALL.of_mailbox(), ALL)
        both = UserSettings(since=1, max_user_sessions=2)
        self.assertEqual(both.of_mailbox(), UserSettings(since=1))

    def test_unsupported(self):
        """A store rejects the settings that it does not support, and names them."""
        UserSettings().reject_unsupported()
        ALL.reject_unsupported("read_only", "maildrop", "deleted", "since")
        error = self.assertRaises(UnsupportedSettings, ALL.reject_unsupported, "deleted", "since")
        self.assertIn("support popserv_read_only, popserv_maildrop", str(error))

    def test_avatar_id(self):
        """A user without settings is a name; one with settings is a key, but nothing like bytes."""
        self.assertEqual(avatar_id(b"ann", UserSettings()), b"ann")
        configured = avatar_id(b"ann", ALL)
        self.assertEqual(configured, ConfiguredUser(b"ann", ALL))
        self.assertIn(configured, {ConfiguredUser(b"ann", ALL): None})
        self.assertNotIsInstance(configured, (bytes, str))
        self.assertNotEqual(configured, ConfiguredUser(b"ann", UserSettings()))


class ValuesTests(SynchronousTestCase):
    """The values of settings."""

    def test_age(self):
        """An age is a number above 0 and h, d or w."""
        for text, seconds in (("1h", 3600), ("30d", 30 * 86400), ("2w", 14 * 86400)):
            self.assertEqual(parse_age(text), seconds)
        for text in ("", "h", "0d", "01d", "1", "1m", "-1d", "1.5d", "1d ", "1234567d", "\u0661d"):
            error = self.assertRaises(ValueError, parse_age, text)
            self.assertIn(repr(text), str(error))

    def test_sessions(self):
        """A number of sessions is at least 2, so that a dead one keeps nobody out."""
        for text, number in (("2", 2), ("010", 10), ("999999", 999_999)):
            self.assertEqual(parse_sessions(text), number)
        for text in ("", "0", "1", "-2", "2.5", " 2", "1000000", "\u0662\u0662", "two"):
            error = self.assertRaises(ValueError, parse_sessions, text)
            self.assertIn(repr(text), str(error))

    def test_deleted(self):
        """Deleted messages are removed, kept, or moved to a folder."""
        for text in ("remove", "keep", "move:Trash"):
            check_deleted(text)
        for text in ("", "Remove", "hide", "move", "move:", "drop:x", "keep "):
            error = self.assertRaises(ValueError, check_deleted, text)
            self.assertIn(repr(text), str(error))
