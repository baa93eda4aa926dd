"""Tests of popserv.wiring.factories."""

import os
from base64 import b64encode
from pathlib import Path
from unittest.mock import patch

from twisted.cred.credentials import UsernamePassword
from twisted.logger import formatEvent
from zope.interface.verify import verifyObject

from popserv import __version__
from popserv.auth.passwords import decoys
from popserv.auth.passwords.schemes import new_scram_sha256
from popserv.auth.passwords.users_file import default_path
from popserv.auth.passwords.users_file_editing import set_secret
from popserv.auth.preauth import Preauthenticated
from popserv.auth.realm import MaildropRealm
from popserv.auth.sql.checker import SQLChecker
from popserv.auth.throttle.login_delay import LoginDelayRealm
from popserv.commands import rfc1460, rfc1725
from popserv.commands.dialects import DIALECTS
from popserv.core.session import Session
from popserv.errors import LoginFailed
from popserv.interfaces import IConfigurableRealm, IMailbox, IRemoteUserCredentials
from popserv.maildrops.maildir.store import MaildirMaildrops
from popserv.messages.downgrade.downgrader import Downgrader
from popserv.options.server import Options
from popserv.runtime.bus import WorkerBus
from popserv.wiring.factories import (
    make_factory,
    make_preauthenticated_factory,
    make_realm,
    start_polling,
    warn_about_short_timeout,
)
from tests.auth.accounts.harness import AccountsCase
from tests.auth.sasl.harness import ScramClient, attributes, begin_scram
from tests.commands.harness import Client, FakeTLSState
from tests.options.harness import OptionsCase


class FactoriesCase(OptionsCase):
    """Tests of factories that options describe."""

    def factory(self, *arguments):
        """Return the factory that these arguments describe."""
        options = self.parse(*arguments)
        return make_factory(options, MaildropRealm(MaildirMaildrops(options["maildir"])))

    def capabilities(self, *arguments):
        """Return the capability list of a connection from this machine."""
        return Client(self.factory(*arguments)).capabilities()


class RealmTests(OptionsCase):
    """The realm of a server."""

    def test_settings(self):
        """Settings of users reach the store, whatever limits there are."""
        for arguments in ([], ["--login-delay=5"]):
            realm = make_realm(self.parse(*arguments), WorkerBus())
            self.assertTrue(verifyObject(IConfigurableRealm, realm))

    def test_login_delay(self):
        """The delay between logins is the realm's, or that of a store that hosts share."""
        path = Path(self.mktemp())
        path.write_text('conninfo = "host=/nowhere"')
        path.chmod(0o600)
        for store in ([], ["--maildir=", f"--store=sql:{path}"]):
            options = self.parse("--login-delay=5", *store)
            realm = make_realm(options, WorkerBus())
            self.assertEqual(isinstance(realm, LoginDelayRealm), not store)
        self.assertEqual(options.store.login_delay, 5)


