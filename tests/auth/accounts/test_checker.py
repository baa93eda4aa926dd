"""Tests of popserv.auth.accounts, with a checker for each of several hosts."""

import re
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from unittest import mock

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernameHashedPassword, IUsernamePassword, UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.strcred import makeChecker
from twisted.internet import reactor
from twisted.internet.task import deferLater
from zope.interface.verify import verifyObject

from popserv.auth.accounts.checker import AccountsChecker
from popserv.auth.accounts.statements import FIND, SAMPLES
from popserv.auth.credentials import CertificateCredentials
from popserv.auth.passwords import decoys
from popserv.auth.passwords.file_checker import PasswdFileChecker
from popserv.auth.passwords.schemes import new_scram_sha256
from popserv.auth.passwords.users_file import parse_user
from popserv.auth.users.extra_fields import EVALUATED, REFUSING
from popserv.core.user_settings import ConfiguredUser, UserSettings
from popserv.database.opening import open_database
from popserv.database.schema import create_schema
from popserv.errors import TryLater
from popserv.interfaces import (
    IAPOPCredentials,
    ICertificateCredentials,
    ICredentialsSupport,
    IDiagnosed,
    IPollingChecker,
    IScramSHA1Credentials,
    IScramSHA256Credentials,
    IUserLookup,
)
from popserv.runtime.extras import how_to_install
from tests.auth.accounts.harness import AccountsCase
from tests.auth.harness import ask
from tests.auth.passwords.test_checker import USERS, by_apop
from tests.auth.sasl.harness import ScramClient, attributes, begin_scram
from tests.docs.harness import DOCS
from tests.doctor.harness import codes
from tests.live.postgresql import PostgreSQL

SHELL = b":1000:1000::/home/x:/usr/sbin/nologin"
"""The fields of a line behind the secret of a user whose shell lets nobody in."""

KINDS = {
    "password": IUsernamePassword,
    "APOP": IAPOPCredentials,
    "SHA256": IScramSHA256Credentials,
    "SHA1": IScramSHA1Credentials,
    "CRAM": IUsernameHashedPassword,
    "certificate": ICertificateCredentials,
}


def by_scram(name, password=b"password", hash_name="sha256", challenges=None):
    """Return the credentials of a SCRAM exchange, which adds the server's first to a list."""
    client = ScramClient(hash_name, password, name=name)

    def respond(challenge):
        if challenge and challenges is not None:
            challenges.append(attributes(challenge))
        return client(challenge)

    return begin_scram(respond, hash_name)


def attempts(name):
    """Yield functions that make the credentials of all kinds with a name."""
    for secret in (b"password", b"other", b"p\xff\\ss", b"wrong"):
        yield partial(UsernamePassword, name, secret)
    yield partial(by_apop, name)
    yield partial(CertificateCredentials, [b"nobody-else", name])
    if name.isalnum():
        # Others are not valid in SCRAM.
        for hash_name in ("sha256", "sha1"):
            yield partial(by_scram, name, hash_name=hash_name)


async def outcome(checker, credentials):
    """Return the avatar ID and the name in the credentials, or why the login is refused."""
    try:
        return await ask(checker, credentials), credentials.username
    except UnauthorizedLogin as error:
        return str(error)


def supported(checker):
    """Return the ways to log in that a checker supports."""
    return {name for name, kind in KINDS.items() if checker.supports(kind)}


