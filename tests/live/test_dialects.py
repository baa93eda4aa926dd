"""Servers in the old dialects, with clients that still support them."""

import poplib
import signal
import socket
from contextlib import closing

from twisted.trial.unittest import TestCase

from popserv.commands.dialects import DIALECTS
from tests.live.harness import (
    SAMPLES,
    TIMEOUT,
    Fetchmail,
    Server,
    ServerTestCase,
    read_maildir,
    temporary_directory,
    wire_form,
)

MESSAGES = SAMPLES[:3]


class LastTests(ServerTestCase):
    """LAST of RFC 1460, with which fetchmail finds new messages if it does not use UIDL."""

    options = ("--dialect", "rfc1460")

    def test_fetchmail(self):
        """Fetchmail keeps all mail and fetches each message once, even if others are removed."""
        name, maildir = self.server.add_user(MESSAGES)
        fetchmail = Fetchmail(
            self,
            f"service {self.server.port} proto pop3 auth password no uidl bad-header accept "
            f'user {name} password secret keep sslproto ""',
        )
        expected = [wire_form(each, b"\n") for each in MESSAGES]
        fetchmail.fetch()
        self.assertEqual(fetchmail.messages(), expected)
        fetchmail.fetch(nothing_new=True)
        self.assertEqual(len(list(maildir.glob("cur/*:2,S"))), 3)
        min(maildir.glob("cur/*")).unlink()
        (maildir / "new" / "1800000000.x").write_bytes(SAMPLES[4])
        fetchmail.fetch()
        self.assertEqual(fetchmail.messages(), [*expected, wire_form(SAMPLES[4], b"\n")])
        fetchmail.fetch(nothing_new=True)

    def test_killed(self):
        """A killed server has not set flags for open sessions, and has lost no message."""
        server = self.server
        name, maildir = server.add_user(MESSAGES)
        client = server.login(name)
        client.ask(b"RETR 1")
        client.lines()
        server.stop(signal.SIGKILL)
        client.abandon()
        self.assertEqual(read_maildir(maildir), MESSAGES)
        self.assertEqual(list(maildir.glob("cur/*")), [])

    def test_moved_by_others(self):
        """Flags that another program sets during a session are kept when S is added."""
        client, maildir = self.login(MESSAGES)
        client.ask(b"RETR 2")
        client.lines()
        (file,) = maildir.glob("new/1700000001.*")
        file.rename(maildir / "cur" / f"{file.name}:2,FR")
        self.assertEqual(client.ask(b"LAST"), b"+OK 2")
        client.close()
        self.assertEqual([each.name[-6:] for each in maildir.glob("cur/*")], [":2,FRS"])
        self.assertEqual(read_maildir(maildir), MESSAGES)


class EveryDialectTests(TestCase):
    """The commands that all dialects share, and those that they do not."""

    def test_poplib(self):
        """In each dialect a session receives the messages octet for octet, and removes one."""
        for name, dialect in DIALECTS.items():
            server = Server("--dialect", name)
            try:
                user, maildir = server.add_user(MESSAGES)
                client = poplib.POP3("127.0.0.1", server.port)
                client.user(user)
                client.pass_("secret")
                for number, text in enumerate(MESSAGES, 1):
                    received = client.retr(number)[1]
                    self.assertEqual(b"".join(line + b"\r\n" for line in received), wire_form(text))
                    self.assertEqual(client.top(number, 0)[1], received[: received.index(b"") + 1])
                self.assertEqual(client.stat()[0], 3)
                client.dele(2)
                client.quit()
                self.assertEqual(read_maildir(maildir), [MESSAGES[0], MESSAGES[2]])
                flagged = len(list(maildir.glob("cur/*:2,S")))
                self.assertEqual(flagged, 2 if dialect.has(b"LAST") else 0)
            finally:
                server.stop()

    def test_commands(self):
        """Commands of other dialects are unknown in every state."""
        keywords = {each.keyword for dialect in DIALECTS.values() for each in dialect.commands}
        for name, dialect in DIALECTS.items():
            server = Server("--dialect", name)
            try:
                user, _ = server.add_user(MESSAGES)
                client = server.connect()
                # UTF8 requires --utf8.
                for keyword in keywords - {each.keyword for each in dialect.commands} | {b"UTF8"}:
                    self.assertEqual(client.ask(keyword + b" 1"), b"-ERR unknown command")
                client.ask(b"USER " + user.encode())
                self.assertTrue(client.ask(b"PASS secret").startswith(b"+OK"))
                for keyword in keywords - {each.keyword for each in dialect.commands}:
                    self.assertEqual(client.ask(keyword), b"-ERR unknown command")
                self.assertTrue(client.close().startswith(b"+OK"))
            finally:
                server.stop()


