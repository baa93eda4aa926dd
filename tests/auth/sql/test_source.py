"""Tests of popserv.auth.sql.source."""

import os
from unittest import mock

from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, formatEvent, globalLogPublisher

from popserv.auth.passwords.decoys import Decoys
from popserv.auth.passwords.schemes import new_scram_sha256
from popserv.auth.passwords.scram_selection import select_scram_keys
from popserv.auth.sql.config import SQLConfig
from popserv.auth.sql.source import DatabaseSecrets, SQLUsers
from popserv.core.session import client_is_connected
from popserv.errors import TryLater
from tests.auth.sql.harness import QUERY, DatabaseCase

SEVERAL = "SELECT * FROM (SELECT :user AS name, NULL AS password UNION SELECT 'b', '')"


IMPOSSIBLE = ("22003", "22007", "22008", "22021", "22P02", "22P05")
"""The SQLSTATEs for a value that a column cannot have."""


class DriverError(Exception):
    """An error of a driver, with these attributes."""

    def __init__(self, *args, **attributes):
        super().__init__(*args)
        self.__dict__.update(attributes)


class UsersCase(DatabaseCase):
    """Finds users without threads, on a clock of the test, and records the log."""

    def setUp(self):
        """Record the log."""
        super().setUp()
        self.clock = Clock()
        self.logged = []
        globalLogPublisher.addObserver(self.logged.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.logged.append)

    def users(self, *arguments, run=None, **settings):
        """Return the users of a configuration."""

        def run_now(function, *args, still_needed):
            return maybeDeferred(function, *args)

        config = SQLConfig(self.configure(*arguments, **settings))
        self.addCleanup(config.engine.dispose)
        return SQLUsers(config, self.clock, run or run_now)

    def find(self, users, name):
        """Return the user with a name."""
        return self.successResultOf(Deferred.fromCoroutine(users.find(name)))

    def fail_to_find(self, users, name=b"ann"):
        """Look a user up, which must fail for the time being."""
        failed = self.failureResultOf(Deferred.fromCoroutine(users.find(name)), TryLater)
        self.assertIsNone(failed.value.__cause__)

    def lines(self):
        """Return the levels and texts of the lines of the log, which is then empty."""
        lines = [(event["log_level"], formatEvent(event)) for event in self.logged]
        del self.logged[:]
        return lines


class FindTests(UsersCase):
    """Who is found."""

    def test_found(self):
        """The user of the only row, with the name that the database has."""
        self.add("ann", "{PLAIN}a")
        self.add("zo\xe9@example.org", b"{PLAIN}z")
        users = self.users()
        user = self.find(users, b"ANN")
        self.assertEqual((user.name, user.password_field), (b"ann", b"{PLAIN}a"))
        name = "zo\xe9@example.org".encode()
        self.assertEqual(self.find(users, name).password_field, b"{PLAIN}z")
        for name in (b"bob", b"", b"\xff", b"a\0b", b"' OR ''='", b"%", b":user", b"a" * 10_000):
            self.assertIsNone(self.find(users, name))

    def test_decoy(self):
        """The secret of a user who was found is one for decoys."""
        self.add("ann", "{PLAIN}secret")
        users = self.users()
        self.find(users, b"ann")
        self.assertEqual(users.secrets().passwords, (b"{PLAIN}secret",))

    def test_parameters(self):
        """The query can use the name and its parts."""
        query = "SELECT :user || '|' || :local || '|' || :domain AS name, NULL AS password"
        users = self.users(query)
        for name, parts in (
            (b"ann@example.org", b"ann@example.org|ann|example.org"),
            (b"a@b@c", b"a@b@c|a@b|c"),
            (b"ann", b"ann|ann|"),
        ):
            self.assertEqual(self.find(users, name).name, parts)

    def test_secrets(self):
        """A secret without a scheme has the default one, and NULL is no secret."""
        users = self.users(schemes=["MD5-CRYPT"], more="default-scheme = 'MD5-CRYPT'\n")
        for name, secret, field in (
            ("a", "$1$x", b"{MD5-CRYPT}$1$x"),
            ("b", "{md5-crypt.hex}00", b"{md5-crypt.hex}00"),
            ("c", None, b""),
            ("d", "", b""),
            ("e", "{MD5-CRYPT}", b"{MD5-CRYPT}"),
        ):
            self.add(name, secret)
            user = self.find(users, name.encode())
            self.assertEqual((user.password_field, user.rules.refusal), (field, ""))

    def test_refused(self):
        """What a query should not return refuses the user; the log says what it is."""
        self.add("ann", "{PLAIN}a")
        for query, problem in (
            (SEVERAL, "the query returns several rows"),
            ("SELECT password FROM users WHERE name = :user", "must return the columns name and"),
            ("SELECT name FROM users WHERE name = :user", "must return the columns name and"),
            ("SELECT 7 AS name, password FROM users WHERE :user > ''", "the name is not a text"),
            ("SELECT 'a/b' AS name, password FROM users WHERE :user > ''", "valid user name"),
            ("SELECT name, 7 AS password FROM users WHERE name = :user", "password is not a text"),
            ("SELECT name, '{OTP}x' AS password FROM users WHERE name = :user", "scheme OTP"),
            ("SELECT name, 'x' AS password FROM users WHERE name = :user", "the scheme CRYPT"),
            ("SELECT name, password, 1 AS x FROM users WHERE name = :user", "extra field x"),
        ):
            user = self.find(self.users(query), b"ann")
            self.assertIn(problem, user.rules.refusal)
            if "extra field" not in problem:
                self.assertIn(f"{self.file}: ", user.rules.refusal)
                self.assertEqual((user.name, user.password_field), (b"ann", b""))

    def test_extra_fields(self):
        """All other columns are extra fields."""
        self.add("ann", "{PLAIN}a", "yes")
        self.add("bob", "{PLAIN}a", None)
        users = self.users(QUERY.replace("password", "password, extra AS popserv_read_only"))
        self.assertTrue(self.find(users, b"ann").rules.settings.read_only)
        self.assertFalse(self.find(users, b"bob").rules.settings.read_only)


