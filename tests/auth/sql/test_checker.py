"""Tests of popserv.auth.sql.checker."""

import sys
from hashlib import md5
from unittest import mock

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernameHashedPassword, IUsernamePassword, UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.strcred import makeChecker
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import LogLevel, formatEvent, globalLogPublisher
from zope.interface.verify import verifyObject

from popserv.auth.credentials import APOPCredentials, CertificateCredentials, CramMD5Credentials
from popserv.auth.passwords.schemes import new_scram_sha256
from popserv.core.user_settings import ConfiguredUser, UserSettings
from popserv.errors import TryLater
from popserv.interfaces import (
    IAPOPCredentials,
    ICredentialsSupport,
    IReloadable,
    IScramSHA1Credentials,
    IScramSHA256Credentials,
    IUserLookup,
)
from popserv.runtime.extras import how_to_install
from tests.auth.harness import ask
from tests.auth.sasl.harness import ScramClient, begin_scram
from tests.auth.sql.harness import QUERY, DatabaseCase

TIMESTAMP = b"<1.2@host>"
KINDS = {
    "password": IUsernamePassword,
    "APOP": IAPOPCredentials,
    "SHA256": IScramSHA256Credentials,
    "SHA1": IScramSHA1Credentials,
    "CRAM": IUsernameHashedPassword,
}


def by_apop(name, secret):
    """Return the credentials of APOP."""
    digest = md5(TIMESTAMP + secret, usedforsecurity=False).hexdigest().encode()
    return APOPCredentials(name, TIMESTAMP, digest)