class CommandsTests(FactoriesCase):
    """The commands of a factory."""

    def test_dialects(self):
        """--dialect selects the commands and the greeting; --without removes commands."""
        for name, dialect in DIALECTS.items():
            factory = self.factory("--dialect", name, "--hostname", "dewey.example.org")
            expected = {command.keyword for command in dialect.commands}
            self.assertEqual({command.keyword for command in factory.commands}, expected)
            self.assertEqual(factory.greeting, dialect.greeting(b"dewey.example.org"))
            factory = self.factory("--dialect", name, "--without", "TOP")
            self.assertEqual({each.keyword for each in factory.commands}, expected - {b"TOP"})

    def test_without(self):
        """A command that --without removes is unknown; its keyword is not case-sensitive."""
        for keyword in "TOP uidl APOP CAPA STLS AUTH Lang".split():
            client = Client(self.factory("--without", keyword))
            reply = client.send(keyword.encode() + b"\r\n")
            self.assertEqual(reply, b"-ERR unknown command\r\n")
        client = Client(self.factory(*"--without=CAPA,LANG --without=capa".split()))
        self.assertEqual(client.send(b"CAPA\r\nLANG\r\n"), b"-ERR unknown command\r\n" * 2)

    def test_utf8(self):
        """UTF8 is unknown and not announced, unless --utf8 is given."""
        client = Client(self.factory())
        self.assertEqual(client.send(b"UTF8\r\n"), b"-ERR unknown command\r\n")
        self.assertIsNone(self.factory().downgrader)
        factory = self.factory("--utf8")
        self.assertIs(factory.downgrader, Downgrader)
        self.assertIn(b"UTF8 USER", Client(factory).capabilities())
        self.assertTrue(Client(factory).send(b"UTF8\r\n").startswith(b"+OK "))

    def test_mark_seen(self):
        """With --mark-seen, RETR records what it has sent, as in a dialect with LAST."""
        for name, dialect in DIALECTS.items():
            has_last = dialect.has(b"LAST")
            for arguments in [()] if has_last else [(), ("--mark-seen",)]:
                factory = self.factory("--dialect", name, *arguments)
                (retr,) = [each for each in factory.commands if each.keyword == b"RETR"]
                expected = rfc1460.retr if has_last or arguments else rfc1725.retr
                self.assertIs(retr, expected)

    def test_hostname(self):
        """--hostname is the name in the reply to QUIT."""
        client = Client(self.factory("--hostname", "pop.example.org"))
        self.assertEqual(
            client.send(b"QUIT\r\n"), b"+OK pop.example.org POP3 server signing off\r\n"
        )

    def test_language(self):
        """``LANG *`` selects the language of --language."""
        client = Client(self.factory("--language", "fr"))
        self.assertEqual(client.send(b"LANG *\r\n")[:7], b"+OK fr ")


class CapabilitiesTests(FactoriesCase):
    """The capability list of a factory."""

    def test_defaults(self):
        """The defaults announce neither a login delay nor a mechanism that nobody can use."""
        self.assertEqual(
            self.capabilities(),
            [
                *(b"USER", b"TOP", b"UIDL", b"RESP-CODES", b"AUTH-RESP-CODE", b"PIPELINING"),
                *(b"EXPIRE NEVER", b"SASL SCRAM-SHA-256 SCRAM-SHA-1 PLAIN LOGIN"),
                *(b"LANG", b"IMPLEMENTATION popserv-" + __version__.encode()),
            ],
        )

    def test_announced_options(self):
        """--login-delay and --expire are announced; --hide-version omits the version."""
        for given, expire in (("", b"NEVER"), ("--since=12h", b"0"), ("--since=5w", b"35")):
            self.assertIn(b"EXPIRE " + expire, self.capabilities(*given.split()))
        self.assertIn(b"EXPIRE 9", self.capabilities("--since=5w", "--expire=9"))
        lines = self.capabilities(*"--login-delay=30 --expire=90 --hide-version".split())
        self.assertLessEqual({b"LOGIN-DELAY 30", b"EXPIRE 90"}, set(lines))
        self.assertNotIn(b"popserv", b"".join(lines))

    def test_sasl(self):
        """The mechanisms are announced once each, in the order of --sasl."""
        for names, line in [
            ("login, PLAIN ,Login", b"SASL LOGIN PLAIN"),
            ("cram-md5", b"SASL CRAM-MD5"),
            ("external,oauthbearer,plain", b"SASL PLAIN"),
        ]:
            self.assertIn(line, self.capabilities("--sasl", names))

    def test_unsupported_mechanism(self):
        """A mechanism of --sasl that no checker supports is logged."""
        self.factory("--sasl", "PLAIN,CRAM-MD5,OAUTHBEARER")
        lines = [formatEvent(event) for event in self.log]
        self.assertIn(
            "AUTH does not offer OAUTHBEARER: no checker supports it for all its users", lines
        )
        self.assertFalse([line for line in lines if "PLAIN" in line])

    async def test_several_checkers(self):
        """Several checkers are asked in order."""
        factory = self.factory("--auth=memory:ann:1:bob:1", "--auth=memory:ann:2:carl:2")
        login = factory.throttle.authenticator.authenticate
        for name, password in ((b"ann", b"1"), (b"bob", b"1"), (b"carl", b"2")):
            _, release = await login(UsernamePassword(name, password))
            await release()

    def test_relayed_mechanism(self):
        """Of a server that is asked later, nothing is known at the start."""
        self.factory("--sasl", "PLAIN,OAUTHBEARER", "--auth=dovecot:/s")
        self.assertEqual([event for event in self.log if "name" in event], [])

    def test_database(self):
        """Nor of a database, until the checker has been told to ask it."""
        path = Path(self.mktemp())
        path.write_text('conninfo = "host=/nowhere"')
        path.chmod(0o600)
        options = self.parse("--sasl", "PLAIN,CRAM-MD5", f"--auth=sql-store:{path}")
        make_factory(options, make_realm(options, WorkerBus()))
        self.assertEqual([event for event in self.log if "name" in event], [])
        [checker] = options["credCheckers"]
        with patch.object(checker, "poll") as poll:
            start_polling(options)
            start_polling(self.parse())
        poll.assert_called_once_with()

    def test_require_tls(self):
        """With --require-tls, no login is announced before STLS, on this machine either."""
        client = Client(self.factory(*self.certificate(), "--require-tls", "-l", "tcp:1"))
        lines = client.capabilities()
        self.assertIn(b"STLS", lines)
        self.assertNotIn(b"USER", lines)
        self.assertIsNone(client.mechanisms())


