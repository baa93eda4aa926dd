"""Tests of popserv.tap; tests.live runs twistd itself."""

import errno
import os
import socket
import subprocess
import sys
from resource import RLIMIT_NOFILE
from unittest.mock import patch

from twisted.application import strports
from twisted.application.internet import TimerService
from twisted.application.service import IService, Service
from twisted.cred.credentials import UsernamePassword
from twisted.internet import reactor
from twisted.internet.address import IPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError, ReactorNotRunning
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python import usage
from zope.interface import implementer
from zope.interface.verify import verifyObject

from popserv import tap
from popserv.commands.dialects import DIALECTS
from popserv.delivery.factory import LMTPFactory
from popserv.errors import LoginFailed, LoginTooSoon
from popserv.interfaces import ISharedStore, IStoppingStore
from popserv.listening.drain import STOP_TIMEOUT
from popserv.options.endpoints import BACKLOG, with_backlog
from popserv.server.preauth import PreauthenticatedFactory
from popserv.wiring import endpoints, process
from tests.commands.harness import Client
from tests.control.host_harness import MemoryHosts
from tests.options.harness import OptionsCase


class ServiceCase(OptionsCase):
    """Tests of services that options describe."""

    def setUp(self):
        """Leave endpoints as they are given."""
        super().setUp()
        self.patch(endpoints, "with_backlog", str)

    def service_calls(self, *arguments, role=None):
        """Make a service that does not listen; return (service, calls of strports.service)."""
        with patch.object(strports, "service") as make_service:
            service = tap.makeService(self.parse(*arguments), role)
        return service, make_service.call_args_list

    def under_twistd(self, *arguments):
        """Return options that twistd has parsed."""
        options = self.parse(*arguments)
        options.parent = usage.Options()
        for name in ("logger", "logfile", "syslog", "debug", "chroot"):
            options.parent[name] = None
        options.parent["nodaemon"] = True
        return options

    def factory(self, *arguments):
        """Return the factory of the last endpoint; record the endpoints."""
        _, calls = self.service_calls(*arguments)
        self.endpoints = [call.args[0] for call in calls]
        return calls[-1].args[1]


class OptionsTests(ServiceCase):
    """The options take effect in the service."""

    def test_dialects(self):
        """The default endpoint is the port of the dialect."""
        for name, dialect in DIALECTS.items():
            self.factory("--dialect", name)
            self.assertEqual(self.endpoints, [f"tcp:{dialect.port}", f"tcp6:{dialect.port}"])

    async def test_login(self):
        """A user of the users file can log in and opens the maildrop."""
        factory = self.factory()
        mailbox, release = await factory.throttle.authenticator.authenticate(
            UsernamePassword(b"joe", b"secret")
        )
        self.assertEqual(len(mailbox.messages), 0)
        await release()

    def test_options(self):
        """Timeout, cleartext passwords, connection limit and endpoints are those of the options."""
        factory = self.factory(
            *"--timeout=900 --allow-plaintext --max-connections=7 -l tcp:1 -l tcp:2".split()
        )
        self.assertEqual((factory.idle_timeout, factory.max_connections), (900, 7))
        self.assertTrue(factory.allow_plaintext)
        self.assertEqual(self.endpoints, ["tcp:1", "tcp:2"])

    def test_open_files(self):
        """The process may open as many files as it can, whatever --max-connections is."""
        for arguments in ((), ("--max-connections=7",)):
            with (
                patch.object(process, "getrlimit", return_value=(20, 400)),
                patch.object(process, "setrlimit") as limited,
            ):
                self.factory(*arguments)
            limited.assert_called_with(RLIMIT_NOFILE, (400, 400))

    async def test_uidl(self):
        """--uidl is the format of unique-ids."""
        os.makedirs(os.path.join(self.root, "joe", "new"))
        with open(os.path.join(self.root, "joe", "new", "1.a"), "wb"):
            pass
        login = self.factory("--uidl", "x%f").throttle.authenticator
        mailbox, release = await login.authenticate(UsernamePassword(b"joe", b"secret"))
        self.assertEqual(list(mailbox.messages.uids), [b"x1.a"])
        await release()

    def test_trusted_networks(self):
        """An address in a network of --trusted-networks stands for no single client."""
        factory = self.factory("--trusted-networks=192.0.2.0/24", "--trusted-networks=2001:db8::7")
        for host, network in [
            ("192.0.2.1", None),
            ("2001:db8::7", None),
            ("192.0.3.1", "192.0.3.1"),
            ("2001:db8::8", "2001:db8::/64"),
        ]:
            self.assertEqual(factory.networks.of(IPv6Address("TCP", host, 1)), network)

    async def test_login_delay(self):
        """With --login-delay, a second login that is too soon fails with LoginTooSoon."""
        login = self.factory("--login-delay", "900").throttle.authenticator
        _, release = await login.authenticate(UsernamePassword(b"joe", b"secret"))
        await release()
        with self.assertRaises(LoginTooSoon):
            await login.authenticate(UsernamePassword(b"joe", b"secret"))
        with self.assertRaises(LoginFailed):
            await login.authenticate(UsernamePassword(b"joe", b"wrong"))

    def test_short_timeout(self):
        """A short timeout is logged when the service is made."""
        self.factory("--timeout=60")
        formats = [event["log_format"] for event in self.log]
        self.assertTrue(any("RFC 1725 section 3" in each for each in formats))


