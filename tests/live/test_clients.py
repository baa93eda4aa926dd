"""Real clients fetch ordinary and unusual messages and receive them octet for octet.

Each test runs twice: by password with a server that has no APOP users, and by APOP with a
server that has only APOP users.  The messages that a client stores are compared with a
simple implementation of the wire form.
"""

import poplib
import warnings

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.mail.pop3 import AdvancedPOP3Client, POP3Client

from popserv.testing import SAMPLE_MESSAGES, naive_octets
from tests.live.harness import (
    SAMPLES,
    TIMEOUT,
    Fetchmail,
    ServerTestCase,
    deliver,
    read_maildir,
    require_programs,
    run,
    split_lines,
    temporary_directory,
    wire_form,
)

MESSAGES = [*SAMPLE_MESSAGES, *SAMPLES]
OCTETS = [naive_octets(message) for message in MESSAGES]
UIDS = [b"%d.M1P1.host" % (1_700_000_000 + at) for at in range(len(MESSAGES))]


def listing(values):
    """Return the lines of a listing with these values."""
    return [f"{n} {value}".encode() for n, value in enumerate(values, 1)]


SIZES = listing(OCTETS)
UNIQUE_IDS = listing(uid.decode() for uid in UIDS)


def top(message, count):
    """Return the lines that TOP sends: header, blank line, and lines of the body."""
    lines = split_lines(message)
    header = lines.index(b"") + 1 if b"" in lines else len(lines)
    return lines[: header + count]


class ClientTests:
    """Helpers for the tests of clients; ``apop`` selects APOP for the login."""

    apop = False

    def user(self, messages=MESSAGES):
        """Add a user with these messages; return the name and the Maildir."""
        return self.server.add_user(messages, apop=self.apop)

    def greeting(self):
        """Return the greeting of a new connection."""
        connection = self.server.connect()
        connection.close()
        return connection.greeting


class PoplibTests(ClientTests):
    """Python's poplib."""

    def poplib(self, name):
        """Return a poplib client that is logged in."""
        client = poplib.POP3("127.0.0.1", self.server.port, timeout=TIMEOUT)
        self.addCleanup(client.close)
        # The default limit for a line is 2,048 octets.
        self.patch(poplib, "_MAXLINE", 1 << 20)
        if self.apop:
            client.apop(name, "secret")
        else:
            client.user(name)
            client.pass_("secret")
        return client

    def test_listings(self):
        """STAT and LIST count the octets that RETR sends (RFC 1725 section 10)."""
        client = self.poplib(self.user()[0])
        self.assertEqual(client.stat(), (len(MESSAGES), sum(OCTETS)))
        self.assertEqual(client.list()[1], SIZES)
        self.assertEqual(client.uidl()[1], UNIQUE_IDS)
        self.assertEqual([client.list(n + 1)[4:] for n in range(len(SIZES))], SIZES)
        self.assertEqual([client.uidl(n + 1)[4:] for n in range(len(SIZES))], UNIQUE_IDS)

    def test_messages(self):
        """RETR and TOP send the lines of a message unchanged (RFC 1725 sections 3 and 7)."""
        client = self.poplib(self.user()[0])
        for n, message in enumerate(MESSAGES, 1):
            _, lines, octets = client.retr(n)
            self.assertEqual((lines, octets), (split_lines(message), OCTETS[n - 1]))
            for count in (0, 2, 10_000_000):
                self.assertEqual(client.top(n, count)[1], top(message, count))

    def test_deletion(self):
        """QUIT removes marked messages; RSET removes the marks (RFC 1725 sections 5 and 6)."""
        name, maildir = self.user()
        client = self.poplib(name)
        client.dele(1)
        self.assertRaises(poplib.error_proto, client.retr, 1)
        client.rset()
        client.noop()
        client.dele(2)
        self.assertEqual(client.list()[1], SIZES[:1] + SIZES[2:])
        self.assertRaises(poplib.error_proto, client.rpop, name)
        client.quit()
        self.assertEqual(read_maildir(maildir), MESSAGES[:1] + MESSAGES[2:])