class LoginTests(FactoriesCase):
    """The checkers of a factory."""

    async def test_auth(self):
        """--auth replaces the users file of --maildir; memory: is a checker of Twisted."""
        login = self.factory("--auth", "memory:ann:pw").throttle.authenticator
        _, release = await login.authenticate(UsernamePassword(b"ann", b"pw"))
        await release()
        with self.assertRaises(LoginFailed):
            await login.authenticate(UsernamePassword(b"joe", b"secret"))

    async def test_default_domain(self):
        """--default-domain is added to names without @, with and without a login."""
        set_secret(default_path(self.root), b"joe@example.org", b"{PLAIN}secret", new=True)
        factory = self.factory("--default-domain", "example.org")
        credentials = UsernamePassword(b"Joe", b"secret")
        _, release = await factory.throttle.authenticator.authenticate(credentials)
        await release()
        self.assertEqual(credentials.username, b"joe@example.org")
        options = self.parse("--preauth=unix:/x", "--default-domain=example.org")
        realm = MaildropRealm(MaildirMaildrops(options["maildir"]))
        preauthenticated = make_preauthenticated_factory(options, realm, None)
        credentials = Preauthenticated(b"joe")
        _, release = await preauthenticated.throttle.authenticator.authenticate(credentials)
        await release()
        self.assertEqual(credentials.username, b"joe@example.org")

    async def test_default_domain_of_certificates(self):
        """--default-domain is also added to the names of EXTERNAL."""
        set_secret(default_path(self.root), b"joe@example.org", b"{PLAIN}secret", new=True)
        for arguments in ((), ("--sasl=PLAIN,EXTERNAL",)):
            factory = self.factory("--default-domain=example.org", *arguments)
            for name, identity in ((b"joe", b"joe@example.org"), (b"joe@example.org", b"joe")):
                state = FakeTLSState([name])
                session = Session(factory.throttle.authenticator, tls_state=state)
                auth = factory.commands.find(session, b"AUTH")
                await auth.run(session, b"EXTERNAL", b64encode(identity))
                self.assertEqual(session.name, b"joe@example.org")
                await session.end()
                session.tls_state = FakeTLSState([b"ann@example.org"])
                with self.assertRaises(LoginFailed):
                    await auth.run(session, b"EXTERNAL", b64encode(identity))

    async def test_folder_delimiter(self):
        """With --folder-delimiter, a client that logs in can name a folder; no other can."""
        set_secret(default_path(self.root), b"ann", b"{PLAIN}secret", new=True)
        for name in ("joe", "ann"):
            os.makedirs(f"{self.root}/{name}/.Sent/cur")
        for arguments, succeeds in (((), False), (("--folder-delimiter=-",), True)):
            factory = self.factory(*arguments)
            credentials = UsernamePassword(b"Joe-Sent", b"secret")
            if not succeeds:
                with self.assertRaises(LoginFailed):
                    await factory.throttle.authenticator.authenticate(credentials)
                continue
            _, release = await factory.throttle.authenticator.authenticate(credentials)
            await release()
            self.assertEqual(credentials.username, b"joe-Sent")
            state = FakeTLSState([b"ann"])
            session = Session(factory.throttle.authenticator, tls_state=state)
            auth = factory.commands.find(session, b"AUTH")
            await auth.run(session, b"EXTERNAL", b64encode(b"ann-Sent"))
            self.assertEqual(session.name, b"ann-Sent")
            await session.end()
        options = self.parse("--preauth=unix:/x", "--listen=tcp:1", "--folder-delimiter=-")
        opened = []
        realm = MaildropRealm(MaildirMaildrops(options["maildir"]))

        def open_maildrop(user, *_):
            opened.append(user)
            return IMailbox, None, None

        self.patch(realm, "requestAvatar", open_maildrop)
        preauthenticated = make_preauthenticated_factory(options, realm, None)
        await preauthenticated.throttle.authenticator.authenticate(Preauthenticated(b"joe-Sent"))
        self.assertEqual(opened, [b"joe-Sent"])

    def test_rhosts(self):
        """RPOP is available only with --rhosts."""
        path = self.write("rhosts", b"# ours\n192.0.2.0/24 + =\n")
        os.chmod(path, 0o644)
        factory = self.factory("--dialect=rfc1225", "--rhosts", path)
        self.assertTrue(factory.throttle.authenticator.supports(IRemoteUserCredentials))
        self.assertFalse(
            self.factory("--dialect=rfc1225").throttle.authenticator.supports(
                IRemoteUserCredentials
            )
        )


