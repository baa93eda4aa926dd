"""Tests of popserv.auth.ldap.checker, with a real slapd."""

import sys
from unittest import mock

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.strcred import makeChecker
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import formatEvent, globalLogPublisher
from zope.interface.verify import verifyObject

from examples.cluster.processes import free_port
from popserv.auth.users.refusals import EvenRefusals
from popserv.core.user_settings import ConfiguredUser, UserSettings
from popserv.errors import TryLater
from popserv.interfaces import IReloadable, IUserLookup
from popserv.runtime.extras import how_to_install
from tests.auth.harness import ask
from tests.auth.ldap.harness import SEARCH, TEMPLATE, DirectoryCase

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
                (b"bob", b"secret", "unknown user or wrong password"),
            ):
                self.assertEqual(await self.outcome(checker, name, password), expected)

    async def test_not_asked(self):
        """The directory is not asked about empty passwords, and names that nobody can have."""
        unknown = "unknown user or wrong password"
        checker = self.checker()
        with mock.patch.object(checker._directory, "authenticate") as authenticate:
            for name, password, reason in (
                (b"ann", b"", "the name or the password is empty"),
                (b"ann", b"a\0b", "the name or the password contains NUL"),
                (b"", b"secret", "the name or the password is empty"),
                (b"\xff", b"secret", unknown),
                (b"a\0b", b"secret", "the name or the password contains NUL"),
            ):
                self.assertEqual(await self.outcome(checker, name, password), reason)
        authenticate.assert_not_called()

    async def test_even_refusals(self):
        """A refusal takes as long as the slowest one of late, also that of an unknown name."""
        checker = self.checker()
        clock = Clock()
        checker._refusals = EvenRefusals(clock)
        with mock.patch.object(checker._directory, "authenticate") as authenticate:
            authenticate.side_effect = lambda *_: clock.advance(2)
            await self.outcome(checker, b"ann", b"wrong")
        refused = Deferred.fromCoroutine(self.outcome(checker, b"bob", b"wrong"))
        while not clock.getDelayedCalls():
            await deferLater(reactor, 0.01)
        self.assertNoResult(refused)
        clock.advance(2)
        self.assertEqual(self.successResultOf(refused), "unknown user or wrong password")

    async def test_away(self):
        """While no server answers, clients are told to try later, without a cause."""
        checker = self.checker(urls=[f"ldap://127.0.0.1:{free_port()}"])
        for _ in range(2):
            with self.assertRaises(TryLater) as raised:
                await ask(checker, UsernamePassword(b"ann", b"secret"))
            self.assertIsNone(raised.exception.__cause__)

    async def test_reload(self):
        """SIGHUP reads the file again; one that cannot be used leaves the old settings."""
        events = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        checker = self.checker()
        checker.cache_seconds = 1000
        self.configure("nonsense = 1\n" + SEARCH)
        checker.reload()
        self.assertEqual((await self.outcome(checker, b"ann", b"secret"))[0], b"ann")
        self.configure(SEARCH.replace("people", "nobody"))
        checker.reload()
        self.assertIn("unknown user", await self.outcome(checker, b"ann", b"secret"))
        other = checker._directory
        self.configure(TEMPLATE)
        checker.reload()
        self.assertIs(checker._directory, other)
        unknown, restart = [
            formatEvent(each) for each in events if each["log_level"].name == "critical"
        ]
        self.assertIn(f"{self.file}: nonsense: unknown key", unknown)
        self.assertEqual(
            restart,
            f"{self.file}: restart the server to begin or end using user-dn; "
            "the old settings stay in use",
        )

    async def test_knows(self):
        """A checker that searches knows names, also those of users who are refused."""
        checker = self.checker()
        self.assertTrue(verifyObject(IUserLookup, checker))
        for name, is_known in (
            *((b"Ann", True), (b"ann@example.org", True), (b"none", True)),
            *((b"both@example.org", True), (b"bob", False), (b"*", False), (b"\xff", False)),
        ):
            self.assertIs(await checker.knows(name), is_known, name)
        self.assertFalse(IUserLookup.providedBy(self.checker(TEMPLATE)))

    async def test_refused_is_not_remembered(self):
        """An entry that is corrected is seen at once; a password is remembered for some time."""
        checker = self.checker(SEARCH + "name = 'title'\n")
        checker.cache_seconds = 1000
        self.assertIn("0 values of title", await self.outcome(checker, b"ann", b"secret"))
        self.assertEqual(checker.cache_sizes(), {"passwords": 0})
        checker = self.checker()
        checker.cache_seconds = 1000
        with mock.patch.object(
            checker._directory, "authenticate", wraps=checker._directory.authenticate
        ) as asked:
            for _ in range(2):
                self.assertEqual((await self.outcome(checker, b"ann", b"secret"))[0], b"ann")
        self.assertEqual(asked.call_count, 1)

    async def test_equal_passwords(self):
        """Users with one password are told apart by every part of their names."""
        template = "user-dn = 'uid=%n,ou=%d,dc=example,dc=org'\nname = 'mail'\n"
        checker = self.checker(template)
        checker.cache_seconds = 1000
        for _ in range(2):
            for name in (b"ann@one", b"ann@two"):
                self.assertEqual((await self.outcome(checker, name, b"secret"))[0], name)
        self.assertEqual(checker.cache_sizes(), {"passwords": 2})

    def test_missing_library(self):
        """Without python-ldap, the message says how to install it."""
        hidden = [name for name in sys.modules if name.startswith("popserv.auth.ldap")]
        with mock.patch.dict(sys.modules, {"ldap": None, "ldap.dn": None}):
            for name in hidden:
                del sys.modules[name]
            error = self.assertRaises(ImportError, makeChecker, "ldap:x")
        self.assertIn(f"run: {how_to_install('ldap')}", str(error))