class FailureTests(UsersCase):
    """A database that cannot be asked."""

    def test_away(self):
        """One line says that it is away, and one that it is there again."""
        self.add("ann", "{PLAIN}a")
        users = self.users()
        away = f"{self.database}.away"
        for _ in range(2):
            users._config.engine.dispose()
            os.rename(self.database, away)
            for _ in range(3):
                self.fail_to_find(users)
            ((level, line),) = self.lines()
            self.assertIs(level, LogLevel.critical)
            self.assertIn(f"{self.file}: the database cannot be asked", line)
            users._config.engine.dispose()
            os.replace(away, self.database)
            self.assertEqual(self.find(users, b"ann").name, b"ann")
            self.assertEqual(self.find(users, b"ann").name, b"ann")
            expected = f"{self.file}: the database answers again"
            self.assertEqual(self.lines(), [(LogLevel.info, expected)])

    def test_slow(self):
        """A look-up is given up after the time-out; what it finds later has no effect."""
        pending = []

        def run(function, *args, still_needed):
            pending.append(Deferred())
            return pending[-1]

        users = self.users(run=run, more="timeout = 3\n")
        found = Deferred.fromCoroutine(users.find(b"ann"))
        self.clock.advance(2.9)
        self.assertNoResult(found)
        self.clock.advance(0.2)
        self.failureResultOf(found, TryLater)
        pending[0].callback([])
        ((_, line),) = self.lines()
        self.assertTrue(line.endswith("until it can: no answer within 3 s"), line)

    def test_busy(self):
        """If too many look-ups wait, a login is told to try later, and nothing is logged."""

        def run(function, *args, still_needed):
            raise TryLater("server too busy, try again later")

        users = self.users(run=run)
        self.failureResultOf(Deferred.fromCoroutine(users.find(b"ann")), TryLater)
        self.assertEqual(self.lines(), [])

    def test_ambiguous(self):
        """Two columns of one name are a mistake in the query: a restriction could be lost."""
        query = "SELECT :user AS name, '' AS password, 'yes' AS nologin, NULL AS nologin"
        self.fail_to_find(self.users(query))
        ((_, line),) = self.lines()
        self.assertIn("the query returns two columns of one name", line)

    def test_impossible_names(self):
        """A name that the database cannot have is unknown, and no failure of the database."""
        users = self.users()
        for error in (
            *(DataError("", {}, DriverError(sqlstate=each)) for each in IMPOSSIBLE),
            *(DataError("", {}, DriverError(pgcode=each)) for each in IMPOSSIBLE),
            OperationalError("", {}, Exception(1267, "Illegal mix of collations")),
            OperationalError("", {}, Exception(1366, "Incorrect string value")),
            OperationalError("", {}, Exception(3988, "Conversion from collation")),
            UnicodeEncodeError("latin-1", "\u20ac", 0, 1, "ordinal not in range"),
        ):
            with mock.patch.object(users._config, "engine") as engine:
                engine.connect.side_effect = error
                self.assertIsNone(self.find(users, b"ann"))
        self.assertEqual(self.lines(), [])

    def test_errors_of_the_query(self):
        """Another error in the data is a failure, and no wrong password."""
        users = self.users()
        for original in (
            DriverError("division by zero", sqlstate="22012"),
            DriverError("invalid regular expression", pgcode="2201B"),
            DriverError("Data truncated"),
        ):
            with mock.patch.object(users._config, "engine") as engine:
                engine.connect.side_effect = DataError("", {}, original)
                self.fail_to_find(users)
        ((_, line),) = self.lines()
        self.assertTrue(line.endswith(": division by zero"), line)

    def test_names_are_not_logged(self):
        """The line has the database's reason, and neither the names nor the query."""
        users = self.users("SELECT name FROM missing WHERE name = :user")
        self.fail_to_find(users, b"somebody")
        ((_, line),) = self.lines()
        self.assertTrue(line.endswith(": no such table: missing"), line)

    def test_other_reasons(self):
        """A reason that is not the database's is logged as well."""
        users = self.users()
        with mock.patch.object(users._config, "engine") as engine:
            engine.connect.side_effect = PoolTimeout("no connection is free")
            self.fail_to_find(users)
        ((_, line),) = self.lines()
        self.assertTrue(line.endswith(": no connection is free"), line)


