"""Unique-ids of a real Courier: beside it, and after popserv has replaced it."""

import os
import random
import shutil
import subprocess
from pathlib import Path

from popserv.maildrops.maildir.store import MaildirMaildrops
from tests.live.harness import SAMPLES, ServerTestCase, deliver, require_programs, run
from tests.maildrops.maildir.harness import result, run_inline

UNPACKED = Path("/opt/courier")
"""Where .ci/run unpacks Debian's packages, because courier-pop conflicts with dovecot-pop3d."""


def courier_command(test, maildir):
    """Return the command of Courier's POP3 server after a login, and its options for Popen."""
    places = (Path("/usr/lib/courier/courier"), UNPACKED / "usr/lib/courier/courier")
    program = shutil.which("courierpop3d", path=os.pathsep.join(map(str, places)))
    if program is None:
        require_programs(test, "courierpop3d")
    libraries = {str(file.parent) for file in (UNPACKED / "usr/lib").rglob("lib*.so*")}
    environment = {
        **os.environ,
        "AUTHENTICATED": maildir.name,
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
    }
    return [program, str(maildir)], {"env": environment}


class CourierSession:
    """A session of Courier's POP3 server with the mail of a user who has logged in.

    It is the process that Courier's login program becomes after a login.
    """

    def __init__(self, test, maildir):
        command, options = courier_command(test, maildir)
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            **options,
        )
        test.addCleanup(self.close)
        self._test = test
        self.ask()

    def ask(self, command=None):
        """Send a command, and return the status line, which must be positive."""
        if command is not None:
            self.process.stdin.write(command + b"\r\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline().rstrip(b"\r\n")
        self._test.assertTrue(line.startswith(b"+OK"), (command, line))
        return line

    def lines(self, command):
        """Send a command, and return the lines after the status line."""
        self.ask(command)
        return [line.rstrip(b"\r\n") for line in iter(self.process.stdout.readline, b".\r\n")]

    def shown(self):
        """Return the unique-ids by the base names, which are the subjects of the messages."""
        found = {}
        for line in self.lines(b"UIDL"):
            number, _, unique_id = line.partition(b" ")
            (subject,) = [
                header.partition(b": ")[2]
                for header in self.lines(b"TOP %b 0" % number)
                if header.startswith(b"Subject:")
            ]
            found[subject.decode()] = unique_id
        return found

    def close(self, delete=()):
        """Delete messages by number, and end the session."""
        if self.process.poll() is None:
            for number in delete:
                self.ask(b"DELE %d" % number)
            self.ask(b"QUIT")
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


class CourierCase(ServerTestCase):
    """A user of popserv's, whose Maildir Courier serves as well."""

    options = ("--uidl", "courier")

    def setUp(self):
        """Add the user, with two messages."""
        self.name, self.maildir = self.server.add_user()
        for number in (1, 2):
            self.put(f"170000000{number}.M1P1.host")
        self.store = MaildirMaildrops(str(self.server.root), uidl="courier", run=run_inline)

    def put(self, name):
        """Deliver a message with its name as subject."""
        path = self.maildir / "new" / name
        path.write_bytes(b"Subject: " + name.encode() + b"\n\nbody\n")

    def courier(self, delete=()):
        """Return the unique-ids in a session of Courier, by base name."""
        session = CourierSession(self, self.maildir)
        shown = session.shown()
        session.close(delete)
        return shown

    def popserv(self, delete=()):
        """Return the unique-ids in a session of popserv, by base name."""
        connection = self.server.login(self.name)
        connection.ask(b"UIDL")
        uids = [line.partition(b" ")[2] for line in connection.lines()]
        shown = {}
        for number, unique_id in enumerate(uids, 1):
            connection.ask(b"TOP %d 0" % number)
            shown[connection.lines()[0].partition(b": ")[2].decode()] = unique_id
        for number in delete:
            self.assertTrue(connection.ask(b"DELE %d" % number).startswith(b"+OK"))
        self.assertTrue(connection.close().startswith(b"+OK"))
        return shown


class BesideCourierTests(CourierCase):
    """Both servers show the same unique-ids of what Courier has numbered first."""

    def test_beside(self):
        """They are equal for old mail, and for mail that arrives while both have sessions."""
        expected = self.courier()
        self.assertEqual(len(set(expected.values())), 2)
        self.assertTrue(all(each.startswith(b"UID") for each in expected.values()))
        self.assertEqual(self.popserv(), expected)
        session = CourierSession(self, self.maildir)
        connection = self.server.login(self.name)
        self.put("1700000003.M1P1.host")
        self.assertEqual(session.shown(), expected)
        session.close()
        connection.ask(b"UIDL")
        self.assertEqual(len(connection.lines()), 2)
        connection.close()
        later = self.courier()
        self.assertEqual(self.popserv(), later)
        self.assertEqual({**later, **expected}, later)
        # A message that another program has moved, and one that Courier removes.
        os.rename(
            self.maildir / "cur" / "1700000001.M1P1.host:2,",
            self.maildir / "cur" / "1700000001.M1P1.host:2,FS",
        )
        self.courier(delete=[2])
        del later["1700000002.M1P1.host"]
        self.assertEqual(self.popserv(), later)
        self.assertEqual(self.courier(), later)

    def test_popserv_first(self):
        """What popserv has shown first keeps its base name there, whatever Courier calls it."""
        self.courier()
        self.put("1700000003.M1P1.host")
        shown = self.popserv()
        self.assertEqual(shown["1700000003.M1P1.host"], b"1700000003.M1P1.host")
        numbered = self.courier()
        self.assertEqual(numbered["1700000003.M1P1.host"][:3], b"UID")
        self.assertEqual(self.popserv(), shown)

    def test_in_turn(self):
        """No unique-id changes, and none stands for two messages, whatever both servers do."""
        generator = random.Random(1725)
        first, owners = {}, {}
        for step in range(40):
            action = generator.randrange(4)
            if action == 0:
                self.put(f"{1_700_000_010 + generator.randrange(1000)}.M{step}P1.host")
            shown = self.courier() if action == 1 else self.session()
            for name, unique_id in shown.items():
                self.assertEqual(owners.setdefault(unique_id, name), name)
                expected = first.setdefault(name, unique_id)
                # Courier numbers what popserv has pinned, too.
                if action != 1 or expected[:3] == b"UID":
                    self.assertEqual(unique_id, expected, (step, name))
            if action == 3 and shown:
                number = generator.randrange(len(shown))
                self.courier([number + 1]) if generator.randrange(2) else self.session(number)
        self.assertGreater(len(first), 8)

    def session(self, remove=None):
        """Return the unique-ids in a session of popserv's store, by base name."""
        mailbox = result(self.store.open_maildrop(self.name.encode()))
        names = [name.decode() for name in mailbox.base_names]
        shown = dict(zip(names, mailbox.messages.uids, strict=True))
        if remove is not None:
            result(mailbox.remove([mailbox.messages[remove]]))
        result(mailbox.release())
        return shown


class ReplacedCourierTests(CourierCase):
    """popserv uidl import --from courier."""

    options = ()

    def test_import(self):
        """After the import, a server without --uidl shows what Courier has shown."""
        expected = self.courier()
        self.assertNotEqual(self.popserv(), expected)
        arguments = ("--from", "courier", "--maildir", self.server.root, self.name)
        done = run("popserv", "uidl", "diff", *arguments)
        self.assertEqual(done.returncode, 1, repr(done))
        self.assertIn(b": clients would fetch all of 2 messages again\n", done.stdout)
        done = run("popserv", "uidl", "import", *arguments)
        self.assertEqual(done.returncode, 0, repr(done))
        self.assertIn(b": 2 of 2 messages have their old unique-ids\n", done.stdout)
        self.assertEqual(self.popserv(), expected)
        done = run("popserv", "uidl", "diff", *arguments)
        self.assertIn(b": clients would fetch none of 2 messages again\n", done.stdout)
        (self.maildir / "courierpop3dsizelist").unlink()
        deliver(self.maildir, [b"Subject: x\n\n" + SAMPLES[0]])
        shown = self.popserv()
        self.assertEqual((len(shown), {**shown, **expected}), (3, shown))
