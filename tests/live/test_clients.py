"""Real clients fetch odd and ordinary mail from a server, and get it to the byte.

All of it twice: by password from a server that has no APOP users, and by APOP from one
that has no others.  What a client stores is held against the plainest wire form.
"""

import poplib
import warnings

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.mail.pop3 import AdvancedPOP3Client, POP3Client

from popserv.testing import SAMPLE_MESSAGES, naive_octets
from tests.live.harness import (
    PATIENCE,
    SAMPLES,
    Fetchmail,
    ServerTestCase,
    deliver,
    lines_of,
    need,
    run,
    shown,
    stored,
    temporary_directory,
    wire_form,
)

STORED = [*SAMPLE_MESSAGES, *SAMPLES]
MESSAGES = [shown(message) for message in STORED]
OCTETS = [naive_octets(message) for message in MESSAGES]
UIDS = [b"%d.M1P1.host" % (1_700_000_000 + at) for at in range(len(MESSAGES))]


def listing(values):
    """Return the lines of a listing in which each message has one of these."""
    return [f"{n} {value}".encode() for n, value in enumerate(values, 1)]


SIZES = listing(OCTETS)
UNIQUE_IDS = listing(uid.decode() for uid in UIDS)


def top(message, count):
    """Return a message's header, the blank line and some lines of the body, as lines."""
    lines = lines_of(message)
    header = lines.index(b"") + 1 if b"" in lines else len(lines)
    return lines[: header + count]


class ClientTests:
    """What every client must see; ``apop`` says how it logs in."""

    apop = False

    def user(self, messages=STORED):
        """Add a user who has these messages; return the name and the Maildir."""
        return self.server.add_user(messages, apop=self.apop)

    def greeting(self):
        """Return the greeting of a new connection."""
        connection = self.server.connect()
        connection.close()
        return connection.greeting


class PoplibTests(ClientTests):
    """Python's own client."""

    def poplib(self, name):
        """Return a client that is logged in."""
        client = poplib.POP3("127.0.0.1", self.server.port, timeout=PATIENCE)
        self.addCleanup(client.close)
        # It reads no line beyond 2,048 octets unless told.
        self.patch(poplib, "_MAXLINE", 1 << 20)
        if self.apop:
            client.apop(name, "secret")
        else:
            client.user(name)
            client.pass_("secret")
        return client

    def test_listings(self):
        """STAT, LIST and UIDL speak of the octets that RETR sends (RFC 1725 section 10)."""
        client = self.poplib(self.user()[0])
        self.assertEqual(client.stat(), (len(MESSAGES), sum(OCTETS)))
        self.assertEqual(client.list()[1], SIZES)
        self.assertEqual(client.uidl()[1], UNIQUE_IDS)
        self.assertEqual([client.list(n + 1)[4:] for n in range(len(SIZES))], SIZES)
        self.assertEqual([client.uidl(n + 1)[4:] for n in range(len(SIZES))], UNIQUE_IDS)

    def test_messages(self):
        """RETR and TOP send a message's own lines, dots and all (RFC 1725 sections 3 and 7)."""
        client = self.poplib(self.user()[0])
        for n, message in enumerate(MESSAGES, 1):
            _, lines, octets = client.retr(n)
            self.assertEqual((lines, octets), (lines_of(message), OCTETS[n - 1]))
            for count in (0, 2, 10_000_000):
                self.assertEqual(client.top(n, count)[1], top(message, count))

    def test_deletion(self):
        """DELE removes at QUIT what RSET has not saved (RFC 1725 sections 5 and 6)."""
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
        self.assertEqual(stored(maildir), STORED[:1] + STORED[2:])


class _OldClient(POP3Client):
    """Twisted's first client, which calls a method for each reply: fetches all there is."""

    MAX_LENGTH = 1 << 20

    def __init__(self, name, messages):
        super().__init__()
        self.name = name
        self.wanted = iter(range(1, messages + 1))
        self.received = []
        self.over = Deferred()

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
        n = next(self.wanted, None)
        self.quit() if n is None else self.retr(n)

    def connectionLost(self, reason):
        self.over.callback(self.received)


class _Client(AdvancedPOP3Client):
    """Twisted's client, which tells when it was greeted and when all is over."""

    allowInsecureLogin = True
    MAX_LENGTH = 1 << 20

    def __init__(self):
        self.greeted = Deferred()
        self.over = Deferred()

    def serverGreeting(self, greeting):
        super().serverGreeting(greeting)
        self.greeted.callback(None)

    def connectionLost(self, reason):
        super().connectionLost(reason)
        self.over.callback(None)


class TwistedTests(ClientTests):
    """Twisted's clients."""

    def connected(self, protocol):
        """Return a Deferred of the protocol, once it is connected."""
        from twisted.internet import reactor

        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.server.port)
        return connectProtocol(endpoint, protocol)

    async def test_advanced_client(self):
        """AdvancedPOP3Client logs in as it likes best, reads all, and deletes."""
        name, maildir = self.user()
        client = _Client()
        await self.connected(client)
        await client.greeted
        await client.login(name.encode(), b"secret")
        self.assertEqual(await client.stat(), (len(MESSAGES), sum(OCTETS)))
        self.assertEqual(await client.listSize(), OCTETS)
        self.assertEqual(await client.listUID(), UIDS)
        for index, message in enumerate(MESSAGES):
            self.assertEqual(await client.retrieve(index), lines_of(message))
            self.assertEqual(await client.retrieve(index, lines=1), top(message, 1))
        await client.delete(0)
        await client.reset()
        await client.noop()
        await client.delete(1)
        await client.quit()
        await client.over
        self.assertEqual(stored(maildir), STORED[:1] + STORED[2:])


