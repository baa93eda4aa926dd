"""Tests of popserv.options.server."""

import os
import signal
import sys
from unittest.mock import patch

from twisted.python import usage
from twisted.scripts.twistd import ServerOptions

from popserv.options.server import Options
from popserv.runtime.extras import how_to_install
from tests.options.harness import OptionsCase
from tests.signals import blocked_signals


class ModuleWithout:
    """A module that lacks an attribute."""

    def __init__(self, module, name):
        self._module = module
        self._name = name

    def __getattr__(self, name):
        if name == self._name:
            raise AttributeError(name)
        return getattr(self._module, name)


class EndpointTests(OptionsCase):
    """``--listen``, ``--listen-tls`` and ``--preauth``."""

    def test_messages(self):
        """An invalid endpoint is rejected with a message that names a valid one."""
        self.assert_messages(
            [
                (["--listen", "ssl:0:privateKey=/nowhere.pem"], "No such file"),
                (["--listen", "tcp:pop3s3"], "use one such as tcp:110"),
                (["--listen", "carrier:pigeon"], "use one such as tcp:110"),
                (
                    ["--listen", "systemd:domain=INET6:index=0"],
                    "--listen systemd:domain=INET6:index=0: systemd has passed no sockets to this",
                ),
                (["--listen", "systemd:domain=INET:name=pop3"], "systemd has passed no sockets"),
                (["--listen", "systemd:domain=INET"], "use one such as tcp:110"),
                (["--listen-tls", "tcp:995"], "--listen-tls requires --certificate"),
                (["--tls-profile", "old"], "--tls-profile requires --certificate"),
                (["--tls-profile", "strong"], "must be one of modern, intermediate, old"),
                (
                    ["--listen-tls", "carrier:pigeon"],
                    "--listen-tls carrier:pigeon is not a server endpoint",
                ),
                (["--listen", "haproxy:ssl:995"], "use --listen-tls haproxy:tcp:995"),
                (["--listen-tls", "haproxy:tls:995"], "use --listen-tls haproxy:tcp:995"),
                (["--listen", "haproxy:"], "--listen haproxy: is not a server endpoint"),
                (["--listen", "haproxy:tcp:x"], "--listen haproxy:tcp:x is not a server endpoint"),
                (["--listen", "haproxy:HAProxy:tcp:1"], "write haproxy: once"),
                (["--preauth", "haproxy:unix:/x"], "--preauth haproxy:unix:/x: the operating"),
                (["--proxies", "here"], "--proxies: 'here' does not appear to be an IPv4 or IPv6"),
                (["--proxies=192.0.2.1/24"], "--proxies: 192.0.2.1/24 has host bits set"),
                (
                    ["--proxies", "192.0.2.1", "--listen", "tcp:110"],
                    "--proxies requires an endpoint for proxies; use one such as --listen haproxy:",
                ),
                (["--proxies", "192.0.2.1"], "--proxies requires an endpoint for proxies"),
                (
                    ["--listen-tls", "ssl:995"],
                    "this endpoint starts TLS itself; use it with --listen",
                ),
                (
                    ["--preauth", "tcp:1110"],
                    "the operating system identifies only clients of UNIX sockets",
                ),
                (
                    ["--preauth=unix:/x", "--auth=memory:a:b"],
                    "--auth requires that clients log in",
                ),
                (
                    ["--preauth=unix:/x", "--sasl=PLAIN"],
                    "--sasl requires that clients log in; add --listen or --listen-tls, "
                    "or remove --sasl",
                ),
            ]
        )

    def test_defaults(self):
        """The default is port 110, and with a certificate port 995, for IPv4 and IPv6."""
        certificate = self.certificate()
        for arguments, listen, listen_tls in [
            ([], ["tcp:110", "tcp6:110"], []),
            (certificate, ["tcp:110", "tcp6:110"], ["tcp:995", "tcp6:995"]),
            ([*certificate, "--listen", "tcp:1"], ["tcp:1"], []),
            ([*certificate, "--listen-tls", "tcp:2"], [], ["tcp:2"]),
            (
                [*certificate, "-l", "tcp:1", "--listen-tls", "tcp:2", "--listen-tls", "tcp:3"],
                ["tcp:1"],
                ["tcp:2", "tcp:3"],
            ),
        ]:
            options = self.parse(*arguments)
            self.assertEqual((options["listen"], options["listen-tls"]), (listen, listen_tls))
        self.assertEqual(self.parse("--dialect=pop-revised")["listen"], ["tcp:109", "tcp6:109"])
        with patch("popserv.options.server.has_ipv6", return_value=False):
            options = self.parse(*certificate)
        self.assertEqual((options["listen"], options["listen-tls"]), (["tcp:110"], ["tcp:995"]))
        options = self.parse("--preauth", "unix:/x")
        self.assertEqual((options["listen"], options["preauth"]), ([], ["unix:/x"]))

    def test_preauth_unavailable(self):
        """--preauth is rejected on a system that does not identify clients of UNIX sockets."""
        with patch("popserv.options.server.HAS_PEER_UID", False):
            error = self.assertRaises(usage.UsageError, self.parse, "--preauth", "unix:/x")
        self.assertIn("this operating system does not identify clients", str(error))

    def test_require_tls(self):
        """--require-tls requires a port or an endpoint on which TLS can start."""
        certificate = self.certificate()
        self.parse(*certificate, "--require-tls", "--dialect=rfc1225", "--listen-tls=tcp:995")
        self.parse(*certificate, "--require-tls", "--dialect=rfc1225")
        options = self.parse("--require-tls", "--listen", f"ssl:0:privateKey={certificate[1]}")
        self.assertTrue(options["require-tls"])
        # TLS may end at the proxy.
        self.parse("--require-tls", "--listen", "haproxy:tcp:110")
        self.parse(*certificate, "--require-tls", "--without=STLS", "-l", "haproxy:tcp:110")

    def test_no_tls_extra(self):
        """Without the extra tls, a TLS endpoint is rejected; the message names the package."""
        with patch("popserv.options.values.serverFromString", side_effect=ImportError("OpenSSL")):
            error = self.assertRaises(usage.UsageError, self.parse, "--listen", "ssl:995")
        self.assertIn(how_to_install("tls"), str(error))