class _DeprecatedClient(POP3Client):
    """A client on Twisted's deprecated POP3Client that fetches all messages."""

    MAX_LENGTH = 1 << 20

    def __init__(self, name, messages):
        super().__init__()
        self.name = name
        self.numbers = iter(range(1, messages + 1))
        self.received = []
        self.disconnected = Deferred()

    def handle_WELCOME(self, line):
        super().handle_WELCOME(line)
        self.user(self.name)

    def handle_USER(self, line):
        self.password(b"secret")

    def handle_PASS(self, line):
        self.handle_RETR_end()

    def handle_RETR(self, line):
        self.received.append([])

    def handle_RETR_continue(self, line):
        self.received[-1].append(line)

    def handle_RETR_end(self):
        n = next(self.numbers, None)
        self.quit() if n is None else self.retr(n)

    def connectionLost(self, reason):
        self.disconnected.callback(self.received)


class _Client(AdvancedPOP3Client):
    """Twisted's client, with Deferreds for the greeting and the end of the connection."""

    allowInsecureLogin = True
    MAX_LENGTH = 1 << 20

    def __init__(self):
        self.greeted = Deferred()
        self.disconnected = Deferred()

    def serverGreeting(self, greeting):
        super().serverGreeting(greeting)
        self.greeted.callback(None)

    def connectionLost(self, reason):
        super().connectionLost(reason)
        self.disconnected.callback(None)


class TwistedTests(ClientTests):
    """Twisted's AdvancedPOP3Client."""

    def connect(self, protocol):
        """Connect a protocol to the server; return a Deferred of it."""
        from twisted.internet import reactor

        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.server.port)
        return connectProtocol(endpoint, protocol)

    async def test_advanced_client(self):
        """AdvancedPOP3Client logs in, reads all messages, and deletes one."""
        name, maildir = self.user()
        client = _Client()
        await self.connect(client)
        await client.greeted
        await client.login(name.encode(), b"secret")
        self.assertEqual(await client.stat(), (len(MESSAGES), sum(OCTETS)))
        self.assertEqual(await client.listSize(), OCTETS)
        self.assertEqual(await client.listUID(), UIDS)
        for index, message in enumerate(MESSAGES):
            self.assertEqual(await client.retrieve(index), split_lines(message))
            self.assertEqual(await client.retrieve(index, lines=1), top(message, 1))
        await client.delete(0)
        await client.reset()
        await client.noop()
        await client.delete(1)
        await client.quit()
        await client.disconnected
        self.assertEqual(read_maildir(maildir), MESSAGES[:1] + MESSAGES[2:])