class EndpointTests(ServiceCase):
    """The factories of the endpoints."""

    def test_backlog(self):
        """As many connections wait to be accepted as the system allows, or as the endpoint says."""
        self.patch(endpoints, "with_backlog", with_backlog)
        _, calls = self.service_calls("--listen=tcp:0", "--listen=tcp:0:backlog=7")
        given = [call.args[0] for call in calls]
        self.assertEqual(given, [f"tcp:0:backlog={BACKLOG}", "tcp:0:backlog=7"])

    def test_tls(self):
        """A certificate adds STLS, and a port on which TLS starts with the first octet."""
        _, calls = self.service_calls(*self.certificate())
        endpoints, (factory, factory6, tls_factory, tls_factory6) = zip(
            *(call.args for call in calls), strict=True
        )
        self.assertEqual(endpoints, ("tcp:110", "tcp6:110", "tcp:995", "tcp6:995"))
        self.assertIs(factory6, factory)
        self.assertIsInstance(tls_factory6, TLSMemoryBIOFactory)
        self.assertIsInstance(tls_factory, TLSMemoryBIOFactory)
        self.assertIs(tls_factory.wrappedFactory, factory)
        self.assertIn(b"STLS", Client(factory).capabilities())
        self.assertFalse(factory.require_tls)

    def test_proxies(self):
        """After haproxy: an endpoint is one for the proxies of --proxies, with TLS after it."""
        for arguments, believed in [
            ((), {"127.0.0.1": True, "192.0.2.1": False}),
            (
                ("--proxies=192.0.2.0/24", "--proxies=2001:db8::7"),
                {"127.0.0.1": False, "192.0.2.1": True, "2001:db8::7": True, "2001:db8::8": False},
            ),
        ]:
            _, calls = self.service_calls(
                *(*self.certificate(), *arguments, "-l", "haproxy:tcp:1", "-l", "tcp:2"),
                *("-l", "HAPROXY:unix:/s", "--listen-tls", "haproxy:tcp:3"),
            )
            endpoints, (proxied, factory, on_unix, over_tls) = zip(
                *(call.args for call in calls), strict=True
            )
            self.assertEqual(endpoints, ("tcp:1", "tcp:2", "unix:/s", "tcp:3"))
            self.assertIsInstance(over_tls.factory, TLSMemoryBIOFactory)
            for each in (proxied, on_unix, over_tls):
                self.assertIs(each.pop3_factory, factory)
                for host, expected in believed.items():
                    peer = IPv6Address("TCP", host, 1)
                    self.assertEqual(each.is_proxy(peer), expected, host)

    def test_preauth(self):
        """Preauthenticated connections share the connection limit with all others."""
        _, calls = self.service_calls("--listen=tcp:0", "--preauth=unix:/x")
        (endpoint, factory), (preauth_endpoint, preauth_factory) = [call.args for call in calls]
        self.assertEqual((endpoint, preauth_endpoint), ("tcp:0", "unix:/x"))
        self.assertIsInstance(preauth_factory, PreauthenticatedFactory)
        self.assertIs(preauth_factory.connections, factory.connections)

    def test_lmtp(self):
        """Mail transfer agents have a port of their own."""
        _, calls = self.service_calls("--listen=tcp:0", "--lmtp=unix:/x:mode=660")
        (_, factory), (lmtp_endpoint, lmtp_factory) = [call.args for call in calls]
        self.assertIn("unix:/x", lmtp_endpoint)
        self.assertIsInstance(lmtp_factory, LMTPFactory)
        self.assertIsNot(lmtp_factory, factory)

    async def test_expiry(self):
        """The service checks each day whether the certificate expires soon."""
        checks = []
        options = self.parse(*self.certificate(), "-l", "tcp:0:interface=127.0.0.1")
        options.certificates.warn_of_expiry = lambda: checks.append(True)
        service = tap.makeService(options)
        (timer,) = [each for each in service if isinstance(each, TimerService)]
        self.assertEqual(timer.step, 24 * 60 * 60)
        service.privilegedStartService()
        service.startService()
        await service.stopService()
        self.assertTrue(checks)

    async def test_stopping_store(self):
        """A store with something to end stops after the ports."""
        stopped = []

        @implementer(IStoppingStore)
        class Store:
            async def stop(self):
                stopped.append([each.running for each in service])

        options = self.parse("-l", "tcp:0:interface=127.0.0.1")
        options.store = Store()
        service = tap.makeService(options)
        service.privilegedStartService()
        service.startService()
        await service.stopService()
        self.assertEqual(stopped, [[0]])