class LoginTests(AccountsCase):
    """Logins with the users of a database."""

    async def challenge(self, checker, name, hash_name="sha256"):
        """Return the salt and the iteration count that a client with this name receives."""
        challenges = []
        await outcome(checker, by_scram(name, b"wrong", hash_name, challenges))
        return challenges[0][b"s"], challenges[0][b"i"]

    def test_interfaces(self):
        """It provides what other checkers provide."""
        checker = self.checker()
        for interface in (ICredentialsChecker, ICredentialsSupport, IDiagnosed, IUserLookup):
            verifyObject(interface, checker)
        verifyObject(IPollingChecker, checker)

    async def test_as_users_file(self):
        """Whatever a client sends, the outcome is that of a users file with the same lines."""
        # A decoy of a malformed secret would be told in another way, and differs by machine.
        lines = [line for line in USERS.split(b"\n") if line and not line.startswith(b"bad:")] + [
            b"Upper:{PLAIN}password",
            b"upper:{PLAIN}other",
            b"UPPER2:{PLAIN}password",
            b"gr\xc3\xbcn:{PLAIN}password",
            b"octets\xff:{PLAIN}p\xff\\ss",
            b"there:{PLAIN}password::::::allow_nets=192.0.2.1",
            b"read:{PLAIN}password::::::popserv_read_only popserv_since=2d user=ann",
        ]
        path = Path(self.mktemp()).absolute()
        path.write_bytes(b"\n".join(lines))
        path.chmod(0o600)
        for line in lines:
            self.add(*line.split(b":", 1))
        file, accounts = PasswdFileChecker(str(path)), self.checker()
        await accounts._source.read_samples()
        self.assertEqual(supported(accounts), supported(file))
        names = {line.partition(b":")[0] for line in lines}
        names |= {b"ANN", b"UPPER", b"upper2", b"Gr\xc3\xbcn", b"unknown", b"\xff", b"a\0b", b""}
        for name in sorted(names):
            for make in attempts(name):
                expected = await outcome(file, make())
                self.assertEqual(await outcome(accounts, make()), expected, repr(name))
            self.assertEqual(await accounts.knows(name), await file.knows(name), repr(name))

    async def test_one_statement(self):
        """A login is one statement, also of an unknown name, once the secret of decoys is known."""
        self.add(b"ann", b"{PLAIN}password")
        database = self.open()
        checker = self.checker(database)
        await ask(checker, UsernamePassword(b"ann", b"password"))
        with mock.patch.object(database, "execute", wraps=database.execute) as execute:
            for name in (b"ann", b"Ann", b"bob"):
                await outcome(checker, UsernamePassword(name, b"password"))
        self.assertEqual(execute.call_count, 3)

    def test_indexes(self):
        """Neither of the statements reads all users, whatever the collation of the database is."""
        self.sql("SET enable_seqscan = off")
        for statement, parameters, values, index in (
            (FIND, "bytea, bytea", "'a', 'b'", "account_any_case"),
            (SAMPLES, "bigint", "16", "account_scheme"),
        ):
            self.sql(f"PREPARE asked ({parameters}) AS {statement}")
            plan = "\n".join(line for (line,) in self.sql(f"EXPLAIN EXECUTE asked ({values})"))
            self.assertIn(index, plan)
            self.assertNotIn("Seq Scan", plan)
            self.sql("DEALLOCATE asked")

    async def test_settings(self):
        """The extra fields become settings of the session."""
        self.add(b"ann", b"{PLAIN}password::::::popserv_since=30d")
        avatar = await ask(self.checker(), UsernamePassword(b"ann", b"password"))
        self.assertEqual(avatar, ConfiguredUser(b"ann", UserSettings(since=30 * 86400)))

    async def test_changed(self):
        """A change counts at the next login, although the old secret was verified before."""
        self.add(b"ann", b"{PLAIN}old")
        checker = self.checker()
        old, new = (UsernamePassword(b"ann", secret) for secret in (b"old", b"new"))
        self.assertEqual(await outcome(checker, old), (b"ann", b"ann"))
        self.sql("UPDATE account SET record = '{PLAIN}new'")
        self.assertIn("wrong password", await outcome(checker, old))
        self.assertEqual(await outcome(checker, new), (b"ann", b"ann"))
        self.sql("DELETE FROM account")
        self.assertIn("unknown user", await outcome(checker, new))

    async def test_decoys(self):
        """Every host sends the same salt and iteration count for a name, of a user or of nobody."""
        for number in range(9):
            self.add(b"u%d" % number, new_scram_sha256(b"a", number + 1))
        self.add(b"plain", b"{PLAIN}password")
        self.sql("UPDATE account SET record = '{SSHA}x' WHERE name = 'u0'")
        seen = []
        for _ in range(3):
            # Another machine.
            self.patch(decoys, "_MACHINE_ID", self.mktemp())
            checker = self.checker()
            await checker._source.read_samples()
            names = [b"plain", *(b"x%d" % number for number in range(30))]
            seen.append([await self.challenge(checker, name) for name in names])
            await self.database_of(checker).close()
        self.assertEqual(seen[0], seen[1])
        self.assertEqual(seen[0], seen[2])
        self.assertEqual(len({salt for salt, _ in seen[0]}), 31)
        self.assertGreater(len({iterations for _, iterations in seen[0]}), 3)

    def database_of(self, checker):
        """Return the database of a checker."""
        return checker._source._database

    async def test_same_cost(self):
        """The password of an unknown name is verified against the secret of a user."""
        self.add(b"ann", new_scram_sha256(b"password", 5))
        checker = self.checker()
        await checker._source.read_samples()
        with mock.patch("popserv.auth.passwords.checker.verify", return_value=False) as verify:
            for name in (b"bob", b"ann"):
                await outcome(checker, UsernamePassword(name, b"x"))
        self.assertEqual(*(call.args for call in verify.call_args_list))