class CheckerTests(DatabaseCase):
    """Logins with the users of a database; the checks are those of the users file."""

    def checker(self, *arguments, **settings):
        """Return the checker of ``--auth sql:FILE``."""
        checker = makeChecker(f"sql:{self.configure(*arguments, **settings)}")
        self.addCleanup(lambda: checker._source._config.engine.dispose())
        return checker

    async def avatar(self, checker, credentials):
        """Return the avatar ID, or None if the login is refused."""
        try:
            return await ask(checker, credentials)
        except UnauthorizedLogin:
            return None

    async def test_nobody_yet(self):
        """An unknown name is refused by CRAM-MD5 before any user was looked up."""
        checker = self.checker(schemes=["PLAIN"])
        self.assertIsNone(await self.avatar(checker, CramMD5Credentials(b"eve", TIMESTAMP, b"")))

    async def test_logins(self):
        """Passwords, APOP, SCRAM and certificates are checked, by the secret in the database."""
        self.add("ann", "{PLAIN}password")
        self.add("mrose", "{APOP}tanstaaf")
        checker = self.checker()
        for interface in (ICredentialsChecker, ICredentialsSupport, IReloadable, IUserLookup):
            self.assertTrue(verifyObject(interface, checker))
        scram = ScramClient("sha256", b"password", name=b"ann")
        for credentials, name in (
            (UsernamePassword(b"Ann", b"password"), b"ann"),
            (UsernamePassword(b"ann", b"wrong"), None),
            (UsernamePassword(b"bob", b"password"), None),
            (UsernamePassword(b"mrose", b"tanstaaf"), None),
            (by_apop(b"mrose", b"tanstaaf"), b"mrose"),
            (by_apop(b"ann", b"password"), None),
            (CertificateCredentials([b"nobody", b"ann"]), b"ann"),
            (CertificateCredentials([b"nobody"]), None),
            (begin_scram(scram, "sha256"), b"ann"),
        ):
            self.assertEqual(await self.avatar(checker, credentials), name)

    async def test_aliases(self):
        """A query may find a user by other names, and not by the user's own."""
        self.add("info@example.org", "{PLAIN}password", "ann")
        self.add("old@example.org", "{APOP}tanstaaf", "bob")
        checker = self.checker("SELECT extra AS name, password FROM users WHERE name = :user")
        name = b"info@example.org"
        self.assertIs(await checker.knows(b"ann"), False)
        for make in (
            lambda: UsernamePassword(name, b"password"),
            lambda: begin_scram(ScramClient("sha256", b"password", name=name), "sha256"),
            lambda: begin_scram(ScramClient("sha1", b"password", name=name), "sha1"),
        ):
            credentials = make()
            self.assertEqual(await self.avatar(checker, credentials), b"ann")
            self.assertEqual(credentials.username, b"ann")
        found = await self.avatar(checker, by_apop(b"old@example.org", b"tanstaaf"))
        self.assertEqual(found, b"bob")

    async def test_challenges(self):
        """A client of SCRAM gets a salt for any name, also after a user with a malformed secret."""
        good = new_scram_sha256(b"password", 4096)
        self.add("ann", good)
        self.add("bad", "{SCRAM-SHA-256}x")
        for looked_up in ((), (b"bad",), (b"bad", b"ann")):
            checker = self.checker(schemes=["SCRAM-SHA-256"])
            for name in looked_up:
                await checker.knows(name)
            for name in (b"eve", b"bad", b"ann"):
                client = ScramClient("sha256", b"wrong", name=name)
                challenges = []

                def respond(challenge, client=client, challenges=challenges):
                    challenges.append(challenge)
                    return client(challenge)

                self.assertIsNone(await self.avatar(checker, begin_scram(respond, "sha256")))
                self.assertEqual(len(challenges), 2)

    async def test_decoy(self):
        """An unknown name is verified against a secret like those of users."""
        self.add("ann", new_scram_sha256(b"password", 4096))
        checker = self.checker(schemes=["SCRAM-SHA-256"])
        with mock.patch("popserv.auth.passwords.checker.verify", return_value=False) as verify:
            self.assertIsNone(await self.avatar(checker, UsernamePassword(b"bob", b"x")))
            self.assertIsNone(await self.avatar(checker, UsernamePassword(b"ann", b"x")))
        self.assertEqual(verify.call_count, 2)

    async def test_settings(self):
        """The columns of the query become settings of the session."""
        self.add("ann", "{PLAIN}password", "30d")
        query = QUERY.replace("password", "password, extra AS popserv_since")
        avatar = await self.avatar(self.checker(query), UsernamePassword(b"ann", b"password"))
        self.assertEqual(avatar, ConfiguredUser(b"ann", UserSettings(since=30 * 86400)))

    async def test_changed(self):
        """A changed secret is seen at once, although the old one was verified before."""
        self.add("ann", "{PLAIN}old")
        checker = self.checker()
        self.assertEqual(await self.avatar(checker, UsernamePassword(b"ann", b"old")), b"ann")
        self.execute("UPDATE users SET password = '{PLAIN}new'")
        self.assertIsNone(await self.avatar(checker, UsernamePassword(b"ann", b"old")))
        self.assertEqual(await self.avatar(checker, UsernamePassword(b"ann", b"new")), b"ann")

    async def test_unavailable(self):
        """While the database cannot be asked, clients are told to try later, without a cause."""
        checker = self.checker("SELECT name, password FROM missing WHERE name = :user")
        with self.assertRaises(TryLater) as raised:
            await ask(checker, UsernamePassword(b"ann", b"password"))
        self.assertIsNone(raised.exception.__cause__)

    async def test_knows(self):
        """It knows the names that the database knows, also those of users who are refused."""
        self.add("ann", "{PLAIN}x")
        self.add("bob", "{OTP}x")
        checker = self.checker()
        for name, is_known in ((b"Ann", True), (b"bob", True), (b"carl", False), (b"\xff", False)):
            self.assertIs(await checker.knows(name), is_known)
        checker = self.checker("SELECT name, password FROM missing WHERE name = :user")
        with self.assertRaises(TryLater):
            await checker.knows(b"ann")

    def test_supports(self):
        """What is offered works with every scheme of the file."""
        for schemes, supported in (
            (["PLAIN"], "password SHA256 SHA1 CRAM"),
            (["PLAIN", "SCRAM-SHA-256"], "password SHA256"),
            (["SCRAM-SHA-1"], "password SHA1"),
            (["CRAM-MD5"], "password CRAM"),
            (["SHA512-CRYPT"], "password"),
            (["APOP"], "APOP"),
            (["APOP", "SSHA"], "password APOP"),
        ):
            checker = self.checker(schemes=schemes)
            found = {name for name, kind in KINDS.items() if checker.supports(kind)}
            self.assertEqual(found, set(supported.split()), schemes)

    async def test_reload(self):
        """SIGHUP reads the file again; one that cannot be used leaves the old settings."""
        self.add("ann", "{PLAIN}password")
        checker = self.checker()
        login = UsernamePassword(b"ann", b"password")
        self.assertEqual(await self.avatar(checker, login), b"ann")
        first = checker._source
        self.configure(more="nonsense = 1\n")
        log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        checker.reload()
        (event,) = log
        self.assertIs(event["log_level"], LogLevel.critical)
        self.assertIn("nonsense: unknown key", formatEvent(event))
        self.assertIn("; the old settings stay in use", formatEvent(event))
        self.assertIs(checker._source, first)
        self.assertEqual(await self.avatar(checker, login), b"ann")
        self.configure(schemes=["SSHA"])
        checker.reload()
        self.assertIsNone(await self.avatar(checker, login))
        self.assertEqual(first._config.engine.pool.checkedin(), 0)

    def test_missing_library(self):
        """Without SQLAlchemy, the message says how to install it."""
        hidden = [name for name in sys.modules if name.startswith("popserv.auth.sql")]
        with mock.patch.dict(sys.modules, {"sqlalchemy": None}):
            for name in hidden:
                del sys.modules[name]
            error = self.assertRaises(ImportError, makeChecker, "sql:x")
        self.assertIn(f"run: {how_to_install('sql')}", str(error))