class DecoysTests(AccountsCase):
    """The decoys of hosts that share a store."""

    def setUp(self):
        """Write a users file, and a database of users of another program."""
        self.users = Path(self.mktemp()).absolute()
        set_secret(str(self.users), b"ann", new_scram_sha256(b"secret", 7), new=True)
        self.others = Path(self.mktemp()).absolute()
        self.others.write_text(
            """url = "sqlite://"\nquery = "SELECT :user AS name, NULL AS password WHERE false"\n"""
            """schemes = ["SCRAM-SHA-256"]\n"""
        )
        self.others.chmod(0o600)
        return super().setUp()

    async def challenges(self, *auth):
        """Return what a new host, on another machine, sends to names of nobody."""
        self.patch(decoys, "_MACHINE_ID", self.mktemp())
        options = Options()
        checkers = [f"--auth={each}" for each in auth]
        options.parseOptions([f"--store=sql:{self.configure()}", *checkers])
        self.addCleanup(options.store.stop)
        for checker in options["credCheckers"]:
            if isinstance(checker, SQLChecker):
                self.addCleanup(checker._source.close)
        factory = make_factory(options, make_realm(options, WorkerBus()))
        sent = []
        for number in range(9):
            client = ScramClient("sha256", b"wrong", name=b"nobody%d" % number)

            def respond(challenge, client=client):
                sent.append(challenge and attributes(challenge)[b"s"])
                return client(challenge)

            with self.assertRaises(LoginFailed):
                await factory.throttle.authenticator.authenticate(begin_scram(respond, "sha256"))
        return sent

    async def test_same(self):
        """Wherever users are, a name of nobody has one salt, on each host and after a restart."""
        file, others = f"passwd-file:{self.users}", f"sql:{self.others}"
        seen = []
        for auth in ((), (file,), (others,), (file, others, "memory:ann:x")):
            first = await self.challenges(*auth)
            self.assertEqual(first, await self.challenges(*auth), auth)
            seen.append(first)
        self.assertEqual(len({*seen[0]} - {b""}), 9)
        self.assertEqual(seen, [seen[0]] * 4)


class TimeoutTests(FactoriesCase):
    """``warn_about_short_timeout``."""

    def test_short_timeout(self):
        """A timeout of less than ten minutes is accepted with a warning that names the RFC."""
        options = self.parse("--timeout=60")
        warn_about_short_timeout(options)
        (event,) = self.log
        self.assertIn("RFC 1725 section 3", event["log_format"])
        self.assertEqual(self.factory("--timeout=60").idle_timeout, 60)

    def test_minimum(self):
        """A timeout of ten minutes is accepted without a warning."""
        warn_about_short_timeout(self.parse("--timeout=600"))
        self.assertEqual(list(self.log), [])