class ThreadsTests(DatabaseCase):
    """The threads of the database."""

    async def test_thread(self):
        """Without other arguments it is asked in a thread, within the time of the reactor."""
        self.add("ann", "{PLAIN}a")
        users = SQLUsers(SQLConfig(self.configure()))
        self.addCleanup(users._config.engine.dispose)
        for _ in range(2):
            user = await users.find(b"ann")
            self.assertEqual(user.name, b"ann")

    async def test_disconnected(self):
        """The database is not asked for a client that has gone."""
        users = SQLUsers(SQLConfig(self.configure()))
        self.addCleanup(users._config.engine.dispose)
        client_is_connected.set(lambda: False)
        with self.assertRaises(TryLater):
            await users.find(b"ann")


class SecretsTests(DatabaseCase):
    """What is known of all secrets."""

    def test_schemes(self):
        """The schemes of the file decide what is offered."""
        secrets = DatabaseSecrets(frozenset({b"PLAIN", b"SCRAM-SHA-256", b"APOP"}))
        self.assertTrue(secrets.has_users and secrets.has_passwords and secrets.has_apop)
        self.assertTrue(secrets.has_only_schemes(frozenset({b"PLAIN", b"SCRAM-SHA-256"})))
        self.assertFalse(secrets.has_only_schemes(frozenset({b"PLAIN"})))
        secrets = DatabaseSecrets(frozenset({b"APOP"}))
        self.assertFalse(secrets.has_passwords or secrets.has_only_schemes(frozenset({b"PLAIN"})))
        self.assertFalse(DatabaseSecrets(frozenset({b"PLAIN"})).has_apop)

    def test_decoys(self):
        """Decoys are like the first secret of each scheme that is well-formed."""
        secrets = DatabaseSecrets(frozenset({b"SCRAM-SHA-256", b"SHA", b"SHA512-CRYPT"}))
        (initial,) = secrets.passwords
        self.assertTrue(initial.startswith(b"{SCRAM-SHA-256}"))
        first, second = (new_scram_sha256(b"x", 4096) for _ in range(2))
        digest, other = (b"{SHA.hex}" + letter * 40 for letter in (b"a", b"b"))
        for field in (
            *(b"", b"{SHA}", b"{PLAIN}x", b"{SCRAM-SHA-256}x", b"{SHA}x", b"{SHA512-CRYPT}x"),
            *(first, b"{SCRAM-SHA-256}x", second, digest, other),
        ):
            secrets.note(field)
        self.assertEqual(secrets.passwords, (first, digest))

        secrets = DatabaseSecrets(frozenset({b"SCRAM-SHA-1"}))
        (initial,) = secrets.passwords
        found = initial.replace(b"4096", b"5000")
        secrets.note(found)
        self.assertEqual(secrets.passwords, (found,))

    def test_unavailable(self):
        """A secret that cannot be verified here is no decoy."""
        secrets = DatabaseSecrets(frozenset({b"ARGON2ID"}))
        with mock.patch("popserv.auth.passwords.schemes.argon2", None):
            secrets.note(b"{ARGON2ID}$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$AAAA")
        self.assertEqual(secrets.passwords, ())

    def test_initial(self):
        """If SCRAM is offered, there are decoys from the start, with which it sends a salt."""
        for schemes, mechanisms in (
            ([b"SCRAM-SHA-256"], "sha256"),
            ([b"SCRAM-SHA-1"], "sha1"),
            ([b"PLAIN"], "sha256 sha1"),
            ([b"CLEAR", b"CLEARTEXT", b"PLAIN", b"APOP"], "sha256 sha1"),
            ([b"PLAIN", b"SCRAM-SHA-1"], "sha1"),
            ([b"PLAIN", b"SCRAM-SHA-256"], "sha256"),
        ):
            secrets = DatabaseSecrets(frozenset(schemes))
            for hash_name in mechanisms.split():
                user, keys, _ = select_scram_keys(hash_name, b"eve", None, secrets, Decoys(b"key"))
                self.assertIsNone(user)
                own = b"SCRAM-SHA-1" in schemes
                self.assertEqual((keys.iterations, len(keys.salt)), (4096 if own else 32768, 16))
        for schemes in ([b"SSHA"], [b"SSHA", b"PLAIN"], [b"APOP"], [b"CRAM-MD5"]):
            self.assertEqual(DatabaseSecrets(frozenset(schemes)).passwords, ())
