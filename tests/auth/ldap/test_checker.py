"""Tests of popserv.auth.ldap.checker, with a real slapd."""

import sys
from unittest import mock

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.strcred import makeChecker
from zope.interface.verify import verifyObject

from popserv.core.user_settings import ConfiguredUser, UserSettings
from popserv.errors import TryLater
from popserv.interfaces import IReloadable
from popserv.runtime.extras import how_to_install
from tests.auth.harness import ask
from tests.auth.ldap.harness import SEARCH, TEMPLATE, DirectoryCase
from tests.live.slapd import free_port

FIELDS = '[fields]\npopserv_since = "mailSince"\nallow_nets = "mailNetworks"\n'


class CheckerTests(DirectoryCase):
    """Logins by ``--auth ldap:FILE``."""

    def checker(self, *arguments, **settings):
        """Return the checker of a file."""
        return makeChecker(f"ldap:{self.configure(*arguments, **settings)}")

    async def outcome(self, checker, name, password):
        """Return the avatar ID and the name for the log, or why the login is refused."""
        credentials = UsernamePassword(name, password)
        try:
            avatar = await ask(checker, credentials)
        except UnauthorizedLogin as error:
            return str(error)
        return avatar, credentials.username

    async def test_logins(self):
        """A user is who binds; the client learns of a refusal as of a wrong password."""
        for text in (SEARCH, TEMPLATE):
            checker = self.checker(text + FIELDS)
            self.assertTrue(verifyObject(ICredentialsChecker, checker))
            self.assertTrue(verifyObject(IReloadable, checker))
            reader = ConfiguredUser(b"reader", UserSettings(since=2 * 86400))
            for name, password, expected in (
                (b"Ann", b"secret", (b"ann", b"ann")),
                (b"ann", b"wrong", "unknown user or wrong password"),
                (b"reader", b"secret", (reader, b"reader")),
                (b"two", b"secret", "allow_nets does not have the client's address"),
                (b"two", b"wrong", "unknown user or wrong password"),
            ):
                self.assertEqual(await self.outcome(checker, name, password), expected)

    async def test_not_asked(self):
        """The directory is not asked about empty passwords, and names that nobody can have."""
        checker = self.checker()
        with mock.patch.object(checker._directory, "authenticate") as authenticate:
            for name, password in (
                (b"ann", b""),
                (b"ann", b"a\0b"),
                (b"", b"secret"),
                (b"\xff", b"secret"),
                (b"a\0b", b"secret"),
            ):
                outcome = await self.outcome(checker, name, password)
                self.assertEqual(outcome, "unknown user or wrong password")
        authenticate.assert_not_called()

    async def test_away(self):
        """While no server answers, clients are told to try later, without a cause."""
        checker = self.checker(urls=[f"ldap://127.0.0.1:{free_port()}"])
        for _ in range(2):
            with self.assertRaises(TryLater) as raised:
                await ask(checker, UsernamePassword(b"ann", b"secret"))
            self.assertIsNone(raised.exception.__cause__)

    async def test_reload(self):
        """SIGHUP reads the file again; one that cannot be used leaves the old settings."""
        checker = self.checker()
        self.configure("nonsense = 1\n" + SEARCH)
        checker.reload()
        self.assertEqual((await self.outcome(checker, b"ann", b"secret"))[0], b"ann")
        self.configure(SEARCH.replace("people", "nobody"))
        checker.reload()
        self.assertIn("unknown user", await self.outcome(checker, b"ann", b"secret"))

    def test_missing_library(self):
        """Without python-ldap, the message says how to install it."""
        hidden = [name for name in sys.modules if name.startswith("popserv.auth.ldap")]
        with mock.patch.dict(sys.modules, {"ldap": None, "ldap.dn": None}):
            for name in hidden:
                del sys.modules[name]
            error = self.assertRaises(ImportError, makeChecker, "ldap:x")
        self.assertIn(f"run: {how_to_install('ldap')}", str(error))