class WorkerTests(ServiceCase):
    """The services of workers and of their supervisor."""

    def test_worker(self):
        """A worker has its share of the limits, and listens on the reactor of its role."""
        reactor = object()
        for number, connections in ((1, 4), (2, 3)):
            role = tap.WorkerRole(number, 2, reactor=reactor)
            _, calls = self.service_calls("--max-connections=7", "--workers=2", role=role)
            self.assertEqual(calls[-1].args[1].max_connections, connections)
            self.assertIs(calls[-1].kwargs["reactor"], reactor)

    def test_reload(self):
        """Under twistd, SIGHUP reloads the checkers and the certificates, or the workers."""
        rhosts = self.write("rhosts", b"")
        arguments = (*self.certificate(), "--dialect=rfc1225", "--rhosts", rhosts)
        for more, expected in [
            ((), ["PasswdFileChecker", "RhostsChecker", "Certificates"]),
            (("--auth=memory:joe:secret",), ["RhostsChecker", "Certificates"]),
            (("--workers=2",), ["Supervisor"]),
            (("--workers=2", "--config", self.write("x", b"")), ["Supervisor", "ConfigFile"]),
        ]:
            options = self.under_twistd(*arguments, *more)
            with patch.object(strports, "service"):
                reloader = tap.makeService(options)
            names = [type(each).__name__ for each in reloader._reloadables]
            self.assertEqual(names, expected)
            self.assertTrue(reloader._logs_signals)
        role = tap.WorkerRole(2, 2, reactor=object())
        reloader, _ = self.service_calls(*arguments, "--workers=2", role=role)
        self.assertEqual(len(reloader._reloadables), 3)
        self.assertFalse(reloader._logs_signals)

    def test_supervisor(self):
        """With --workers the service is a supervisor that opens the sockets and does not serve."""
        supervisor, calls = self.service_calls("--workers=2", *self.certificate())
        self.assertIsInstance(supervisor, tap.Supervisor)
        for call in calls:
            self.assertIs(call.kwargs["reactor"], supervisor.opener)
        self.assertEqual(len(calls), 4)
        self.assertEqual(list(supervisor), [])


