"""Options and the service they make; tests/live runs twistd itself."""

import os
import socket
from pathlib import Path
from unittest.mock import patch

from twisted.application.internet import TimerService
from twisted.application.service import IService
from twisted.cred.credentials import UsernamePassword
from twisted.internet.address import IPv6Address
from twisted.internet.error import CannotListenError
from twisted.internet.testing import EventLoggingObserver, StringTransport
from twisted.logger import formatEvent, globalLogPublisher
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python import usage
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from popserv import __version__, tap
from popserv.auth.passwords.users_file_editing import set_secret
from popserv.commands import rfc1460, rfc1725
from popserv.commands.dialects import DIALECTS
from popserv.errors import LoginFailed, LoginTooSoon
from popserv.interfaces import IRemoteUserCredentials
from popserv.server.preauth import PreauthenticatedFactory
from tests.certificates import issue, make_authority
from tests.commands.harness import Client

CA = make_authority()
SERVER = issue("pop.example.org", issuer=CA)


class Missing:
    """A module that lacks something."""

    def __init__(self, module, name):
        self._module = module
        self._name = name

    def __getattr__(self, name):
        if name == self._name:
            raise AttributeError(name)
        return getattr(self._module, name)


class OptionsCase(TestCase):
    """A root with a users file."""

    def setUp(self):
        """Make the root, and a record of the log."""
        self.root = self.mktemp()
        os.makedirs(self.root)
        set_secret(os.path.join(self.root, ".users"), b"joe", b"{PLAIN}secret", new=True)
        self.log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)

    def write(self, name, octets):
        """Write a file below the root; return its path."""
        path = os.path.join(self.root, name)
        with open(path, "wb") as file:
            file.write(octets)
        return path

    def parse(self, *arguments):
        """Options as from a command line."""
        options = tap.Options()
        options.parseOptions(["--maildir", self.root, *arguments])
        return options


