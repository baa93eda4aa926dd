"""The filter in contrib/fail2ban: fail2ban finds failed logins, and their addresses."""

import ssl
import time
from base64 import b64encode
from functools import partial
from itertools import chain, cycle

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.task import Clock
from twisted.logger import eventAsText

from popserv.auth.credentials import ExchangeAborted
from popserv.commands.dialects import DIALECTS
from popserv.errors import LoginTooSoon, MaildropBusy, MaildropUnavailable, TryLater
from popserv.interfaces import IRemoteUserCredentials
from tests.certificates import issue
from tests.commands import harness, test_sasl_failures
from tests.live.harness import (
    CHECKOUT,
    LOOPBACK,
    Connection,
    Server,
    require_programs,
    run,
    temporary_directory,
    until,
)

FILTER = "contrib/fail2ban/filter.d/popserv.conf"
JOURNAL_REMOTE = "/lib/systemd/systemd-journal-remote"

FORGED = '198.51.100.1:1: login of "x" by PASS failed: x'
"""What an attacker wants the filter to find."""

FORGED_NAMES = [
    (before + FORGED + after).encode()
    for after in ("", "\n", '"')
    for before in (
        *("", '": ', '\\": ', '\\\\": ', '" by PASS failed: ', "x from ", "\N{RIGHT-TO-LEFT MARK}"),
        *("\n", "\r\n", "\r", "\v", "\f", "\x1b[2K\r"),
        *("\N{LINE SEPARATOR}", "\N{PARAGRAPH SEPARATOR}", "\N{NEXT LINE}"),
        "\n2026-11-21T09:52:34+0000 [popserv.session#warn] ",
        "\n[popserv.session#warn] ",
        "\nmail popserv[1]: ",
        "2026-11-21T09:52:34+0000 ",
    )
]
PEERS = (
    IPv4Address("TCP", "192.0.2.1", 4321),
    IPv6Address("TCP", "2001:db8::1", 4321),
    IPv6Address("TCP", "::ffff:192.0.2.7", 1),
    IPv6Address("TCP", "fe80::1%eth0", 65535),
)
FOUND = ("192.0.2.1", "2001:db8::1", "192.0.2.7", "fe80::1")
"""The addresses of these clients, as fail2ban blocks them."""


class FilterCase(harness.CommandTestCase):
    """A server in memory, and fail2ban's filter."""

    def setUp(self):
        """Copy the filter."""
        require_programs(self, "fail2ban-regex")
        super().setUp()
        self.clock = Clock()
        self.directory = temporary_directory(self)
        self.filter = self.directory / "popserv.conf"
        self.filter.write_text((CHECKOUT / FILTER).read_text())

    def found(self, log, *options):
        """Return the addresses that fail2ban finds in a log, in order."""
        done = run(
            *("fail2ban-regex", "--encoding", "utf-8", "--out", "ip", *options, log, self.filter)
        )
        self.assertEqual((done.returncode, done.stderr), (0, b""), done)
        return done.stdout.decode().split()

    def found_in(self, lines):
        """Return the addresses that fail2ban finds in a file of these lines."""
        log = self.directory / "log"
        log.write_text("".join(f"{line}\n" for line in lines), "utf-8")
        return self.found(log)

    def logged(self):
        """Return the events as lines of twistd's log file, and forget them."""
        lines = [eventAsText(event).replace("\n", "\n\t") for event in self.log]
        self.log._events.clear()
        return lines

    def serve_deciding(self, decide, **options):
        """Serve with a checker that decides about all credentials but those of RPOP."""
        checker = harness.Checker(decide, *harness.CREDENTIALS)
        self.serve(checker, allow_plaintext=True, **options)

    def fail_login(self, name, peer):
        """Send a name and a password by AUTH PLAIN."""
        client = harness.Client(self.factory, peer, clock=self.clock)
        client.send(b"AUTH PLAIN " + harness.response_line(b"\0" + name + b"\0x"))
        client.lose()
        # The throttle then lets the next client log in.
        client.clock.advance(60)


