"""What checkers find out about the servers, programs and files that they depend on."""

import json
import os
import socket

from twisted.cred.strcred import makeChecker
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from examples.cluster.processes import free_port
from popserv.auth.dovecot.checker import DovecotChecker
from popserv.auth.ldap.checker import LDAPChecker
from popserv.auth.ldap.config import LDAPConfig
from popserv.auth.oauth.checker import TokenChecker
from popserv.auth.oauth.jwks import ALGORITHMS
from popserv.auth.oauth.jwt_verifier import JWTVerifier
from popserv.auth.oauth.provider import ProviderError
from popserv.auth.oauth.verifier import InvalidToken
from popserv.auth.rhosts.checker import RhostsChecker
from popserv.auth.rhosts.resolver import HostResolver
from popserv.auth.services import pam
from popserv.auth.services.checkpassword import CheckPasswordChecker
from popserv.auth.services.pam import PAMChecker
from popserv.auth.users.look_ups import LookUps
from popserv.errors import TryLater
from popserv.interfaces import IDiagnosed
from tests.auth.dovecot.harness import APOP_HANDSHAKE, DovecotCase
from tests.auth.ldap.harness import SEARCH, TEMPLATE, DirectoryCase
from tests.auth.oauth.test_checker import ScriptedVerifier
from tests.auth.oauth.tokens import ISSUER, FixedKeys, jwk_of, rsa_key
from tests.auth.sql.harness import DatabaseCase
from tests.doctor.harness import codes, open_directory, unprivileged
from tests.live.slapd import Slapd


class SQLTests(DatabaseCase):
    """``--auth sql``."""

    async def findings(self, *arguments, **settings):
        """Return what is found."""
        checker = makeChecker(f"sql:{self.configure(*arguments, **settings)}")
        self.addCleanup(lambda: checker._source._config.engine.dispose())
        verifyObject(IDiagnosed, checker)
        return list(await checker.diagnose())

    async def test_right(self):
        """A database that answers with the columns has nothing wrong with it."""
        self.assertEqual(await self.findings(), [])
        query = "SELECT 'a' AS name, '' AS password, 'b' AS userdb_home, 1 AS nologin WHERE :user"
        self.assertEqual(await self.findings(query=query), [])

    async def test_columns(self):
        """Columns that are missing, or would refuse every user, are errors."""
        query = "SELECT 'a' AS name, 'b' AS quota, 'c' AS nologin WHERE :user = ''"
        found = await self.findings(query=query)
        self.assertEqual(codes(found), ["e sql-columns", "e sql-columns"])
        self.assertIn("no column password", found[0].what)
        self.assertIn("returns quota,", found[1].what)

    async def test_failed(self):
        """A query that fails is an error, and so is a database that is not there."""
        [finding] = await self.findings(query="SELECT :user AS name FROM missing")
        self.assertEqual(finding.code, "sql")
        self.assertEqual(finding.what, "the database cannot be asked: no such table: missing")


class LDAPTests(DirectoryCase):
    """``--auth ldap``, with a real slapd."""

    async def codes(self, *arguments, **settings):
        """Return what is found."""
        checker = makeChecker(f"ldap:{self.configure(*arguments, **settings)}")
        verifyObject(IDiagnosed, checker)
        return codes(await checker.diagnose())

    async def test_right(self):
        """A directory that answers is right, with a search or without one."""
        for text in (SEARCH, TEMPLATE):
            self.assertEqual(await self.codes(text), [])

    async def test_base(self):
        """A base that does not exist is an error."""
        self.assertEqual(await self.codes(SEARCH.replace("people", "nobody")), ["e ldap"])

    async def test_bind(self):
        """So is a user for the search who cannot bind."""
        bind = 'bind-dn = "uid=ann,ou=people,dc=example,dc=org"\nbind-password = "wrong"\n'
        self.assertEqual(await self.codes(SEARCH + bind), ["e ldap"])

    async def test_anonymous(self):
        """A server that does nothing but binds for who has not bound is right for a template."""
        self.directory = Slapd(self, "require authc")
        self.assertEqual(await self.codes(TEMPLATE), [])
        self.directory.stop()
        self.assertEqual(await self.codes(TEMPLATE), ["e ldap"])

    async def test_away(self):
        """One server of two that is away is a warning, and both are an error."""
        away = f"ldap://127.0.0.1:{free_port()}"
        path = self.configure(SEARCH)
        config = LDAPConfig(path)
        self.patch(LDAPConfig, "__init__", lambda _, path: None)
        for urls, expected in (
            ([away, *config.urls], ["w ldap"]),
            ([away, away], ["e ldap", "e ldap"]),
        ):
            other = LDAPConfig(path)
            vars(other).update(vars(config), urls=urls, connections=1)
            found = await LDAPChecker(other).diagnose()
            self.assertEqual(codes(found), expected)

    async def test_silent(self):
        """A server that accepts a connection and never answers is an error."""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            urls = [f"ldap://127.0.0.1:{silent.getsockname()[1]}"]
            text = f"start-tls = false\ntimeout = 1\n{TEMPLATE}"
            self.assertEqual(await self.codes(text, urls=urls), ["e ldap"])

    async def test_timeout(self):
        """A directory that does not answer in time is an error."""
        clock = Clock()
        config = LDAPConfig(self.configure(SEARCH))

        def run(function, *args, **options):
            return Deferred()

        checker = LDAPChecker(config)
        checker._look_ups = LookUps("x", config.timeout, 1, reactor=clock, run=run)
        asked = Deferred.fromCoroutine(checker.diagnose())
        clock.advance(config.timeout)
        self.assertEqual(codes(await asked), ["e ldap"])