class MarkSeenTests(ServerTestCase):
    """--mark-seen, for other programs that read the same Maildir."""

    options = ("--mark-seen",)

    def test_seen(self):
        """QUIT sets the flag S on messages that RETR sent, but not after TOP."""
        client, maildir = self.login(MESSAGES)
        for line in (b"RETR 1", b"TOP 2 0"):
            client.ask(line)
            client.lines()
        self.assertEqual(client.ask(b"LAST"), b"-ERR unknown command")
        client.close()
        self.assertEqual([each.name[:10] for each in maildir.glob("cur/*:2,S")], ["1700000000"])
        self.assertEqual(read_maildir(maildir), MESSAGES)


RESERVED = range(1023, 511, -1)


class RPOPTests(ServerTestCase):
    """RPOP of RFC 1225, from reserved ports, which only root can bind."""

    def new_server(self):
        """Start a server that trusts this machine to identify the user mrose."""
        rhosts = temporary_directory() / "rhosts"
        rhosts.write_text("-127.0.0.9 + +\nlocalhost mrose +\n127.0.0.0/8 mrose +\n")
        rhosts.chmod(0o644)
        return Server("--dialect", "rfc1225", "--rhosts", rhosts)

    def bind(self, ports, host="127.0.0.1"):
        """Return a socket that is bound to the first free port."""
        for port in ports:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((host, port))
                return sock
            except PermissionError:
                sock.close()
                self.skipTest("only root can bind reserved ports")
            except OSError:
                sock.close()
        raise AssertionError("no port is free")

    def rpop(self, ports, name, remote_user, host="127.0.0.1"):
        """Return the reply to RPOP from this address and one of these ports."""
        with closing(self.bind(ports, host)) as sock:
            sock.settimeout(TIMEOUT)
            sock.connect(("127.0.0.1", self.server.port))
            with sock.makefile("rwb") as file:
                file.write(b"USER %b\r\nRPOP %b\r\n" % (name.encode(), remote_user))
                file.flush()
                return [file.readline() for _ in range(3)][2]

    def test_reserved(self):
        """A user whom the file trusts can log in, but only from a reserved port."""
        name, _ = self.server.add_user(MESSAGES)
        self.assertRegex(self.rpop(RESERVED, name, b"mrose"), rb"^\+OK .*3 messages")
        refusal = b"-ERR RPOP requires a reserved client port\r\n"
        self.assertEqual(self.rpop([0], name, b"mrose"), refusal)
        self.assertEqual(self.rpop(range(1024, 2000), name, b"mrose"), refusal)

    def test_denied(self):
        """Users whom the file does not trust, and denied hosts, cannot log in."""
        name, _ = self.server.add_user(MESSAGES)
        denied = b"-ERR [AUTH] permission denied\r\n"
        self.assertEqual(self.rpop(RESERVED, name, b"eve"), denied)
        self.assertEqual(self.rpop(RESERVED, name, b"mrose", "127.0.0.9"), denied)

    def test_names_of_addresses(self):
        """The server never looks up the name of an address."""
        name, _ = self.server.add_user(MESSAGES)
        for host, start in (("127.0.0.1", b"+OK"), ("127.0.0.8", b"+OK"), ("127.0.0.9", b"-ERR")):
            self.assertTrue(self.rpop(RESERVED, name, b"mrose", host).startswith(start), host)
        self.assertNotIn("socket.", self.server.loads)

    def test_warning(self):
        """The log warns at the start that the file grants access."""
        self.assertIn("without a password", self.server.log)

    def test_fetchmail(self):
        """Fetchmail, which supports RPOP, fetches mail through a reserved port."""
        name, _ = self.server.add_user(MESSAGES)
        with closing(self.bind(RESERVED)) as sock:
            port = sock.getsockname()[1]
        fetchmail = Fetchmail(
            self,
            # fetchmail requires a reserved port of the server, too.
            f'service 110 proto rpop plugin "socat STDIO TCP:%h:{self.server.port},'
            f'sourceport={port},reuseaddr" user {name} password mrose',
        )
        self.assertIn(b"RPOP *", fetchmail.fetch("-v", "--keep"))
        self.assertEqual(fetchmail.messages(), [wire_form(each, b"\n") for each in MESSAGES])