class SupportsTests(AccountsCase):
    """What is offered."""

    async def test_schemes(self):
        """What is offered works for every user who can log in, however many there are."""
        many = {b"u%d" % n: b"{SCRAM-SHA-256}x" for n in range(50)}
        disabled = {b"u%d" % n: b"$5$abc::::::fail" for n in range(50)}
        for users, expected in (
            ({}, "password"),
            ({b"ann": b"{PLAIN}a"}, "password SHA256 SHA1 CRAM certificate"),
            ({b"ann": b"{Plain}a", **many}, "password SHA256 certificate"),
            ({b"z": b"{plain.b64}YQ==", **many}, "password SHA256 certificate"),
            ({b"z": b"$5$abc", **many}, "password certificate"),
            ({b"z": b"$5$abc::::::nologin", **many}, "password SHA256 certificate"),
            ({b"ann": b"{APOP}a"}, "APOP certificate"),
            ({b"ann": b"{APOP}a", **many}, "password APOP SHA256 certificate"),
            ({b"ann": b""}, "certificate"),
            ({b"ann": b"{PLAIN}a::::::popserv_nologin"}, "password"),
            ({b"ann": b"{PLAIN}a" + SHELL}, "password SHA256 SHA1 CRAM certificate"),
            ({b"z": b"$5$abc" + SHELL, **many}, "password certificate"),
            ({b"z": b"$5$abc::::::popserv_nologin=no", **many}, "password certificate"),
            ({b"z": b"$5$abc", **disabled}, "password certificate"),
        ):
            self.sql("TRUNCATE account")
            for name, record in users.items():
                self.add(name, record)
            checker = self.checker()
            await checker._source.read_samples()
            self.assertEqual(supported(checker), set(expected.split()), users)

    async def test_as_rules(self):
        """Users whom the rules always refuse do not count, and all others do."""
        names = {*REFUSING, *EVALUATED, "reason", "userdb_nologin", "popserv_nologins", "nologins"}
        fields = {f"{name}{rest}" for name in names for rest in ("", "=", "=1", "=yes", "=no")}
        fields |= {f"{name}:protected=yes" for name in names}
        fields |= {"popserv_nologin=yes popserv_nologin=no", "popserv_nologin=no nologin"}
        fields |= {"reason=no nologin", "reason=nologin", "reason=x\tfail", "reason=x:nologin"}
        fields |= {"popserv_nologin=no\tpopserv_read_only", "allow_nets=192.0.2.1"}
        records = {f"{{PLAIN}}x::::::{field}" for field in fields}
        records |= {f"{{PLAIN}}x::::::popserv_read_only {field}" for field in fields}
        records |= {f"{{PLAIN}}x{':' * n}nologin" for n in range(1, 9)}
        records |= {f"{{PLAIN}}x:::::::{text}" for text in ("a b:nologin", "a nologin=")}
        records |= {f"{{PLAIN}}x{':' * n}\u00fc popserv_since=1d" for n in range(1, 7)}
        records |= {f"{{PLAIN}}{text}{SHELL.decode()}" for text in ("nologin", "no login", "\\")}
        records |= {"{PLAIN}x:::: /nologin", "nologin", "", "nologin::::::"}
        records |= {"{PLAIN}x:::nologin of ann:/home/nologin:", "{PLAIN}x:::Mr. nologin, jr."}
        counted = Counter()
        for number, record in enumerate(sorted(records)):
            self.add(b"u%d" % number, record.encode())
        for name, record, scheme in self.sql("SELECT name, record, scheme FROM account"):
            refusal = parse_user(name, record).rules.refusal
            is_known = re.search(" is set|eighth field", refusal) is not None
            # The database does not know which other fields there are, and which values are valid.
            if is_known or not refusal:
                self.assertEqual(scheme is None, is_known, repr(record))
                counted[is_known] += 1
        self.assertGreater(min(counted.values()), 50)

    async def test_polled(self):
        """It is looked up when the server starts, and regularly; before, it is a guess."""
        self.patch(sys.modules["popserv.auth.accounts.source"], "POLL_INTERVAL", 0.02)
        self.add(b"ann", b"{APOP}a")
        checker = self.checker()
        self.assertEqual(supported(checker), {"password", "SHA256", "certificate"})
        checker.poll()
        for record, expected in ((None, "APOP"), ("{SSHA}x", "password")):
            if record is not None:
                self.sql("UPDATE account SET record = %s", record.encode())
            for _ in range(500):
                if supported(checker) == {expected, "certificate"}:
                    break
                await deferLater(reactor, 0.02)
            self.assertEqual(supported(checker), {expected, "certificate"})

    def test_interval(self):
        """It is looked up as often as the documentation says."""
        database = self.open()
        with mock.patch.object(database, "work_regularly") as work:
            self.checker(database).poll()
        _, seconds, _ = work.call_args.args
        page = (DOCS / "reference/sql-store.rst").read_text("utf-8")
        self.assertIn(f"which each process looks up every {seconds:g} seconds.", page)