class LimitTests(OptionsCase):
    """Workers, limits and trusted networks."""

    def test_messages(self):
        """An invalid number or network is rejected with a message that names the valid ones."""
        self.assert_messages(
            [
                (
                    ["--workers", "many"],
                    "--workers must be a whole number of processes from 1 to 999, or auto, "
                    "not 'many'",
                ),
                (
                    ["--workers", "0"],
                    "--workers must be a whole number of processes from 1 to 999, or auto",
                ),
                (["--workers", "-1"], "--workers must be a whole number of processes"),
                (
                    ["--workers", "3", "--max-connections", "2"],
                    "each worker needs at least one connection",
                ),
                (
                    ["--max-connections", "-1"],
                    "--max-connections must be a whole number above 0, not '-1'",
                ),
                (["--max-connections", "1.5"], "--max-connections must be a whole number"),
                (
                    ["--trusted-networks", "here"],
                    "--trusted-networks: 'here' does not appear to be an IPv4 or IPv6 net",
                ),
                (
                    ["--trusted-networks", "192.0.2.1/24"],
                    "--trusted-networks: 192.0.2.1/24 has host bits set",
                ),
                (
                    ["--cache-messages", "all"],
                    "--cache-messages must be a whole number of messages from 0 to 999999999, "
                    "not 'all'",
                ),
                (
                    ["--login-delay", "-1"],
                    "--login-delay must be a whole number of seconds from 0 to 999999, not '-1'",
                ),
                (
                    ["--max-user-sessions", "1"],
                    "--max-user-sessions must be a whole number of sessions from 2 to",
                ),
                (["--drain", "x"], "--drain must be a whole number of seconds from 0 to 86400"),
                (["--control", "tcp:1"], "--control tcp:1 is no UNIX socket"),
                (
                    ["--control", "unix:x:mode=y"],
                    "--control unix:x:mode=y is not a server endpoint",
                ),
                (["--login-delay", "1.5"], "--login-delay must be a whole number of seconds"),
                (["--login-delay", "1234567"], "--login-delay must be"),
                (["--login-delay", "٣"], "--login-delay must be"),
            ]
        )

    def test_workers(self):
        """The default is one process; auto is one worker for each core that may be used."""
        self.assertEqual(self.parse()["workers"], 1)
        self.assertEqual(self.parse("--workers=3", "--max-connections=3")["workers"], 3)
        with patch("os.sched_getaffinity", lambda _: {0, 2, 5}, create=True):
            self.assertEqual(self.parse("--workers=auto")["workers"], 3)
            # Each of them has a connection.
            for connections, workers in (("2", 2), ("4", 3)):
                options = self.parse("--workers=auto", "--max-connections", connections)
                self.assertEqual(options["workers"], workers)
        with patch("popserv.options.server.os", ModuleWithout(os, "sched_getaffinity")):
            for cores, workers in ((7, 7), (None, 1)):
                with patch("os.cpu_count", lambda cores=cores: cores):
                    self.assertEqual(self.parse("--workers=auto")["workers"], workers)


