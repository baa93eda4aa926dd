"""Tests of popserv.auth.users.user."""

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv.auth.users.extra_fields import NO_RULES
from popserv.auth.users.user import User, UserDirectory
from popserv.core.user_settings import ConfiguredUser, UserSettings
from popserv.interfaces import IUserLookup


class Directory(UserDirectory):
    """Has a user Ann."""

    async def find(self, name):
        """See UserDirectory."""
        return User(b"ann", b"", NO_RULES) if name == b"Ann" else None


class UserTests(SynchronousTestCase):
    """What is said of a user."""

    def test_avatar(self):
        """The avatar ID is the user whose maildrop is opened, with its settings, if any."""
        settings = UserSettings(read_only=True)
        for rules, avatar in (
            (NO_RULES, b"ann"),
            (NO_RULES._replace(maildrop=b"info"), b"info"),
            (NO_RULES._replace(settings=settings), ConfiguredUser(b"ann", settings)),
        ):
            user = User(b"ann", b"{PLAIN}x", rules)
            self.assertEqual(user.avatar_id, avatar)
            self.assertEqual(user.maildrop, rules.maildrop or b"ann")

    def test_knows(self):
        """A directory knows the names by which it finds a user."""
        directory = Directory()
        verifyObject(IUserLookup, directory)
        for name, is_known in ((b"Ann", True), (b"bob", False)):
            found = self.successResultOf(Deferred.fromCoroutine(directory.knows(name)))
            self.assertIs(found, is_known)