class ProgramTests(ClientTests):
    """Programs by others; the test of a program is skipped if it is not installed."""

    def program(self, name, *arguments, codes=(0,), **options):
        """Run a program; return its output."""
        require_programs(self, name)
        done = run(name, *arguments, **options)
        self.assertIn(done.returncode, codes, repr(done))
        return done.stdout

    def curl(self, name, path, *options):
        """Return curl's output for a path of the user's URL."""
        url = f"pop3://127.0.0.1:{self.server.port}/{path}"
        user = ("--user", f"{name}:secret")
        return self.program("curl", "--silent", "--show-error", *user, *options, url)

    def test_curl_listings(self):
        """Curl prints LIST, and the listing of another command."""
        name, _ = self.user()
        self.assertEqual(self.curl(name, "").splitlines(), SIZES)
        self.assertEqual(self.curl(name, "", "--request", "UIDL").splitlines(), UNIQUE_IDS)

    def test_curl_messages(self):
        """Curl prints messages in wire form, and the reply to TOP."""
        name, _ = self.user()
        for n, message in enumerate(MESSAGES, 1):
            # curl prints an empty line for a message without lines.
            self.assertEqual(self.curl(name, n), wire_form(message) or b"\r\n")
        expected = b"".join(line + b"\r\n" for line in top(SAMPLES[0], 1))
        request = f"TOP {MESSAGES.index(SAMPLES[0]) + 1} 1"
        self.assertEqual(self.curl(name, "", "--request", request), expected)

    def test_curl_deletion(self):
        """Curl deletes a message by DELE and QUIT."""
        name, maildir = self.user()
        self.curl(name, "2", "--request", "DELE", "--head")
        self.assertEqual(read_maildir(maildir), MESSAGES[:1] + MESSAGES[2:])

    def home(self, rc):
        """Return a directory of the test that contains a program's configuration."""
        home = temporary_directory(self)
        (home / "rc").write_text(rc.format(home=home, port=self.server.port))
        (home / "rc").chmod(0o600)
        return home

    def test_fetchmail(self):
        """Fetchmail keeps the mail, then finds nothing new by UIDL, then empties the maildrop."""
        messages = list(filter(_fetchmail_preserves, MESSAGES))
        name, maildir = self.user(messages)
        fetchmail = Fetchmail(
            self,
            f"service {self.server.port} uidl bad-header accept "
            f"{'proto apop' if self.apop else 'proto pop3 auth password'} user {name} "
            'password secret sslproto ""',
        )
        expected = [wire_form(message, b"\n") for message in messages]
        fetchmail.fetch("--keep")
        self.assertEqual(fetchmail.messages(), expected)
        fetchmail.fetch("--keep", nothing_new=True)
        self.assertEqual(fetchmail.messages(), expected)
        fetchmail.fetch("--nokeep", "--fetchall")
        self.assertEqual(fetchmail.messages(), expected * 2)
        self.assertEqual(read_maildir(maildir), [])

    def test_mpop(self):
        """Mpop keeps the mail, then finds nothing new by UIDL, then empties the maildrop."""
        name, maildir = self.user()
        home = self.home(
            "account default\nhost 127.0.0.1\nport {port}\ntls off\n"
            f"auth {'apop' if self.apop else 'user'}\nuser {name}\npassword secret\n"
            "uidls_file {home}/uidls\ndelivery maildir {home}/maildir\nreceived_header off\n"
        )
        deliver(home / "maildir", [])
        expected = sorted(wire_form(message, b"\n") for message in MESSAGES)
        for keep in ("on", "on", "off"):
            self.program("mpop", "--file", home / "rc", f"--keep={keep}")
            self.assertEqual(sorted(read_maildir(home / "maildir")), expected)
        self.assertEqual(read_maildir(maildir), [])


def _fetchmail_preserves(message):
    """Tell whether fetchmail stores a message unchanged: it repairs lone CRs, long lines, etc."""
    lines = split_lines(message)
    is_complete = b"" in lines and lines[0] != b""
    return is_complete and not any(b"\r" in line or len(line) > 998 for line in lines)


class PasswordTests(PoplibTests, TwistedTests, ProgramTests, ServerTestCase):
    """Logins by password, with a server that has no APOP users and therefore no timestamp."""

    def test_greeting(self):
        """The greeting has no timestamp if no user has APOP (RFC 1725 section 7)."""
        self.assertNotIn(b"<", self.greeting())

    async def test_deprecated_client(self):
        """POP3Client, which supports passwords only, reads all messages."""
        name, _ = self.user()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*POP3Client is deprecated", DeprecationWarning)
            client = _DeprecatedClient(name.encode(), len(MESSAGES))
        await self.connect(client)
        self.assertEqual(await client.disconnected, [split_lines(message) for message in MESSAGES])


class APOPTests(PoplibTests, TwistedTests, ProgramTests, ServerTestCase):
    """Logins by APOP, with a server that has only APOP users."""

    apop = True

    def test_greeting(self):
        """The timestamp in the greeting has the form of the RFC's example (RFC 1725 section 7)."""
        self.user()
        self.assertRegex(self.greeting(), rb"^\+OK .* <\d+\.\d+@[^<> ]+>$")


class NmapTests(ServerTestCase):
    """nmap, which reads the reply to CAPA up to the first dot."""

    def test_capabilities(self):
        """The script pop3-capabilities finds the service, and all capabilities."""
        require_programs(self, "nmap")
        done = run(
            *("nmap", "-n", "-Pn", "-sT", "-sV", "--script", "pop3-capabilities"),
            *("-p", self.server.port, "127.0.0.1"),
        )
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        (line,) = [each for each in done.stdout.splitlines() if b"pop3-capabilities:" in each]
        connection = self.server.connect()
        connection.ask(b"CAPA")
        for capability in connection.lines():
            words = capability.split()
            shown = b"IMPLEMENTATION" if words[0] == b"IMPLEMENTATION" else words[-1]
            self.assertIn(words[0], line)
            self.assertIn(shown, line)
        connection.close()
