"""Unique-ids of a real Dovecot: beside it, and after popserv has replaced it."""

import os
import random

from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.maildir.store import MaildirMaildrops
from popserv.testing import SAMPLE_MESSAGES
from tests.live.dovecot_pop3 import DovecotPOP3
from tests.live.harness import (
    SAMPLES,
    Fetchmail,
    ServerTestCase,
    deliver,
    read_maildir,
    require_programs,
    run,
    temporary_directory,
    wire_form,
)
from tests.maildrops.maildir.harness import result, run_inline, uids_of
from tests.maildrops.maildir.unique_ids.test_format import BY_TEMPLATE


class BesideDovecotTests(SynchronousTestCase):
    """Dovecot and popserv show the same unique-ids, in the same order, whoever comes first."""

    def setUp(self):
        """Deliver three messages."""
        self.dovecot = DovecotPOP3(self)
        self.maildir = self.dovecot.deliver("ann", SAMPLES[:3])
        self.popserv = self.store("dovecot")

    def store(self, uidl):
        """Return a store of popserv's."""
        return MaildirMaildrops(str(self.dovecot.mail), uidl=uidl, run=run_inline)

    def shown(self, store=None, remove=()):
        """Return the unique-ids in a session of popserv, which removes messages by position."""
        mailbox = result((store or self.popserv).open_maildrop(b"ann"))
        uids = uids_of(mailbox)
        result(mailbox.remove([mailbox.messages[at] for at in remove]))
        result(mailbox.release())
        return uids

    def put(self, name):
        """Deliver a message under a name."""
        path = self.maildir / "new" / name
        path.write_bytes(b"Subject: " + name.encode() + b"\n\nbody\n")
        os.chown(path, *self.dovecot.owner)

    def test_templates(self):
        """A template means what it means in Dovecot."""
        templates = [each for each in BY_TEMPLATE if "%" in each and "{" not in each]
        for template in templates:
            with self.subTest(template=template):
                expected = self.dovecot.unique_ids("ann", template)
                self.assertEqual(self.shown(self.store(template)), expected)
        expected = self.dovecot.unique_ids("ann")
        self.assertEqual(len(set(expected)), 3)
        for text in ("dovecot", "%{uid | hex(8)}%{uidvalidity | hex(8)}"):
            self.assertEqual(self.shown(self.store(text)), expected)

    def test_stored(self):
        """The fields P and O of Dovecot's list count in both servers."""
        self.dovecot.unique_ids("ann")
        path = self.maildir / "dovecot-uidlist"
        head, *lines = path.read_text().splitlines()
        fields = ("O9", "PStored", "O3 PThird")
        lines = [
            line.replace(" ", f" {each} ", 1) for line, each in zip(lines, fields, strict=True)
        ]
        path.write_text("\n".join([head, *lines, ""]))
        shown = self.shown()
        self.assertEqual(shown[0], b"Third")
        self.assertEqual(shown[2], b"Stored")
        self.assertEqual(shown, self.dovecot.unique_ids("ann"))

    def test_in_turn(self):
        """Whatever is delivered, removed and read by either, no unique-id changes or returns."""
        generator = random.Random(1725)
        seen = {}
        self.dovecot.unique_ids("ann")
        for step in range(40):
            action = generator.randrange(5)
            if action == 0:
                # The clock of a delivering machine may be late.
                self.put(f"{1_700_000_000 + generator.randrange(1000)}.M{step}.host")
            elif action == 1:
                self.dovecot.unique_ids("ann")
            elif action == 2:
                self.shown()
            elif action == 3 and (shown := self.shown()):
                self.shown(remove=[generator.randrange(len(shown))])
            elif action == 4 and (shown := self.dovecot.unique_ids("ann")):
                number = generator.randrange(len(shown)) + 1
                self.dovecot.session("ann", b"DELE %d\r\n" % number)
            first, second = self.shown, lambda: self.dovecot.unique_ids("ann")
            if generator.randrange(2):
                first, second = second, first
            shown = first()
            self.assertEqual(second(), shown, step)
            names = self.bodies()
            for unique_id, name in zip(shown, names, strict=True):
                self.assertEqual(seen.setdefault(unique_id, name), name)
        self.assertGreater(len(seen), 8)

    def bodies(self):
        """Return the base names of the messages, in the order of popserv's sessions."""
        mailbox = result(self.popserv.open_maildrop(b"ann"))
        names = mailbox.base_names
        result(mailbox.release())
        return names


class ServerTests(ServerTestCase):
    """A server with --uidl dovecot, and Dovecot beside it."""

    options = ("--uidl", "dovecot")

    def test_beside(self):
        """Both show the same unique-ids of old mail and of new, whoever sees it first."""
        name, maildir = self.server.add_user(SAMPLES[:2])
        dovecot = DovecotPOP3(self, self.server.root)
        dovecot.give(maildir)
        expected = dovecot.unique_ids(name)
        self.assertEqual(self.shown(name), expected)
        deliver(maildir, SAMPLES[2:4])
        dovecot.give(maildir)
        shown = self.shown(name)
        self.assertEqual((len(shown), shown[:2]), (4, expected))
        self.assertEqual(dovecot.unique_ids(name), shown)
        self.assertEqual(self.shown(name), shown)

    def shown(self, name):
        """Return the unique-ids in a session of popserv."""
        connection = self.server.login(name)
        connection.ask(b"UIDL")
        uids = [line.partition(b" ")[2] for line in connection.lines()]
        connection.close()
        return uids