class ControlTests(ServiceCase):
    """The services of --control and --drain."""

    def control(self, *arguments):
        """Return the service of a main process, the call of its control socket, its operations."""
        with patch.object(strports, "service") as make_service:
            make_service.side_effect = lambda *_, **__: Service()
            reloader = tap.makeService(
                self.under_twistd("--control=unix:ctl", "-l", "tcp:0", *arguments)
            )
        call = make_service.call_args
        return reloader, call, call.args[1].responder._operations

    def test_process(self):
        """A single process answers questions about itself, and is steered."""
        reloader, call, operations = self.control("--drain=7")
        (drainer,) = reloader
        self.assertEqual(call.args[0], "unix:ctl:mode=600")
        self.assertIs(call.kwargs["reactor"]._reactor, reactor)
        self.assertEqual(len(list(drainer)), 2)
        answers = self.successResultOf(operations.ask("control status", None))
        self.assertEqual(answers.given[0]["caches"]["passwords"], 0)
        self.assertEqual((operations.workers, operations.drain_seconds), (None, 7))
        self.successResultOf(operations.allow_drain(3))
        self.assertIs(operations.log_level, reloader._observer)
        reloaded = []
        self.patch(reloader, "reload", reloaded.append)
        operations.reload()
        self.assertEqual(reloaded, ["popserv reload"])

    def test_shared_store(self):
        """A server whose store is shared is a host of it, with or without a control socket."""

        @implementer(ISharedStore, IStoppingStore)
        class Store:
            hosts = MemoryHosts()

            def share(self, *arguments):
                shared.append(arguments)

            async def decoy_secret(self):
                raise NotImplementedError

        shared = []
        for arguments, services in ((), 2), (("--control=unix:ctl",), 3), (("--workers=2",), 2):
            options = self.under_twistd("-l", "tcp:0", *arguments)
            options.store = Store()
            with (
                patch.object(strports, "service") as make_service,
                patch.object(reactor, "callWhenRunning") as when_running,
            ):
                make_service.side_effect = lambda *_, **__: Service()
                reloader = tap.makeService(options)
            for call in when_running.call_args_list:
                if call.args[0] == options.store.share:
                    call.args[0](*call.args[1:])
            ((drainer,),) = reloader
            self.assertEqual(len(list(drainer)), services)
            host = list(drainer)[-1]
            host.startService()
            self.successResultOf(host.stopService())
            host._is_draining()
            self.assertEqual(Store.hosts.announced, {})
        # Not by the supervisor.
        self.assertEqual(len(shared), 2)

    async def test_shared_health(self):
        """The page for monitors tells whether a shared store can be reached."""

        @implementer(ISharedStore)
        class Store:
            hosts = MemoryHosts()

            def share(self, *arguments):
                pass

            async def decoy_secret(self):
                raise NotImplementedError

        options = self.under_twistd("-l", "tcp:0", "--metrics=tcp:0")
        options.store = Store()
        with patch.object(strports, "service") as make_service:
            make_service.side_effect = lambda *_, **__: Service()
            (drainer,) = tap.makeService(options)
        site = make_service.call_args.args[1]
        is_reachable = site.resource.getChildWithDefault(b"healthz", None)._is_store_reachable
        self.assertFalse(is_reachable())
        host = list(drainer)[-1]
        host.startService()
        self.assertTrue(is_reachable())
        await host.stopService()

    async def test_stop(self):
        """The server stops when the answer has been sent."""
        (drainer,), _, operations = self.control()
        stopped = Deferred()
        self.patch(reactor, "stop", lambda: stopped.callback(None))
        operations.stop(3)
        self.assertEqual(drainer._seconds, 3)
        await stopped

    async def test_stopped_before(self):
        """A server that is stopping already goes on to do so, and logs no error."""
        _, _, operations = self.control()
        called = Deferred()

        def stop():
            reactor.callLater(0, called.callback, None)
            raise ReactorNotRunning

        self.patch(reactor, "stop", stop)
        operations.stop(0)
        await called

    def test_no_socket(self):
        """A control socket that cannot be opened ends the server with the reason and a hint."""
        for path, reason in [
            ("/nowhere/ctl", "/nowhere/ctl: No such file or directory"),
            (self.taken(), "Cannot acquire lock"),
        ]:
            options = self.under_twistd(f"--control=unix:{path}", "-l", "tcp:0:interface=127.0.0.1")
            (drainer,) = tap.makeService(options)
            _, control = drainer
            error = self.assertRaises(tap.CannotStart, control.privilegedStartService)
            self.assertIn(f"--control {path}: ", str(error))
            self.assertIn(reason, str(error))
            self.assertIn("must exist and belong to the user", str(error))

    def taken(self):
        """Return the path of a socket that another process has opened and locked."""
        path = self.mktemp()
        # The path must be short.
        opened = socket.socket(socket.AF_UNIX)
        self.addCleanup(opened.close)
        opened.bind(os.path.relpath(path))
        opened.listen()
        os.symlink(str(os.getppid()), f"{path}.lock")
        return path

    def test_supervisor(self):
        """A supervisor asks its workers, and allows them the time that sessions have."""
        reloader, call, operations = self.control("--workers=2", "--drain=7")
        self.assertIs(call.kwargs["reactor"]._reactor, reactor)
        supervisor = operations.workers
        self.assertEqual(supervisor._stop_timeout, STOP_TIMEOUT + 7)
        asked = []
        self.patch(supervisor, "ask", lambda *question: asked.append(question) or succeed(None))
        for seconds, longest in ((30, 30), (3, 7)):
            operations.allow_drain(seconds)
            self.assertEqual(supervisor._stop_timeout, STOP_TIMEOUT + longest)
        (drainer,) = reloader
        # Workers may be replaced; the server itself then stops as before.
        self.assertEqual(drainer._seconds, 7)
        drainer._hurry()
        self.assertEqual(asked, [("drain", 30), ("drain", 3), ("drain", 0)])

    def test_worker(self):
        """A worker answers questions, opens no socket for it, and handles no second signal."""
        role = tap.WorkerRole(2, 2, reactor=object(), leaving=lambda: None)
        arguments = ("--control=unix:ctl", "-l", "tcp:0", "--workers=2")
        reloader, calls = self.service_calls(*arguments, role=role)
        self.assertEqual([call.args[0] for call in calls], ["tcp:0"])
        (drainer,) = reloader
        self.assertEqual((drainer._leaving, drainer._hurry), (role.leaving, None))
        self.successResultOf(role.bus.ask_here("drain", 5))
        self.assertEqual(drainer._seconds, 5)
        answers = self.successResultOf(role.bus.ask_here("control status", None))
        self.assertEqual(answers.given[0]["connections"], 0)

    def test_drain_only(self):
        """With --drain alone, there is no control socket, and one process has nobody to tell."""
        drainer, calls = self.service_calls("--drain=7", "-l", "tcp:0")
        self.assertEqual((len(calls), drainer._seconds), (1, 7))
        drainer._hurry()
        self.assertIsInstance(drainer, tap.Drainer)

    def test_neither(self):
        """Without both, nothing of it is loaded or made."""
        service, _ = self.service_calls("-l", "tcp:0")
        self.assertIsInstance(service, tap.Listeners)
        code = "import sys, popserv.tap; print(*(n for n in sys.modules if 'control' in n))"
        loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        self.assertEqual(loaded.stdout.split(), [b"popserv.control", b"popserv.control.endpoint"])

    def test_log_of_twistd(self):
        """If twistd writes the log, its level cannot be changed."""
        options = self.under_twistd("--control=unix:ctl", "-l", "tcp:0")
        options.parent["syslog"] = True
        with patch.object(strports, "service") as make_service:
            make_service.side_effect = lambda *_, **__: Service()
            tap.makeService(options)
        operations = make_service.call_args.args[1].responder._operations
        self.assertIsNone(operations.log_level)