class DovecotTests(DovecotCase):
    """``--auth dovecot``."""

    def diagnose(self):
        """Begin a diagnosis."""
        checker = DovecotChecker(self.client)
        verifyObject(IDiagnosed, checker)
        return Deferred.fromCoroutine(checker.diagnose())

    def test_right(self):
        """A Dovecot that offers PLAIN is right, and the connection is closed."""
        diagnosis = self.diagnose()
        side = self.accept()
        self.assertEqual(codes(self.successResultOf(diagnosis)), [])
        self.assertTrue(side.transport.is_aborted)
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.assertEqual(self.log_lines(), [])

    def test_no_plain(self):
        """One that does not offer PLAIN is an error."""
        diagnosis = self.diagnose()
        self.accept(APOP_HANDSHAKE)
        self.assertEqual(codes(self.successResultOf(diagnosis)), ["e dovecot-auth"])

    def test_away(self):
        """One that cannot be reached is an error, which is not logged."""
        diagnosis = self.diagnose()
        self.refuse(OSError(111, "Connection refused"))
        [finding] = self.successResultOf(diagnosis)
        self.assertIn("Dovecot cannot be asked: Connection refused", finding.what)
        self.assertEqual(self.log_lines(), [])


class OAuthTests(SynchronousTestCase):
    """``--auth oauth``."""

    def codes(self, checker, where="oauth"):
        """Return what is found, and where."""
        verifyObject(IDiagnosed, checker)
        found = self.successResultOf(Deferred.fromCoroutine(checker.diagnose()))
        self.assertEqual({each.where for each in found} - {where}, set())
        return codes(found)

    def test_verifier(self):
        """A verifier that rejects a false token works; one that cannot tell is an error."""
        for answer, expected in (
            (InvalidToken("is not active"), []),
            ({}, []),
            (ProviderError("https://x: refused"), ["e oauth"]),
            (TryLater(), ["e oauth"]),
        ):
            self.assertEqual(self.codes(TokenChecker(ScriptedVerifier(answer))), expected)

    def test_keys(self):
        """Keys that cannot be read are an error, and so is a set without one that is allowed."""
        directory = open_directory(self)
        keys, config = directory / "keys", directory / "oauth.ini"
        for algorithms in (" ".join(ALGORITHMS), *ALGORITHMS):
            keys.write_text(json.dumps({"keys": [jwk_of(rsa_key())]}))
            config.write_text(
                f"[oauth]\njwks = {keys}\nissuer = https://x.example\naudience = a\n"
                f"algorithms = {algorithms}\ntyp = at+jwt\n"
            )
            checker = TokenChecker.from_file(str(config))
            checker._verifier._keys._run = maybeDeferred
            has_key = ALGORITHMS[algorithms.split()[0]].kty == "RSA"
            expected = [] if has_key else ["e oauth"]
            self.assertEqual(self.codes(checker, str(config)), expected, algorithms)
            keys.unlink()
            self.assertEqual(self.codes(checker, str(config)), ["e oauth"], algorithms)

    def test_no_key(self):
        """The error names the algorithms that are allowed."""
        verifier = JWTVerifier(
            FixedKeys(), issuer=ISSUER, audience="mail", algorithms=["RS256", "ES256"]
        )
        checker = TokenChecker(verifier)
        [finding] = self.successResultOf(Deferred.fromCoroutine(checker.diagnose()))
        self.assertIn("has no key for the algorithms ES256, RS256", finding.what)


class ServicesTests(TestCase):
    """``--auth checkpassword`` and ``--auth pam``."""

    async def test_checkpassword(self):
        """A program that the server's user cannot run is an error."""
        path = open_directory(self) / "program"
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
        checker = CheckPasswordChecker.from_argument(f"{path} argument")
        verifyObject(IDiagnosed, checker)
        with unprivileged():
            self.assertEqual(codes(await checker.diagnose()), [])
        path.chmod(0o600)
        with unprivileged():
            self.assertEqual(codes(await checker.diagnose()), ["e checkpassword"])

    async def test_pam(self):
        """If the passwords of the system cannot be read, that is a warning."""
        checker = PAMChecker("pop3")
        verifyObject(IDiagnosed, checker)
        for path, expected in (("/dev/null", []), ("/nowhere", ["w pam"])):
            self.patch(pam, "SHADOW", path)
            self.assertEqual(codes(await checker.diagnose()), expected)


async def look_up(function, host, *, still_needed):
    """Look up a host name, as a resolver that knows one name."""
    if host != "right.example":
        raise OSError
    return frozenset({"x"})


class RhostsTests(TestCase):
    """``--rhosts``."""

    async def test_file(self):
        """A name that cannot be resolved is a warning; a file that cannot be used is an error."""
        path = open_directory(self) / "rhosts"
        path.write_text("192.0.2.1 ann =\nright.example ann =\nwrong.example ann =\n")
        path.chmod(0o600)
        checker = RhostsChecker(str(path), HostResolver(look_up, Clock()))
        verifyObject(IDiagnosed, checker)
        [finding] = await checker.diagnose()
        self.assertEqual((finding.code, finding.where), ("rhosts-name", f"{path}, line 3"))
        path.chmod(0)
        with unprivileged():
            [finding] = await checker.diagnose()
        self.assertIn("Permission denied for user ", finding.what)
        path.chmod(0o666)
        [finding] = await checker.diagnose()
        self.assertEqual(finding.code, "rhosts")
        self.assertIn("is writable by users other than its owner", finding.what)
        os.unlink(path)
        self.assertEqual(codes(await checker.diagnose()), ["e rhosts"])