class MovedTests(ServerTestCase):
    """Clients that leave mail on the server fetch nothing again if unique-ids are imported."""

    messages = [SAMPLE_MESSAGES[0], *SAMPLES[:2]]

    def setUp(self):
        """Let Dovecot serve a user of popserv's, with three messages."""
        self.name, self.maildir = self.server.add_user(self.messages)
        self.dovecot = DovecotPOP3(self, self.server.root)
        os.chmod(self.server.root, 0o755)
        self.dovecot.give(self.maildir)
        self.dovecot.start()

    def uidl(self, command, *arguments, code=0):
        """Run a command of popserv uidl; return what it prints."""
        done = run("popserv", "uidl", command, "--maildir", self.server.root, *arguments)
        self.assertEqual((done.returncode, done.stderr), (code, b""), repr(done))
        return done.stdout.decode()

    def assert_moved(self, fetch, fetched):
        """Check how many messages a client fetches from both servers, before and after.

        ``fetch`` fetches from a port, and ``fetched`` returns the number of messages.
        """
        fetch(self.dovecot.port)
        fetch(self.dovecot.port)
        self.assertEqual(fetched(), 3)
        shown = self.uidl("diff", "--from", "dovecot", self.name, code=1)
        self.assertEqual(shown, f"{self.name}: clients would fetch all of 3 messages again\n")
        shown = self.uidl("import", "--from", "dovecot")
        self.assertIn(f"{self.name}: 3 of 3 messages have their old unique-ids\n", shown)
        shown = self.uidl("diff", "--from", "dovecot", self.name)
        self.assertEqual(shown, f"{self.name}: clients would fetch none of 3 messages again\n")
        fetch(self.server.port)
        self.assertEqual(fetched(), 3)
        deliver(self.maildir, [SAMPLES[3]])
        fetch(self.server.port)
        fetch(self.server.port)
        self.assertEqual(fetched(), 4)
        # Without the pins, it fetches all of them again.
        (self.maildir / "popserv-uidl").unlink()
        os.utime(self.maildir / "cur")
        fetch(self.server.port)
        self.assertEqual(fetched(), 7)

    def test_mpop(self):
        """Mpop, with keep."""
        require_programs(self, "mpop")
        home = temporary_directory(self)
        deliver(home / "maildir", [])

        def fetch(port):
            (home / "rc").write_text(
                f"account default\nhost 127.0.0.1\nport {port}\ntls off\nauth user\n"
                f"user {self.name}\npassword secret\nuidls_file {home}/uidls\n"
                f"delivery maildir {home}/maildir\nreceived_header off\nkeep on\n"
            )
            (home / "rc").chmod(0o600)
            done = run("mpop", "--file", home / "rc")
            self.assertEqual(done.returncode, 0, repr(done))

        self.assert_moved(fetch, lambda: len(read_maildir(home / "maildir")))
        fetched = {wire_form(each) for each in read_maildir(home / "maildir")}
        self.assertEqual(fetched, {wire_form(each) for each in [*self.messages, SAMPLES[3]]})

    def test_server(self):
        """The unique-ids of a server are imported, whatever the names and the order of files."""
        other = DovecotPOP3(self)
        other.deliver(self.name, self.messages[::-1])
        other.start()
        known = other.unique_ids(self.name)
        users = temporary_directory(self) / "users"
        users.write_text(f"{self.name}:secret\n")
        users.chmod(0o600)
        source = ("--from", f"pop3://127.0.0.1:{other.port}", "--users", users)
        shown = self.uidl("import", *source)
        self.assertEqual(shown, f"{self.name}: 3 of 3 messages have their old unique-ids\n")
        connection = self.server.login(self.name)
        connection.ask(b"UIDL")
        shown = [line.partition(b" ")[2] for line in connection.lines()]
        connection.close()
        self.assertEqual(shown, known[::-1])
        self.assertEqual(other.unique_ids(self.name), known)
        # What is no longer in the Maildir is told.
        next((self.maildir / "new").iterdir()).unlink()
        shown = self.uidl("import", *source, code=1).splitlines()
        self.assertEqual(shown[0], f"{self.name}: 2 of 2 messages have their old unique-ids")
        self.assertIn("of the other server, unique-id 0000000", shown[1])

    def test_fetchmail(self):
        """Fetchmail, with keep."""
        clients = {}
        home = []

        def fetch(port):
            fetchmail = clients.get(port) or Fetchmail(
                self,
                f"service {port} uidl proto pop3 auth password user {self.name} "
                'password secret sslproto ""',
            )
            clients[port] = fetchmail
            if home:
                # One fetchmail, which has been told another port.
                text = (fetchmail.home / "rc").read_text().replace(str(fetchmail.home), home[0])
                (fetchmail.home / "rc").write_text(text)
            else:
                home.append(str(fetchmail.home))
            run(
                *("fetchmail", "--fetchmailrc", fetchmail.home / "rc", "--nodetach", "--keep"),
                env={**os.environ, "HOME": home[0]},
            )

        self.assert_moved(fetch, lambda: len(os.listdir(os.path.join(home[0], "messages"))))