class UnavailableTests(AccountsCase):
    """While the database cannot be asked, nobody logs in."""

    async def refused(self, checker):
        """Check that a client is told to try later."""
        with self.assertRaises(TryLater):
            await ask(checker, UsernamePassword(b"ann", b"password"))

    async def test_no_schema(self):
        """A database without the schema, or with another one, is logged once."""
        self.add(b"ann", b"{PLAIN}password")
        checker = self.checker()
        self.sql("ALTER TABLE schema_version RENAME TO renamed")
        try:
            with mock.patch("popserv.auth.users.outages._log") as log:
                for _ in range(3):
                    await self.refused(checker)
        finally:
            self.sql("ALTER TABLE renamed RENAME TO schema_version")
        [call] = log.critical.mock_calls
        self.assertIn("popserv schema create", call.kwargs["problem"])
        with mock.patch("popserv.auth.users.outages._log") as log:
            await ask(checker, UsernamePassword(b"ann", b"password"))
        log.info.assert_called_once()

    async def test_error(self):
        """Nor does an error of the statement let anybody in."""
        self.add(b"ann", b"{PLAIN}password")
        checker = self.checker()
        self.sql("ALTER TABLE account RENAME TO renamed")
        try:
            await self.refused(checker)
        finally:
            self.sql("ALTER TABLE renamed RENAME TO account")
        self.assertEqual(
            await outcome(checker, UsernamePassword(b"ann", b"password")), (b"ann", b"ann")
        )

    async def test_restart(self):
        """A server that is stopped and started again: logins fail meanwhile, and work then."""
        server = PostgreSQL(self)
        self._parameters = {"host": str(server.directory), "user": "mail", "dbname": "postgres"}
        database = self.open(patience=2)
        await create_schema(database)
        server.execute("INSERT INTO account (name, record) VALUES ('ann', '{PLAIN}password')")
        checker = self.checker(database)
        login = UsernamePassword(b"ann", b"password")
        self.assertEqual(await outcome(checker, login), (b"ann", b"ann"))
        server.stop()
        with mock.patch.object(database, "_log") as log:
            await self.refused(checker)
            await self.refused(checker)
            server.start()
            self.assertEqual(await outcome(checker, login), (b"ann", b"ann"))
        log.warn.assert_called_once()


class PluginTests(AccountsCase):
    """``--auth sql-store:FILE``."""

    async def test_file(self):
        """It is made of the file of the store, whose connections it shares."""
        path = self.configure()
        checker = makeChecker(f"sql-store:{path}")
        self.assertIsInstance(checker, AccountsChecker)
        database = open_database(path)
        self.addCleanup(database.close)
        self.assertIs(checker._source._database, database)

    async def test_opened_again(self):
        """After it was closed, or its file has changed, another one is opened."""
        path = self.configure()
        database = open_database(path)
        await database.close()
        again = open_database(path)
        self.assertIsNot(again, database)
        Path(path).write_text(Path(path).read_text() + "connections = 2\n")
        self.assertIsNot(open_database(path), again)

    def test_missing_library(self):
        """Without psycopg, the message says how to install it."""
        hidden = [name for name in sys.modules if name.startswith("popserv.auth.accounts")]
        with mock.patch.dict(sys.modules, {"psycopg": None, "popserv.database": None}):
            for name in hidden:
                del sys.modules[name]
            error = self.assertRaises(ImportError, makeChecker, "sql-store:x")
        self.assertIn(f"run: {how_to_install('sql')}", str(error))


class DiagnosisTests(AccountsCase):
    """``popserv doctor``."""

    async def test_users(self):
        """The users are looked at as those of a users file."""
        self.add(b"ann", new_scram_sha256(b"password"))
        self.assertEqual(list(await self.checker().diagnose()), [])
        self.add(b"bob", b"{APOP}tanstaaf-secret::::::nologin")
        self.add(b"cid", b"{PLAIN}x::::::popserv_nonsense=1")
        self.add(b"dan", b"{OTP}x")
        found = await self.checker().diagnose()
        self.assertEqual(codes(found), ["h users-line", "e users-line", "e users-line"])
        self.assertIn("store.toml, bob", found[0].where)

    async def test_database(self):
        """A database that cannot be asked is an error."""
        self.sql("ALTER TABLE account RENAME TO renamed")
        try:
            found = await self.checker().diagnose()
        finally:
            self.sql("ALTER TABLE renamed RENAME TO account")
        self.assertEqual(codes(found), ["e sql"])
        self.assertIn("account", found[0].what)

    async def test_schema(self):
        """So is one without the schema, or with another one."""
        self.sql("ALTER TABLE schema_version RENAME TO renamed")
        try:
            [found] = await self.checker().diagnose()
        finally:
            self.sql("ALTER TABLE renamed RENAME TO schema_version")
        self.assertEqual(found.code, "sql")
        self.assertIn("popserv schema create", found.what)