class OptionsTests(OptionsCase):
    """A wrong value says what is wrong, and what would be right."""

    def test_defaults(self):
        """The root is all that is needed."""
        options = self.parse()
        self.assertEqual((options["timeout"], options["listen"]), (600, ["tcp:110"]))
        self.assertFalse(options["allow-plaintext"])

    def test_wrong_values(self):
        """Each wrong value has its message."""
        maildir = self.mktemp()
        for folder in ("new", "cur"):
            os.makedirs(os.path.join(maildir, folder))
        for arguments, told in [
            (["--maildir", "/nowhere"], "the directory /nowhere is not there; make it first"),
            (["--maildir", maildir], "give the directory above"),
            (["--maildir", ""], "--maildir ROOT is needed"),
            (["--maildir", __file__], "is no directory"),
            (["--listen", "ssl:0:privateKey=/nowhere.pem"], "No such file"),
            (["--maildir", "/srv/%x"], "%x is not known: use %u, %n, %d"),
            (["--maildir", "/srv/%d"], "use %u or %n"),
            (["--workers", "many"], "--workers takes a number of processes, or auto, not 'many'"),
            (["--workers", "0"], "--workers takes a number above 0, or auto"),
            (["--workers", "-1"], "--workers takes a number of processes"),
            (["--workers", "3", "--max-connections", "2"], "each worker has its part"),
            (["--timeout", "soon"], "--timeout takes seconds, such as 600, not 'soon'"),
            (["--timeout", "0"], "--timeout takes seconds"),
            (["--timeout", "inf"], "--timeout takes seconds"),
            (["--max-connections", "-1"], "--max-connections takes a number above 0, not '-1'"),
            (["--max-connections", "1.5"], "--max-connections takes a number"),
            (["--listen", "tcp:pop3s3"], "one would be tcp:110"),
            (["--listen", "carrier:pigeon"], "one would be tcp:110"),
            (["--auth", "nonsense"], "--help-auth"),
            (["--auth", "anonymous"], "not supported"),
            (["--auth", "passwd-file"], "passwd-file:PATH"),
            (["--auth", "memory:a:b", "--auth", "memory:c:d"], "--auth given 2 times"),
        ]:
            error = self.assertRaises(usage.UsageError, self.parse, *arguments)
            self.assertIn(told, str(error))

    def test_wrong_extensions(self):
        """So has each wrong value of what came after RFC 1725."""
        pem = self.write("pop.pem", SERVER.pem())
        alone = self.write("alone.pem", SERVER.certificate_pem())
        key = self.write("key.pem", issue("other.example.org").key_pem())
        empty = self.write("empty.pem", b"")
        for arguments, told in [
            (["--certificate", "/nowhere.pem"], "/nowhere.pem: no such file"),
            (["--certificate", empty], "no certificate in this file"),
            (["--certificate", alone], "no private key in this file"),
            (["--certificate", alone, "--private-key", key], "does not match"),
            (["--certificate", pem, "--client-ca", empty], "no certificate in this file"),
            (["--certificate", pem, "--client-ca", pem], "is not the certificate of a CA"),
            (["--private-key", key], "--private-key needs --certificate FILE"),
            (["--client-ca", pem], "--client-ca needs --certificate FILE"),
            (["--require-tls"], "--require-tls needs --certificate FILE"),
            (["--listen-tls", "tcp:995"], "--listen-tls needs --certificate FILE"),
            (["--listen-tls", "carrier:pigeon"], "--listen-tls carrier:pigeon is no server"),
            (
                ["--sasl", "plain,kerberos"],
                "called 'KERBEROS'; there are SCRAM-SHA-256-PLUS, SCRAM",
            ),
            (["--sasl", ""], "--sasl: no mechanism is called ''; there are"),
            (["--listen", "haproxy:ssl:995"], "give --listen-tls haproxy:tcp:995"),
            (["--listen-tls", "ssl:995"], "this begins TLS by itself, give it as --listen"),
            (
                ["--trusted-networks", "here"],
                "--trusted-networks: 'here' does not appear to be an IPv4 or IPv6 net",
            ),
            (
                ["--trusted-networks", "192.0.2.1/24"],
                "--trusted-networks: 192.0.2.1/24 has host bits set",
            ),
            (["--cache-messages", "all"], "--cache-messages takes a number of messages, not 'all'"),
            (["--login-delay", "-1"], "--login-delay takes a whole number of seconds, not '-1'"),
            (["--login-delay", "1.5"], "--login-delay takes a whole number of seconds"),
            (["--login-delay", "1234567"], "--login-delay takes"),
            (["--login-delay", "٣"], "--login-delay takes"),
            (["--expire", "never"], "--expire takes a whole number of days, not 'never'"),
            (["--hostname", "two words"], "--hostname takes a name such as pop.example.org"),
            (["--workarounds", "oe-ns-eoh,x"], "--workarounds x: there are outlook-no-nuls, oe-"),
            (["--language", "tlh"], "--language: no language tlh; there are i-default, en, de, fr"),
            (["--without", "STAT"], "--without STAT: these can be left out: TOP UIDL APOP CAPA"),
            (["--without", "ümlaut"], "--without ÜMLAUT: these can be left out"),
            (["--without", "LANG,STAT"], "--without STAT: these can be left out"),
            (
                ["--certificate", pem, "--require-tls", "--allow-plaintext"],
                "--require-tls and --allow-plaintext: give one of them",
            ),
            (
                ["--certificate", pem, "--require-tls", "--without=STLS", "-l", "tcp:110"],
                "--require-tls and --without STLS: nobody could log in; give a --listen-tls, too",
            ),
            (
                ["--certificate", pem, "--require-tls", "--dialect=rfc1225", "-l", "tcp:110"],
                "--require-tls and --dialect rfc1225: nobody could log in; give a --listen-tls",
            ),
            (
                ["--dialect", "pop2"],
                "--dialect pop2: there are modern, rfc1725, rfc1460, rfc1225, pop-revised",
            ),
            (
                ["--dialect", "rfc1460", "--sasl", "PLAIN"],
                "--sasl is for AUTH, which --dialect rfc1460 has not; these have it: modern",
            ),
            (["--preauth", "tcp:1110"], "of no other socket does the system say whose it is"),
            (["--preauth=unix:/x", "--sasl=PLAIN"], "--sasl is for logins, and here nobody logs"),
            (["--dialect=rfc1725", "--expire=9"], "--expire is for CAPA, which --dialect rfc1725"),
            (["--dialect=rfc1725", "--hide-version"], "--hide-version is for CAPA"),
            (["--dialect=rfc1725", "--language=de"], "--language is for LANG"),
            (["--dialect=rfc1725", "--client-ca", pem], "--client-ca is for AUTH"),
            (
                ["--rhosts", empty],
                "--rhosts is for RPOP, which --dialect modern has not; "
                "these have it: rfc1225, pop-revised",
            ),
            (
                ["--dialect=rfc1460", "--without=TOP,UIDL"],
                "--without UIDL: --dialect rfc1460 has none",
            ),
            (
                ["--dialect=rfc1225", "--mark-seen"],
                "--mark-seen: --dialect rfc1225 does so anyway, for LAST",
            ),
        ]:
            error = self.assertRaises(usage.UsageError, self.parse, *arguments)
            self.assertIn(told, str(error))
            self.assertNotIn("\n", str(error))

    def test_where(self):
        """With a certificate there is TLS on 995, unless it is said where to listen."""
        certificate = ["--certificate", self.write("pop.pem", SERVER.pem())]
        for arguments, plain, over_tls in [
            ([], ["tcp:110"], []),
            (certificate, ["tcp:110"], ["tcp:995"]),
            ([*certificate, "--listen", "tcp:1"], ["tcp:1"], []),
            ([*certificate, "--listen-tls", "tcp:2"], [], ["tcp:2"]),
            (
                [*certificate, "-l", "tcp:1", "--listen-tls", "tcp:2", "--listen-tls", "tcp:3"],
                ["tcp:1"],
                ["tcp:2", "tcp:3"],
            ),
        ]:
            options = self.parse(*arguments)
            self.assertEqual((options["listen"], options["listen-tls"]), (plain, over_tls))
        self.assertEqual(self.parse("--dialect=pop-revised")["listen"], ["tcp:109"])
        options = self.parse("--preauth", "unix:/x")
        self.assertEqual((options["listen"], options["preauth"]), ([], ["unix:/x"]))
        with patch("popserv.commandline.options.HAS_PEER_UID", False):
            error = self.assertRaises(usage.UsageError, self.parse, "--preauth", "unix:/x")
        self.assertIn("this system does not say", str(error))
        self.parse(*certificate, "--require-tls", "--dialect=rfc1225", "--listen-tls=tcp:995")
        self.parse(*certificate, "--require-tls", "--dialect=rfc1225")

    def test_workers(self):
        """One process by default; auto is one for each core that may be used."""
        self.assertEqual(self.parse()["workers"], 1)
        self.assertEqual(self.parse("--workers=3", "--max-connections=3")["workers"], 3)
        with patch("os.sched_getaffinity", lambda _: {0, 2, 5}, create=True):
            self.assertEqual(self.parse("--workers=auto")["workers"], 3)
        with patch("popserv.commandline.options.os", Missing(os, "sched_getaffinity")):
            for cores, workers in ((7, 7), (None, 1)):
                with patch("os.cpu_count", lambda cores=cores: cores):
                    self.assertEqual(self.parse("--workers=auto")["workers"], workers)

    def test_arguments(self):
        """What was parsed is kept, for the workers to parse it again."""
        self.assertEqual(self.parse("-t", "700").arguments, ["--maildir", self.root, "-t", "700"])
        options = tap.Options()
        with patch("sys.argv", ["program", "--maildir", self.root]):
            options.parseOptions()
        self.assertEqual(options.arguments, ["--maildir", self.root])

    def test_no_tls_extra(self):
        """Without what TLS needs, --certificate says which package it lacks; all else works."""
        with patch.dict("sys.modules", {"popserv.tls.certificates": None}):
            self.parse()
            error = self.assertRaises(usage.UsageError, self.parse, "--certificate", "x.pem")
        self.assertIn("pip install 'popserv[tls]'", str(error))

    def test_maildir_is_needed(self):
        """Without a root there is nothing to serve."""
        error = self.assertRaises(usage.UsageError, tap.Options().parseOptions, [])
        self.assertIn("--maildir ROOT is needed", str(error))

    def test_public_users_file(self):
        """A users file that everybody can read is refused with what mends it."""
        users = Path(self.root, ".users")
        users.chmod(0o644)
        error = self.assertRaises(usage.UsageError, self.parse)
        self.assertIn(f"chmod o= {users.absolute()}", str(error))

    def test_no_users(self):
        """Without a users file the server starts, and says how to make one."""
        os.unlink(os.path.join(self.root, ".users"))
        self.parse()
        event = next(event for event in self.log if "quoted" in event)
        self.assertIn("popserv user add --users", event["log_format"])

    def test_version(self):
        """--version is ours."""
        with patch("builtins.print") as printed:
            self.assertRaises(SystemExit, self.parse, "--version")
        printed.assert_called_once_with(f"popserv {__version__}")

    def test_help(self):
        """--help has every option, and examples."""
        text = tap.Options().getUsage()
        for option in (
            "maildir listen auth timeout allow-plaintext max-connections certificate private-key "
            "client-ca listen-tls require-tls sasl login-delay expire hide-version language "
            "without hostname workarounds cache-messages workers dialect mark-seen rhosts"
        ).split():
            self.assertIn(f"--{option}", text)
        self.assertIn("twistd -n pop3 --maildir /var/mail", text)


