"""Servers of the old dialects, with clients that still speak them."""

import poplib
import signal
import socket
from contextlib import closing

from twisted.trial.unittest import TestCase

from popserv.commands.dialects import DIALECTS
from tests.live.harness import (
    PATIENCE,
    SAMPLES,
    Fetchmail,
    Server,
    ServerTestCase,
    shown,
    stored,
    temporary_directory,
    wire_form,
)

MESSAGES = SAMPLES[:3]


class LastTests(ServerTestCase):
    """LAST of RFC 1460, by which fetchmail knows what is new if it keeps no unique-ids."""

    options = ("--dialect", "rfc1460")

    def test_fetchmail(self):
        """Fetchmail keeps all mail, and gets each message once, whatever is removed meanwhile."""
        name, maildir = self.server.add_user(MESSAGES)
        fetchmail = Fetchmail(
            self,
            f"service {self.server.port} proto pop3 auth password no uidl bad-header accept "
            f'user {name} password secret keep sslproto ""',
        )
        expected = [wire_form(each, b"\n") for each in MESSAGES]
        fetchmail.fetch()
        self.assertEqual(fetchmail.got(), expected)
        fetchmail.fetch(nothing_new=True)
        self.assertEqual(len(list(maildir.glob("cur/*:2,S"))), 3)
        min(maildir.glob("cur/*")).unlink()
        (maildir / "new" / "1800000000.x").write_bytes(SAMPLES[4])
        fetchmail.fetch()
        self.assertEqual(fetchmail.got(), [*expected, wire_form(SAMPLES[4], b"\n")])
        fetchmail.fetch(nothing_new=True)

    def test_killed(self):
        """A server that is killed has noted nothing of sessions under way, and lost nothing."""
        server = self.server
        name, maildir = server.add_user(MESSAGES)
        client = server.login(name)
        client.ask(b"RETR 1")
        client.lines()
        server.stop(signal.SIGKILL)
        client.abandon()
        self.assertEqual(stored(maildir), MESSAGES)
        self.assertEqual(list(maildir.glob("cur/*")), [])

    def test_moved_by_others(self):
        """Flags that another program sets meanwhile stay, and the message has S beside them."""
        client, maildir = self.login(MESSAGES)
        client.ask(b"RETR 2")
        client.lines()
        (file,) = maildir.glob("new/1700000001.*")
        file.rename(maildir / "cur" / f"{file.name}:2,FR")
        self.assertEqual(client.ask(b"LAST"), b"+OK 2")
        client.close()
        self.assertEqual([each.name[-6:] for each in maildir.glob("cur/*")], [":2,FRS"])
        self.assertEqual(stored(maildir), MESSAGES)


class EveryDialectTests(TestCase):
    """What all dialects have, and that none has what is another's."""

    def test_poplib(self):
        """A whole session in each dialect gives the messages to the byte, and removes them."""
        for name, dialect in DIALECTS.items():
            server = Server("--dialect", name)
            try:
                user, maildir = server.add_user(MESSAGES)
                client = poplib.POP3("127.0.0.1", server.port)
                client.user(user)
                client.pass_("secret")
                texts = MESSAGES if not dialect.has(b"UTF8") else [*map(shown, MESSAGES)]
                for number, text in enumerate(texts, 1):
                    got = client.retr(number)[1]
                    self.assertEqual(b"".join(line + b"\r\n" for line in got), wire_form(text))
                    self.assertEqual(client.top(number, 0)[1], got[: got.index(b"") + 1])
                self.assertEqual(client.stat()[0], 3)
                client.dele(2)
                client.quit()
                self.assertEqual(stored(maildir), [MESSAGES[0], MESSAGES[2]])
                flagged = len(list(maildir.glob("cur/*:2,S")))
                self.assertEqual(flagged, 2 if dialect.has(b"LAST") else 0)
            finally:
                server.stop()

    def test_commands(self):
        """Any command of any dialect, in every state, is answered by one line, or is its own."""
        keywords = {each.keyword for dialect in DIALECTS.values() for each in dialect.commands}
        for name, dialect in DIALECTS.items():
            server = Server("--dialect", name)
            try:
                user, _ = server.add_user(MESSAGES)
                client = server.connect()
                for keyword in keywords - {each.keyword for each in dialect.commands}:
                    self.assertEqual(client.ask(keyword + b" 1"), b"-ERR unknown command")
                client.ask(b"USER " + user.encode())
                self.assertTrue(client.ask(b"PASS secret").startswith(b"+OK"))
                for keyword in keywords - {each.keyword for each in dialect.commands}:
                    self.assertEqual(client.ask(keyword), b"-ERR unknown command")
                self.assertTrue(client.close().startswith(b"+OK"))
            finally:
                server.stop()