class ProgramTests(ClientTests):
    """Programs of other makers: each is skipped where it is not installed."""

    def program(self, name, *arguments, codes=(0,), **options):
        """Run it, and return what it printed."""
        need(self, name)
        done = run(name, *arguments, **options)
        self.assertIn(done.returncode, codes, repr(done))
        return done.stdout

    def curl(self, name, path, *options):
        """Return what curl prints for a path of the user's."""
        url = f"pop3://127.0.0.1:{self.server.port}/{path}"
        user = ("--user", f"{name}:secret")
        return self.program("curl", "--silent", "--show-error", *user, *options, url)

    def test_curl_listings(self):
        """Curl prints LIST, and any listing that it is told to ask for."""
        name, _ = self.user()
        self.assertEqual(self.curl(name, "").splitlines(), SIZES)
        self.assertEqual(self.curl(name, "", "--request", "UIDL").splitlines(), UNIQUE_IDS)

    def test_curl_messages(self):
        """Curl stores a message as it is on the wire, and some of one by TOP."""
        name, _ = self.user()
        for n, message in enumerate(MESSAGES, 1):
            # It prints an empty line for a message without lines.
            self.assertEqual(self.curl(name, n), wire_form(message) or b"\r\n")
        some = b"".join(line + b"\r\n" for line in top(shown(SAMPLES[0]), 1))
        asked = f"TOP {STORED.index(SAMPLES[0]) + 1} 1"
        self.assertEqual(self.curl(name, "", "--request", asked), some)

    def test_curl_deletion(self):
        """Curl deletes by DELE, and says QUIT."""
        name, maildir = self.user()
        self.curl(name, "2", "--request", "DELE", "--head")
        self.assertEqual(stored(maildir), STORED[:1] + STORED[2:])

    def home(self, rc):
        """Return a directory of the test's own, and in it a program's configuration."""
        home = temporary_directory(self)
        (home / "rc").write_text(rc.format(home=home, port=self.server.port))
        (home / "rc").chmod(0o600)
        return home

    def test_fetchmail(self):
        """Fetchmail keeps, then finds nothing new by UIDL, then empties the maildrop."""
        messages = list(filter(_fetchmail_keeps, MESSAGES))
        name, maildir = self.user(messages)
        fetchmail = Fetchmail(
            self,
            f"service {self.server.port} uidl bad-header accept "
            f"{'proto apop' if self.apop else 'proto pop3 auth password'} user {name} "
            'password secret sslproto ""',
        )
        expected = [wire_form(message, b"\n") for message in messages]
        fetchmail.fetch("--keep")
        self.assertEqual(fetchmail.got(), expected)
        fetchmail.fetch("--keep", nothing_new=True)
        self.assertEqual(fetchmail.got(), expected)
        fetchmail.fetch("--nokeep", "--fetchall")
        self.assertEqual(fetchmail.got(), expected * 2)
        self.assertEqual(stored(maildir), [])

    def test_mpop(self):
        """Mpop keeps, then finds nothing new by UIDL, then empties the maildrop."""
        name, maildir = self.user()
        home = self.home(
            "account default\nhost 127.0.0.1\nport {port}\ntls off\n"
            f"auth {'apop' if self.apop else 'user'}\nuser {name}\npassword secret\n"
            "uidls_file {home}/uidls\ndelivery maildir {home}/got\nreceived_header off\n"
        )
        deliver(home / "got", [])
        expected = sorted(wire_form(message, b"\n") for message in MESSAGES)
        for keep in ("on", "on", "off"):
            self.program("mpop", "--file", home / "rc", f"--keep={keep}")
            self.assertEqual(sorted(stored(home / "got")), expected)
        self.assertEqual(stored(maildir), [])


def _fetchmail_keeps(message):
    """Tell whether fetchmail stores a message unmended: lone CRs, long lines and such it mends."""
    lines = lines_of(message)
    whole = b"" in lines and lines[0] != b""
    return whole and not any(b"\r" in line or len(line) > 998 for line in lines)


class PasswordTests(PoplibTests, TwistedTests, ProgramTests, ServerTestCase):
    """By password, from a server that has no APOP users and so no timestamp."""

    def test_greeting(self):
        """Where nobody can use APOP, no timestamp invites to it (RFC 1725 section 7)."""
        self.assertNotIn(b"<", self.greeting())

    async def test_old_client(self):
        """POP3Client, which knows passwords only, reads all."""
        name, _ = self.user()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*POP3Client is deprecated", DeprecationWarning)
            client = _OldClient(name.encode(), len(MESSAGES))
        await self.connected(client)
        self.assertEqual(await client.over, [lines_of(message) for message in MESSAGES])


class APOPTests(PoplibTests, TwistedTests, ProgramTests, ServerTestCase):
    """By APOP, from a server that has no other users."""

    apop = True

    def test_greeting(self):
        """The timestamp is one of the RFC's own form (RFC 1725 section 7)."""
        self.user()
        self.assertRegex(self.greeting(), rb"^\+OK .* <\d+\.\d+@[^<> ]+>$")