class ListenTests(OptionsCase):
    """The ports of the service, and errors when one cannot be opened."""

    async def test_listen(self):
        """The service opens its ports and closes them."""
        service = tap.makeService(self.parse("--listen", "tcp:0:interface=127.0.0.1"))
        self.assertTrue(verifyObject(IService, service))
        service.privilegedStartService()
        service.startService()
        await service.stopService()

    def test_port_in_use(self):
        """A port that is in use ends the server with the reason and a hint."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            service = tap.makeService(self.parse("--listen", f"tcp:{port}:interface=127.0.0.1"))
            error = self.assertRaises(tap.CannotStart, service.privilegedStartService)
        self.assertIn("Is another server listening there?", str(error))
        self.assertTrue(str(error).endswith("Choose another port with --listen"), error)
        self.assertIsInstance(error, SystemExit)

    def test_option(self):
        """The error names the option of the port."""

        def listen(port, *_, **__):
            if port == 3:
                raise CannotListenError("", 3, OSError(errno.EADDRINUSE, "Address already in use"))
            return object()

        options = {"--listen": "tcp:1", "--lmtp": "tcp:1", "--listen-tls": "tcp:1"}
        for option in options:
            given = {**options, option: "tcp:3"}
            arguments = [each for pair in given.items() for each in pair]
            service = tap.makeService(self.parse(*arguments, *self.certificate()))
            with patch("twisted.internet.reactor.listenTCP", listen):
                error = self.assertRaises(tap.CannotStart, service.privilegedStartService)
            self.assertTrue(str(error).endswith(f"Choose another port with {option}"), error)

    def test_invalid_address(self):
        """An address that this machine does not have ends the server with one line."""
        for endpoint, message in [
            ("tcp:0:interface=192.0.2.77", "This machine does not have that address."),
            ("unix:/nowhere/socket", "cannot listen"),
        ]:
            service = tap.makeService(self.parse("--listen", endpoint))
            error = self.assertRaises(tap.CannotStart, service.privilegedStartService)
            self.assertIn(message, str(error))

    def test_privileged_port(self):
        """A port that requires root ends the server with a hint of its own."""
        service = tap.makeService(self.parse("--listen", "tcp:0"))
        refusal = CannotListenError("", 110, PermissionError(13, "Permission denied"))
        with patch("twisted.internet.reactor.listenTCP", side_effect=refusal):
            error = self.assertRaises(tap.CannotStart, service.privilegedStartService)
        self.assertIn("--listen tcp:1110", str(error))
        self.assertIn("--uid", str(error))