class FoundTests(FilterCase):
    """The filter finds the failed logins in each kind of log, and nothing else."""

    def test_all(self):
        """Failed logins by each method are found in each kind of log, with the address."""
        peers = cycle(zip(PEERS, FOUND, strict=True))
        expected = []

        def fail(lines, peer, found, **options):
            client = harness.Client(self.factory, peer, **options)
            for line in lines:
                client.send(line + b"\r\n")
            client.lose()
            client.clock.advance(60)
            expected.append(found)

        self.tls_state = harness.FakeTLSState([b"ann"])
        self.serve_deciding(lambda credentials: None)
        digest = b"0" * 32
        for lines in (
            *test_sasl_failures.FailedLoginTests.FAILED_LOGINS,
            [b"USER ann", b"PASS x"],
            [b"APOP ann " + digest],
            [b"USER nobody", b"PASS x"],
        ):
            fail(lines, *next(peers), tls=True)
        checker = harness.Checker(lambda credentials: None, IRemoteUserCredentials)
        self.serve(checker, dialect=DIALECTS["rfc1225"])
        fail([b"USER ann", b"RPOP ann"], IPv4Address("TCP", "192.0.2.9", 1000), "192.0.2.9")
        lines = self.logged()
        self.assertEqual(len([line for line in lines if " failed: " in line]), len(expected))
        kinds = [each for line in lines for each in in_all_logs(line)]
        found = self.found_in(kinds)
        self.assertEqual(
            found, [each for each in expected for _ in range(len(in_all_logs(FORGED)))]
        )

    def test_others(self):
        """Faults, locked maildrops, aborted and refused logins are not found, nor sessions."""
        for error in (
            TryLater(),
            MaildropBusy(),
            MaildropUnavailable(),
            LoginTooSoon(5),
            RuntimeError("login of"),
            ExchangeAborted("client disconnected"),
        ):

            def decide(credentials, error=error):
                raise error

            self.serve_deciding(decide)
            self.fail_login(b"ann", PEERS[0])
        self.flushLoggedErrors(RuntimeError)
        self.serve(require_tls=True)
        self.fail_login(b"ann", PEERS[0])
        self.serve_deciding(harness.accept_all)
        for lines in (
            [b"USER ann", b"PASS x", b"DELE 1", b"QUIT"],
            [b"AUTH PLAIN", b"*"],
            [b"AUTH PLAIN !"],
            [b"USER ann"],
            [b"x" * 2000],
        ):
            self.connect(*lines, peer=PEERS[0]).lose()
        lines = self.logged()
        for part in ("refused:", "aborted:", "was refused", "logged in", "ended", "unexpected"):
            self.assertIn(part, "\n".join(lines))
        self.assertEqual(self.found_in(chain.from_iterable(map(in_all_logs, lines))), [])


class ForgeryTests(FilterCase):
    """No name leads the filter to another address."""

    def assert_not_forged(self, names):
        """Check that each name is logged with the address of its client only."""
        expected, lines = [], []
        for name, (peer, found) in zip(names, cycle(zip(PEERS, FOUND, strict=True))):
            self.fail_login(name, peer)
            (line,) = [each for each in self.logged() if " failed: " in each]
            self.assertTrue(line.isprintable(), line)
            kinds = in_all_logs(line)
            lines += kinds
            expected += [found] * len(kinds)
        self.assertEqual(self.found_in(lines), expected)

    def test_names(self):
        """Names that look like a line of a log, or like a part of one, are only names."""
        self.serve_deciding(lambda credentials: None)
        self.assert_not_forged(FORGED_NAMES)

    def test_any_names(self):
        """Other names and octets around such a line do not help either."""
        self.serve_deciding(lambda credentials: None)
        names = []

        @settings(max_examples=100, database=None)
        @given(
            st.binary(max_size=20).filter(lambda part: b"\0" not in part),
            st.text("\"\\\n \x85\u2028\u202e'é[]:#", max_size=20),
        )
        def collect(octets, text):
            names.append(text.encode() + FORGED.encode() + octets)
            names.append(octets + text.encode() + FORGED.encode())

        collect()
        self.assert_not_forged(names)

    def test_other_outcomes(self):
        """A name that looks like the end of such a line makes no failed login of another event."""
        for error in (MaildropBusy(), ExchangeAborted("client disconnected"), TryLater()):

            def decide(credentials, error=error):
                raise error

            self.serve_deciding(decide)
            for name in (b'x" by PASS failed: ', b'x\\" by PASS failed: ', *FORGED_NAMES):
                self.fail_login(name, PEERS[0])
        lines = self.logged()
        self.assertIn(r'"x\" by PASS failed: " by PLAIN refused: ', "\n".join(lines))
        self.assertEqual(self.found_in(chain.from_iterable(map(in_all_logs, lines))), [])

    def test_causes(self):
        """Nor does the reason that a checker gives."""

        def decide(credentials):
            raise UnauthorizedLogin(credentials.username.decode())

        self.serve_deciding(decide)
        self.assert_not_forged(FORGED_NAMES)