class JailTests(OptionsCase):
    """twistd's ``--chroot``."""

    def parse_in_jail(self, jail, *arguments):
        """Parse the arguments as those of a sub-command of ``twistd --chroot JAIL``."""
        options = Options()
        options.parent = usage.Options()
        options.parent["chroot"] = jail
        options.parseOptions(["--maildir", self.root, *arguments])
        return options["workers"]

    def test_workers(self):
        """Workers require Python in the jail."""
        jail = self.mktemp()
        error = self.assertRaises(SystemExit, self.parse_in_jail, jail, "--workers=2")
        self.assertIn("remove --workers or --chroot", str(error))
        self.assertEqual(self.parse_in_jail(jail, "--workers=1"), 1)
        os.makedirs(jail + os.path.dirname(sys.executable))
        os.symlink(os.path.realpath(sys.executable), jail + sys.executable)
        self.assertEqual(self.parse_in_jail(jail, "--workers=2"), 2)
        self.assertEqual(self.parse_in_jail(None, "--workers=2"), 2)


class TwistdTests(OptionsCase):
    """``pop3`` as a sub-command of twistd."""

    def parse_twistd(self, *twistd, arguments=()):
        """Parse a command line of twistd; return the options of ``pop3``."""
        options = ServerOptions()
        options.parseOptions([*twistd, "pop3", "--maildir", self.root, *arguments])
        return options.subOptions

    def test_errors(self):
        """An invalid command line ends twistd with one line that says where help is."""
        for arguments, message in [
            (["--nosuch"], "option --nosuch not recognized"),
            (["--timeout"], "option --timeout requires argument"),
            (["--timeout", "x\ny"], "--timeout must be a number of seconds above 0"),
            (["--listen", "x\ny"], r"--listen x\ny is not a server endpoint"),
            (["--without", "NOOP"], "--without NOOP: must be one of"),
            (["--auth", "nosuch:x"], "--auth nosuch: "),
            (["--maildir="], "--maildir is required"),
            (["file"], "'file' is not an option"),
        ]:
            error = self.assertRaises(SystemExit, self.parse_twistd, arguments=arguments)
            self.assertIsInstance(error.code, str)
            self.assertIn(message, error.code)
            self.assertTrue(error.code.startswith("twistd pop3: "), error.code)
            self.assertTrue(error.code.endswith("; see twistd pop3 --help"), error.code)
            self.assertEqual(len(error.code.splitlines()), 1)

    def test_control(self):
        """The control socket has the mode 0600 unless another is given; there is none without."""
        self.assertEqual(self.parse()["control"], "")
        self.assertEqual(self.parse("--control=unix:x")["control"], "unix:x:mode=600")
        self.assertEqual(self.parse("--control=unix:x:mode=660")["control"], "unix:x:mode=660")

    def test_metrics(self):
        """Only this machine sees the metrics, and only the owner of a UNIX socket."""
        for given, used in (
            ("tcp:9110", "tcp:9110:interface=127.0.0.1"),
            ("tcp:9110:interface=192.0.2.1", "tcp:9110:interface=192.0.2.1"),
            ("unix:x", "unix:x:mode=600"),
            ("unix:x:mode=660", "unix:x:mode=660"),
        ):
            self.assertEqual(self.parse(f"--metrics={given}")["metrics"], used)
        self.assertEqual(self.parse()["metrics"], "")
        self.assert_messages(
            [
                (["--metrics", "9110"], "--metrics 9110 is not a server endpoint"),
                (["--metrics", "haproxy:tcp:1"], "--metrics haproxy:tcp:1: HTTP has no header"),
            ]
        )
        with patch("popserv.options.operation.find_spec", lambda name: None):
            self.assert_messages(
                [(["--metrics", "tcp:1"], "pip install 'prometheus_client>=0.20'")]
            )

    def test_signals(self):
        """Signals are held back from the start under twistd, and not in other programs."""
        self.parse()
        self.assertEqual(blocked_signals(), set())
        self.parse_twistd()
        self.assertEqual(blocked_signals(), {signal.SIGHUP, signal.SIGUSR1})


class CommandLineTests(OptionsCase):
    """The command line as a whole."""

    def test_defaults(self):
        """Only --maildir is required."""
        options = self.parse()
        self.assertEqual((options["timeout"], options["listen"]), (600, ["tcp:110", "tcp6:110"]))
        self.assertFalse(options["allow-plaintext"])

    def test_arguments(self):
        """The parsed arguments are kept, because the workers parse them again."""
        self.assertEqual(self.parse("-t", "700").arguments, ["--maildir", self.root, "-t", "700"])
        options = Options()
        with patch("sys.argv", ["program", "--maildir", self.root]):
            options.parseOptions()
        self.assertEqual(options.arguments, ["--maildir", self.root])

    def test_help(self):
        """The help text contains every option, and examples."""
        text = Options().getUsage()
        for option in (
            "maildir listen auth timeout allow-plaintext max-connections certificate private-key "
            "client-ca listen-tls require-tls sasl login-delay expire hide-version language "
            "without hostname workarounds cache-messages workers dialect mark-seen rhosts"
        ).split():
            self.assertIn(f"--{option}", text)
        self.assertIn("twistd -n pop3 --maildir /srv/mail", text)