class ServiceTests(OptionsCase):
    """makeService puts the parts together."""

    def factory(self, *arguments):
        """The factory that a service would listen with."""
        with patch.object(tap.strports, "service") as service:
            tap.makeService(self.parse(*arguments))
        self.endpoints = [call.args[0] for call in service.call_args_list]
        return service.call_args.args[1]

    def test_dialects(self):
        """Each dialect has its commands and its greeting; --without leaves out of any."""
        for name, dialect in DIALECTS.items():
            factory = self.factory("--dialect", name, "--hostname", "dewey.example.org")
            self.assertEqual(self.endpoints, [f"tcp:{dialect.port}"])
            wanted = {command.keyword for command in dialect.commands}
            self.assertEqual({command.keyword for command in factory.commands}, wanted)
            self.assertEqual(factory.greeting, dialect.greeting(b"dewey.example.org"))
            factory = self.factory("--dialect", name, "--without", "TOP")
            self.assertEqual({each.keyword for each in factory.commands}, wanted - {b"TOP"})

    def test_rhosts(self):
        """--rhosts has RPOP offered, in a dialect that has it; a bad line ends the start."""
        path = self.write("rhosts", b"# ours\n192.0.2.0/24 + =\n")
        os.chmod(path, 0o644)
        factory = self.factory("--dialect=rfc1225", "--rhosts", path)
        self.assertTrue(factory.throttle.authenticator.supports(IRemoteUserCredentials))
        self.assertFalse(
            self.factory("--dialect=rfc1225").throttle.authenticator.supports(
                IRemoteUserCredentials
            )
        )
        path = self.write("rhosts", b"# ours\n192.0.2.0/24 +\n")
        error = self.assertRaises(
            usage.UsageError, self.parse, "--dialect=rfc1225", "--rhosts", path
        )
        self.assertRegex(str(error), "rhosts.*line 2")

    def test_mark_seen(self):
        """--mark-seen has RETR of a dialect without LAST noted as one with it does."""
        for name, dialect in DIALECTS.items():
            noted = dialect.has(b"LAST")
            for arguments in [()] if noted else [(), ("--mark-seen",)]:
                factory = self.factory("--dialect", name, *arguments)
                (retr,) = [each for each in factory.commands if each.keyword == b"RETR"]
                wanted = rfc1460.retr if noted or arguments else rfc1725.retr
                self.assertIs(retr, wanted)

    async def test_login(self):
        """What the options describe lets its users in."""
        factory = self.factory()
        self.assertEqual(self.endpoints, ["tcp:110"])
        mailbox, release = await factory.throttle.authenticator.authenticate(
            UsernamePassword(b"joe", b"secret")
        )
        self.assertEqual(len(mailbox.messages), 0)
        await release()

    def test_options_arrive(self):
        """Every option does something."""
        factory = self.factory(
            *"--timeout=900 --allow-plaintext --max-connections=7 -l tcp:1 -l tcp:2".split()
        )
        self.assertEqual((factory.idle_timeout, factory.max_connections), (900, 7))
        self.assertTrue(factory.allow_plaintext)
        self.assertEqual(self.endpoints, ["tcp:1", "tcp:2"])

    def test_trusted(self):
        """Each --trusted-networks is a network whose clients are not taken for one."""
        factory = self.factory("--trusted-networks=192.0.2.0/24", "--trusted-networks=2001:db8::7")
        for host, network in [
            ("192.0.2.1", None),
            ("2001:db8::7", None),
            ("192.0.3.1", "192.0.3.1"),
            ("2001:db8::8", "2001:db8::/64"),
        ]:
            peer = IPv6Address("TCP", host, 1)
            self.assertEqual(factory.networks.of(StringTransport(peerAddress=peer)), network)

    def capabilities(self, *arguments, **connection):
        """The lines of CAPA on a connection to what the options make."""
        return Client(self.factory(*arguments), **connection).capabilities()

    def certificate(self):
        """The options of a server's certificate."""
        path = os.path.join(self.root, "pop.pem")
        with open(path, "wb") as file:
            file.write(SERVER.pem())
        return ["--certificate", path]

    def test_capabilities(self):
        """What is not said is announced as safely as can be."""
        self.assertEqual(
            self.capabilities(),
            [
                *(b"USER", b"TOP", b"UIDL", b"RESP-CODES", b"AUTH-RESP-CODE", b"PIPELINING"),
                *(b"EXPIRE NEVER", b"IMPLEMENTATION popserv-" + __version__.encode()),
                *(b"SASL SCRAM-SHA-256 SCRAM-SHA-1 PLAIN LOGIN", b"UTF8 USER", b"LANG"),
            ],
        )

    def test_traits(self):
        """What the options say of the server is announced."""
        lines = self.capabilities(*"--login-delay=30 --expire=90 --hide-version".split())
        self.assertLessEqual({b"LOGIN-DELAY 30", b"EXPIRE 90"}, set(lines))
        self.assertNotIn(b"popserv", b"".join(lines))

    def test_sasl(self):
        """The mechanisms are those given, in that order, each once."""
        for given, line in [
            ("login, PLAIN ,Login", b"SASL LOGIN PLAIN"),
            ("cram-md5", b"SASL CRAM-MD5"),
            ("external,oauthbearer,plain", b"SASL PLAIN"),
        ]:
            self.assertIn(line, self.capabilities("--sasl", given))

    def test_mechanism_for_nobody(self):
        """A mechanism that was asked for and cannot be offered is warned of at the start."""
        log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        self.factory("--sasl", "PLAIN,CRAM-MD5,OAUTHBEARER")
        told = [formatEvent(event) for event in log]
        self.assertIn(
            "AUTH does not offer OAUTHBEARER now: no checker can serve it to all its users", told
        )
        self.assertFalse([line for line in told if "PLAIN" in line])

    def test_without(self):
        """What is left out is not there, in whatever case it was given."""
        for keyword in "TOP uidl APOP CAPA STLS AUTH UTF8 Lang".split():
            client = Client(self.factory("--without", keyword))
            answer = client.send(keyword.encode() + b"\r\n")
            self.assertEqual(answer, b"-ERR unknown command\r\n")
        client = Client(self.factory(*"--without=UTF8,LANG --without=utf8".split()))
        self.assertEqual(client.send(b"UTF8\r\nLANG\r\n"), b"-ERR unknown command\r\n" * 2)

    def test_hostname(self):
        """--hostname is the name that the server calls itself."""
        client = Client(self.factory("--hostname", "pop.example.org"))
        self.assertEqual(
            client.send(b"QUIT\r\n"), b"+OK pop.example.org POP3 server signing off\r\n"
        )

    def test_tls_endpoints(self):
        """--require-tls will do with an endpoint that has TLS of its own."""
        _, pem = self.certificate()
        options = self.parse("--require-tls", "--listen", f"ssl:0:privateKey={pem}")
        self.assertTrue(options["require-tls"])

    def test_language(self):
        """--language is what LANG * chooses."""
        client = Client(self.factory("--language", "fr"))
        self.assertEqual(client.send(b"LANG *\r\n")[:7], b"+OK fr ")

    async def test_login_delay(self):
        """A user waits between two logins, and is told so."""
        login = self.factory("--login-delay", "900").throttle.authenticator
        _, release = await login.authenticate(UsernamePassword(b"joe", b"secret"))
        await release()
        with self.assertRaises(LoginTooSoon):
            await login.authenticate(UsernamePassword(b"joe", b"secret"))
        with self.assertRaises(LoginFailed):
            await login.authenticate(UsernamePassword(b"joe", b"wrong"))

    def test_tls(self):
        """A certificate brings STLS, and a port for TLS from the first octet on."""
        certificate = self.certificate()
        with patch.object(tap.strports, "service") as service:
            tap.makeService(self.parse(*certificate))
        (plain, factory), (tls, over_tls) = [call.args for call in service.call_args_list]
        self.assertEqual((plain, tls), ("tcp:110", "tcp:995"))
        self.assertIsInstance(over_tls, TLSMemoryBIOFactory)
        self.assertIs(over_tls.wrappedFactory, factory)
        self.assertIn(b"STLS", Client(factory).capabilities())
        self.assertFalse(factory.require_tls)

    def test_require_tls(self):
        """--require-tls lets nobody in without TLS, from this machine neither."""
        client = Client(self.factory(*self.certificate(), "--require-tls", "-l", "tcp:1"))
        lines = client.capabilities()
        self.assertIn(b"STLS", lines)
        self.assertNotIn(b"USER", lines)
        self.assertIsNone(client.mechanisms())

    def test_client_ca(self):
        """--client-ca has clients asked for a certificate."""
        path = os.path.join(self.root, "ca.pem")
        with open(path, "wb") as file:
            file.write(CA.certificate_pem())
        for more, asked in [([], 0), (["--client-ca", path], 1)]:
            certificates = self.parse(*self.certificate(), *more).certificates
            connection = certificates.serverConnectionForTLS(None)
            self.assertEqual(len(connection.get_client_ca_list()), asked)

    async def test_warns_of_expiry(self):
        """A certificate that ends is warned of each day."""
        warned = []
        options = self.parse(*self.certificate(), "-l", "tcp:0:interface=127.0.0.1")
        options.certificates.warn_of_expiry = lambda: warned.append(True)
        service = tap.makeService(options)
        (timer,) = [each for each in service if isinstance(each, TimerService)]
        self.assertEqual(timer.step, 24 * 60 * 60)
        service.privilegedStartService()
        service.startService()
        await service.stopService()
        self.assertTrue(warned)

    def test_short_timeout(self):
        """Less than ten minutes is taken with a warning that names the RFC's section."""
        self.assertEqual(self.factory("--timeout=60").idle_timeout, 60)
        formats = [event["log_format"] for event in self.log]
        self.assertTrue(any("RFC 1725 section 3" in each for each in formats))

    async def test_auth(self):
        """--auth stands in place of the users file; memory: is Twisted's own."""
        login = self.factory("--auth", "memory:ann:pw").throttle.authenticator
        _, release = await login.authenticate(UsernamePassword(b"ann", b"pw"))
        await release()
        with self.assertRaises(LoginFailed):
            await login.authenticate(UsernamePassword(b"joe", b"secret"))

    def test_room(self):
        """By default as many connections as there can be open files for, at most 10,000."""
        with patch.object(tap, "setrlimit"):
            for hard, connections in [(1024, 231), (10, 1), (1 << 20, 10_000), (-1, 10_000)]:
                with patch.object(tap, "getrlimit", return_value=(1024, hard)):
                    self.assertEqual(self.factory().max_connections, connections)

    def test_share(self):
        """A worker has its part of what is bounded, and listens by what it was given."""
        reactor = object()
        for number, connections in ((1, 4), (2, 3)):
            with patch.object(tap.strports, "service") as service:
                tap.makeService(
                    self.parse("--max-connections=7", "--workers=2"),
                    tap.WorkerRole(number, 2, reactor=reactor),
                )
            self.assertEqual(service.call_args.args[1].max_connections, connections)
            self.assertIs(service.call_args.kwargs["reactor"], reactor)

    def test_supervisor(self):
        """Several workers have a supervisor, which opens the ports, and does nothing else."""
        with patch.object(tap.strports, "service") as service:
            supervisor = tap.makeService(self.parse("--workers=2", *self.certificate()))
        self.assertIsInstance(supervisor, tap.Supervisor)
        for call in service.call_args_list:
            self.assertIs(call.kwargs["reactor"], supervisor.opener)
        self.assertEqual(len(service.call_args_list), 2)
        self.assertEqual(list(supervisor), [])

    async def test_listens(self):
        """The service opens its ports and closes them."""
        service = tap.makeService(self.parse("--listen", "tcp:0:interface=127.0.0.1"))
        self.assertTrue(verifyObject(IService, service))
        service.privilegedStartService()
        service.startService()
        await service.stopService()

    def test_preauth(self):
        """Connections whose users are known count with the others, and have no logins."""
        with patch.object(tap.strports, "service") as service:
            tap.makeService(self.parse("--listen=tcp:0", "--preauth=unix:/x"))
        (plain, known) = (call.args for call in service.call_args_list)
        self.assertEqual((plain[0], known[0]), ("tcp:0", "unix:/x"))
        self.assertIsInstance(known[1], PreauthenticatedFactory)
        self.assertIs(known[1].connections, plain[1].connections)

    def test_port_taken(self):
        """A port that is taken ends the server with the reason and a hint."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            service = tap.makeService(self.parse("--listen", f"tcp:{port}:interface=127.0.0.1"))
            end = self.assertRaises(tap.CannotStart, service.privilegedStartService)
        self.assertIn("Is another server listening there?", str(end))
        self.assertIsInstance(end, SystemExit)

    def test_no_tls(self):
        """Without the extra, a TLS endpoint says which package it lacks."""
        with patch(
            "popserv.commandline.options.serverFromString", side_effect=ImportError("OpenSSL")
        ):
            error = self.assertRaises(usage.UsageError, self.parse, "--listen", "ssl:995")
        self.assertIn("pip install 'popserv[tls]'", str(error))

    def test_odd_ports(self):
        """What is no address or no port here ends the server by one line, too."""
        for endpoint, told in [
            ("tcp:0:interface=192.0.2.77", "This machine does not have that address."),
            ("unix:/nowhere/socket", "cannot listen"),
        ]:
            service = tap.makeService(self.parse("--listen", endpoint))
            end = self.assertRaises(tap.CannotStart, service.privilegedStartService)
            self.assertIn(told, str(end))

    def test_port_forbidden(self):
        """A port that only root may open has another hint."""
        service = tap.makeService(self.parse("--listen", "tcp:0"))
        refusal = CannotListenError("", 110, PermissionError(13, "Permission denied"))
        with patch("twisted.internet.reactor.listenTCP", side_effect=refusal):
            end = self.assertRaises(tap.CannotStart, service.privilegedStartService)
        self.assertIn("--listen tcp:1110", str(end))
        self.assertIn("--uid", str(end))