class MarkSeenTests(ServerTestCase):
    """--mark-seen, for programs that look at the same Maildir otherwise."""

    options = ("--mark-seen",)

    def test_seen(self):
        """What was retrieved has the flag S after the session, and TOP is no retrieving."""
        client, maildir = self.login(MESSAGES)
        for line in (b"RETR 1", b"TOP 2 0"):
            client.ask(line)
            client.lines()
        self.assertEqual(client.ask(b"LAST"), b"-ERR unknown command")
        client.close()
        self.assertEqual([each.name[:10] for each in maildir.glob("cur/*:2,S")], ["1700000000"])
        self.assertEqual(stored(maildir), MESSAGES)


RESERVED = range(1023, 511, -1)


class RPOPTests(ServerTestCase):
    """RPOP of RFC 1225, from ports that root alone can have."""

    def new_server(self):
        """A server that trusts this machine as far as mrose is concerned."""
        rhosts = temporary_directory() / "rhosts"
        rhosts.write_text("-127.0.0.9 + +\n127.0.0.0/8 mrose +\n")
        rhosts.chmod(0o644)
        return Server("--dialect", "rfc1225", "--rhosts", rhosts)

    def bound(self, ports, host="127.0.0.1"):
        """Return a socket of the first of these ports that is free."""
        for port in ports:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((host, port))
                return sock
            except PermissionError:
                sock.close()
                self.skipTest("reserved ports are root's")
            except OSError:
                sock.close()
        raise AssertionError("no port is free")

    def rpop(self, ports, name, remote_user, host="127.0.0.1"):
        """Return the answer to RPOP from one of these ports, and this address."""
        with closing(self.bound(ports, host)) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(("127.0.0.1", self.server.port))
            with sock.makefile("rwb") as file:
                file.write(b"USER %b\r\nRPOP %b\r\n" % (name.encode(), remote_user))
                file.flush()
                return [file.readline() for _ in range(3)][2]

    def test_reserved(self):
        """Whom the file trusts gets in from a reserved port, and from no other."""
        name, _ = self.server.add_user(MESSAGES)
        self.assertRegex(self.rpop(RESERVED, name, b"mrose"), rb"^\+OK .*3 messages")
        told = b"-ERR RPOP requires a reserved client port\r\n"
        self.assertEqual(self.rpop([0], name, b"mrose"), told)
        self.assertEqual(self.rpop(range(1024, 2000), name, b"mrose"), told)

    def test_denied(self):
        """Whom the file does not trust is denied permission; so are denied hosts, first."""
        name, _ = self.server.add_user(MESSAGES)
        denied = b"-ERR [AUTH] permission denied\r\n"
        self.assertEqual(self.rpop(RESERVED, name, b"eve"), denied)
        self.assertEqual(self.rpop(RESERVED, name, b"mrose", "127.0.0.9"), denied)

    def test_warning(self):
        """The log says at the start what is trusted."""
        self.assertIn("without a password", self.server.log)

    def test_fetchmail(self):
        """Fetchmail, which still knows RPOP, gets its mail through a reserved port."""
        name, _ = self.server.add_user(MESSAGES)
        with closing(self.bound(RESERVED)) as sock:
            port = sock.getsockname()[1]
        fetchmail = Fetchmail(
            self,
            # It wants to connect to a reserved port as well.
            f'service 110 proto rpop plugin "socat STDIO TCP:%h:{self.server.port},'
            f'sourceport={port},reuseaddr" user {name} password mrose',
        )
        self.assertIn(b"RPOP *", fetchmail.fetch("-v", "--keep"))
        self.assertEqual(fetchmail.got(), [wire_form(each, b"\n") for each in MESSAGES])
