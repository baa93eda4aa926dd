"""Clients that log in to folders of Maildirs."""

import shutil
from hashlib import md5

from tests.live.harness import (
    SAMPLES,
    Fetchmail,
    Server,
    ServerTestCase,
    deliver,
    run,
    until,
    wire_form,
)


class FolderTests(ServerTestCase):
    """--folder-delimiter, with two workers."""

    def new_server(self):
        """Start a server with workers."""
        server = Server("--folder-delimiter=+", "--workers=2", "--deleted=move:Trash")
        self.addClassCleanup(server.stop)
        return server

    def add_user(self, **options):
        """Add a user with a message, and others in a folder; return the name and the Maildir."""
        name, maildir = self.server.add_user(SAMPLES[:1], **options)
        deliver(maildir / ".Lists.popserv", SAMPLES[1:3])
        return name, maildir

    def assert_has(self, connection, messages):
        """Check that a session shows these messages, and end it."""
        connection.ask(b"LIST")
        octets = [int(line.split()[1]) for line in connection.lines()]
        self.assertEqual(octets, [len(wire_form(message)) for message in messages])
        self.assertTrue(connection.close().startswith(b"+OK"))

    def assert_logged(self, text):
        """Wait until a worker has logged a text."""
        until(lambda: text in self.server.log, text)

    def test_password(self):
        """The user's password opens the folder; what is removed there goes to the trash."""
        name, maildir = self.add_user()
        self.assert_has(self.server.login(f"{name}+Lists.popserv"), SAMPLES[1:3])
        self.assert_has(self.server.login(name), SAMPLES[:1])
        connection = self.server.login(f"{name}+Lists.popserv")
        self.assertTrue(connection.ask(b"DELE 1").startswith(b"+OK"))
        self.assertTrue(connection.close().startswith(b"+OK"))
        self.assert_has(self.server.login(f"{name}+Lists.popserv"), SAMPLES[2:3])
        self.assertEqual(len(list((maildir / ".Trash" / "cur").iterdir())), 1)
        self.assert_logged(f'"{name}+Lists.popserv" logged in by PASS')

    def test_apop(self):
        """So does the user's secret: the digest of APOP does not contain the name."""
        name, _ = self.add_user(apop=True)
        connection = self.server.connect()
        timestamp = connection.greeting.split()[-1]
        digest = md5(timestamp + b"secret").hexdigest()
        reply = connection.ask(f"APOP {name}+Lists.popserv {digest}".encode())
        self.assertTrue(reply.startswith(b"+OK"), reply)
        self.assert_has(connection, SAMPLES[1:3])

    def test_fetchmail(self):
        """A folder can be fetched by fetchmail."""
        name, _ = self.add_user()
        client = Fetchmail(
            self,
            f"service {self.server.port} proto pop3 auth password bad-header accept "
            f'user "{name}+Lists.popserv" password secret keep sslproto ""',
        )
        client.fetch()
        self.assertEqual(len(client.messages()), 2)

    def test_locks(self):
        """Two clients can use two folders of a user, but not one, whichever worker serves them."""
        name, _ = self.add_user()
        opened = [self.server.login(f"{name}{each}") for each in ("", "+Lists.popserv")]
        for _ in range(4):
            connection = self.server.connect()
            connection.ask(f"USER {name}+Lists.popserv".encode())
            self.assertTrue(connection.ask(b"PASS secret").startswith(b"-ERR [IN-USE]"))
            connection.abandon()
        for connection in opened:
            self.assertTrue(connection.close().startswith(b"+OK"))

    def test_refused(self):
        """Only whoever has the password learns that a folder does not exist."""
        name, maildir = self.add_user()
        for sent, password, reply in (
            (f"{name}+Nowhere", b"secret", b"-ERR [SYS/PERM] there is no such folder"),
            (f"{name}+../{name}", b"secret", b"-ERR [SYS/PERM] there is no such folder"),
            (f"{name}+Trash", b"secret", b"-ERR [SYS/PERM] there is no such folder"),
            (f"{name}+Nowhere", b"wrong", b"-ERR [AUTH] authentication failed"),
            (f"{name}+Lists.popserv", b"wrong", b"-ERR [AUTH] authentication failed"),
            ("nobody+Lists", b"secret", b"-ERR [AUTH] authentication failed"),
        ):
            connection = self.server.connect()
            self.assertTrue(connection.ask(b"USER " + sent.encode()).startswith(b"+OK"))
            self.assertEqual(connection.ask(b"PASS " + password), reply)
            connection.abandon()
        self.assert_logged(
            f'"{name}+Nowhere" was refused with "there is no such folder": the folder '
            f"{maildir}/.Nowhere does not exist"
        )
        self.assert_logged('login of "nobody+Lists" by PASS failed: unknown user')

    def test_session(self):
        """The command popserv session --login has the option; --user names a user."""
        name, maildir = self.add_user()
        options = ("--maildir", self.server.root, "--folder-delimiter=+")
        done = run(
            *("popserv", "session", "--login", *options),
            input=f"USER {name}+Lists.popserv\nPASS secret\nSTAT\nQUIT\n".encode(),
        )
        total = sum(len(wire_form(message)) for message in SAMPLES[1:3])
        self.assertIn(b"+OK 2 %d\r\n" % total, done.stdout)
        done = run("popserv", "session", "--user", name, *options)
        self.assertEqual(done.returncode, 2)
        self.assertIn(b"--folder-delimiter requires that clients log in", done.stderr)
        shutil.copytree(maildir / ".Lists.popserv", maildir.parent / f"{name}+x")
        done = run("popserv", "session", f"--user={name}+x", *options[:2], input=b"STAT\nQUIT\n")
        self.assertIn(b"+OK 2 %d\r\n" % total, done.stdout)