class JournalTests(FilterCase):
    """fail2ban reads the systemd journal itself."""

    def test_journal(self):
        """Failed logins of the unit are found, and those of another unit are not."""
        require_programs(self, JOURNAL_REMOTE)
        self.serve_deciding(lambda credentials: None)
        for peer in PEERS:
            self.fail_login(b"ann", peer)
        entries = []
        now = time.time_ns() // 1000
        lines = [line for line in self.logged() if " failed: " in line]
        worker = [line.replace("[", "[worker 2: ", 1) for line in lines]
        # As --log-format journald writes them.
        bare = [line.partition("] ")[2] for line in lines]
        for number, (unit, line) in enumerate(
            [("popserv", each) for each in lines + worker + bare]
            + [("other", each) for each in lines]
        ):
            entries.append(
                f"__REALTIME_TIMESTAMP={now + number}\n__MONOTONIC_TIMESTAMP={number}\n"
                f"_BOOT_ID={'1' * 32}\n_HOSTNAME=mail\nSYSLOG_IDENTIFIER=twistd\n_PID=4711\n"
                f"_SYSTEMD_UNIT={unit}.service\nMESSAGE={line}\n\n"
            )
        journal = self.directory / "test.journal"
        done = run(JOURNAL_REMOTE, "--output", journal, "-", input="".join(entries).encode())
        self.assertEqual(done.returncode, 0, done)
        source = f"systemd-journal[journalfiles={journal}]"
        found = self.found(source, "--journalmatch", "_SYSTEMD_UNIT=popserv.service")
        self.assertEqual(found, [*FOUND, *FOUND, *FOUND])


class ServerTests(FilterCase):
    """The log of a real server, with one process and with workers."""

    def test_twistd(self):
        """Failed logins over IPv4 and IPv6, after STLS and over TLS, are found."""
        certificate = self.directory / "server.pem"
        certificate.write_bytes(issue("localhost").pem())
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        ipv6 = r"tcp6:0:interface=\:\:1"
        for workers in ([], ["--workers", "2"]):
            server = Server(
                *("--listen", LOOPBACK, "--listen", ipv6, "--listen-tls", LOOPBACK),
                *("--certificate", certificate, *workers),
            )
            self.addCleanup(server.stop)
            name, _ = server.add_user([b"x\n"])
            over_ipv4, over_ipv6, over_tls = server.ports[:3]
            expected = []
            for address, wrap in (
                (("127.0.0.1", over_ipv4), None),
                (("::1", over_ipv6), None),
                (("127.0.0.1", over_tls), context.wrap_socket),
            ):
                good = Connection(address, wrap=wrap)
                good.ask(b"USER " + name.encode())
                self.assertTrue(good.ask(b"PASS secret").startswith(b"+OK"))
                good.close()
                for lines in (
                    [b"USER " + name.encode(), b"PASS wrong"],
                    [b"AUTH PLAIN " + b64encode(b"\0J\xc3\xb6rg\n\0x")],
                ):
                    bad = Connection(address, wrap=wrap)
                    bad.socket.sendall(b"\r\n".join(lines) + b"\r\n")
                    self.addCleanup(bad.abandon)
                    expected.append(address[0])
            until(partial(has_failures, server, len(expected)), "the log")
            log = self.directory / "server.log"
            log.write_text(server.log)
            self.assertEqual(sorted(self.found(log)), sorted(expected))
            self.assertIn(r'login of "Jörg\n" by PLAIN failed', server.log)

    def test_encoding(self):
        """If the encoding of standard output lacks a character, the line is not lost."""
        server = Server(environment={"PYTHONIOENCODING": "latin-1"})
        self.addCleanup(server.stop)
        bad = server.connect()
        self.addCleanup(bad.abandon)
        bad.socket.sendall("USER 佐藤\r\nPASS wrong\r\n".encode())
        until(partial(has_failures, server, 1), "the log")
        self.assertIn(r'login of "\u4f50\u85e4" by PASS failed', server.log)


def has_failures(server, count):
    """Return whether a server has logged so many failed logins."""
    return server.log.count(" failed: ") == count


def in_all_logs(line):
    """Return a line of twistd's log file as it is in other logs, too."""
    stamp, _, rest = line.partition(" ")
    message = rest.partition("] ")[2]
    return [
        line,
        line.replace("[", "[worker 12: ", 1),
        f"Nov 21 09:52:34 mail popserv[4711]: {message}",
        f"Nov 21 09:52:34 mail twistd[4711]: {rest}",
        f"2026-11-21T09:52:34.123456+01:00 mail.example.org popserv[4711]: {message}",
        f"Nov 21 09:52:34 mail python3.11[4711]: {stamp} {rest}",
    ]
