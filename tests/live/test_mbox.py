"""Mbox files beside the programs that deliver mail to them and read it: Postfix, procmail, mutt."""

import os
import pty
import re
import shutil
import subprocess
import threading
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.mbox.parser import DEFAULT_FORMAT, parse
from popserv.maildrops.mbox.window import Window
from tests.live.harness import BIN, TIMEOUT, require_programs, run, temporary_directory, until
from tests.live.postfix import Postfix
from tests.live.test_dovecot_maildir import Dovecot

USER = "nobody"
"""A user of the system who has mail; Postfix delivers to no other, and not to root."""

MAIN_CF = """
mail_spool_directory = {spool}
mydestination = localhost
local_recipient_maps =
mailbox_delivery_lock = fcntl, dotlock
"""


def message(number):
    """Return a message, with a line that looks like a From_ line."""
    return (
        b"From: ann@localhost\nTo: %b@localhost\nSubject: message %d\n\n"
        b"From ann Mon Jan  5 10:00:00 2026\nbody of %d\n" % (USER.encode(), number, number)
    )


class MboxCase(SynchronousTestCase):
    """A directory like /var/mail."""

    def setUp(self):
        """Make the directory; /var/mail belongs to the group mail."""
        self.root = temporary_directory(self)
        self.spool = self.root / "mail"
        self.spool.mkdir()
        shutil.chown(self.spool, "root", "mail")
        self.spool.chmod(0o2775)
        self.file = self.spool / USER
        self.fetched = []

    def deliver(self, number):
        """Append a message as a delivery agent does, without a lock."""
        with self.file.open("ab") as file:
            quoted = message(number).replace(b"\nFrom ann", b"\n>From ann")
            file.write(b"From ann Mon Jan  5 10:00:%02d 2026\n%b\n" % (number, quoted))
        shutil.chown(self.file, USER, "mail")

    def subjects(self):
        """Return the numbers of the messages in the file."""
        with self.file.open("rb") as file:
            window = Window(file.fileno(), self.file.stat().st_size)
            texts = [
                window.read(entry.start, entry.end - entry.start)
                for entry in parse(window, 0, DEFAULT_FORMAT)
            ]
        # The notice after an interruption has another subject.
        found = [re.search(rb"\nSubject: message (\d+)\n", text) for text in texts]
        return [int(each[1]) for each in found if each]

    def pop(self, *commands):
        """Run a session; return its output."""
        done = run(
            *("popserv", "session", "--user", USER, "--mbox", self.spool),
            input=b"".join(b"%b\r\n" % each for each in (*commands, b"QUIT")),
        )
        self.assertEqual(done.returncode, 0, repr(done))
        return done.stdout

    def fetch(self):
        """Retrieve and delete the first message, if there is one."""
        octets = self.pop(b"RETR 1", b"DELE 1")
        self.fetched += map(int, re.findall(rb"Subject: message (\d+)\r\n", octets))

    def fetch_while(self, deliver, count):
        """Fetch in another thread while messages are delivered; check that each is there once."""
        errors = []

        def fetch():
            try:
                while thread.is_alive():
                    self.fetch()
            except BaseException as error:
                errors.append(error)

        def deliver_all():
            for number in range(count):
                deliver(number)

        thread = threading.Thread(target=deliver_all)
        thread.start()
        fetch()
        thread.join(TIMEOUT)
        self.assertEqual(errors, [])

    def assert_each_once(self, count):
        """Check that each message was fetched, or is in the file, once."""
        self.assertEqual(sorted(self.fetched + self.subjects()), list(range(count)))


class DeliveryTests(MboxCase):
    """Programs that append."""

    def test_procmail(self):
        """Procmail delivers while messages are fetched and removed, and none is lost."""
        require_programs(self, "procmail")
        rules = self.root / "rules"
        rules.write_text(f"DEFAULT={self.file}\nLOCKSLEEP=1\n")

        def deliver(number):
            done = run("procmail", "-f", "ann@localhost", rules, input=message(number))
            self.assertEqual(done.returncode, 0, repr(done))

        self.file.touch()
        shutil.chown(self.file, USER, "mail")
        self.fetch_while(deliver, 25)
        self.assert_each_once(25)
        self.assertGreater(len(self.fetched), 0)

    def test_postfix(self):
        """Postfix delivers while messages are fetched and removed, and none is lost."""
        self.file.touch()
        shutil.chown(self.file, USER, "mail")
        self.file.chmod(0o660)
        postfix = Postfix(self, self.root, MAIN_CF.format(spool=self.spool))

        def deliver(number):
            postfix.send(message(number), "ann@localhost", f"{USER}@localhost")

        self.fetch_while(deliver, 10)
        until(lambda: len(self.fetched + self.subjects()) == 10, "deliveries")
        self.assert_each_once(10)
        status = self.file.stat()
        self.assertEqual((self.file.owner(), self.file.group()), (USER, "mail"))
        self.assertEqual(status.st_mode & 0o777, 0o660)


class ReaderTests(MboxCase):
    """Programs that read the file and change it."""

    def setUp(self):
        """Deliver four messages."""
        super().setUp()
        for number in range(4):
            self.deliver(number)

    def mutt(self, keys):
        """Run mutt on a terminal, with these keys."""
        require_programs(self, "mutt")
        main, terminal = pty.openpty()
        command = ["mutt", "-n", "-F", "/dev/null", "-f", str(self.file)]
        for setting in (
            "set delete=yes",
            "set mark_old=no",
            "set move=no",
            f"set folder={self.root}",
        ):
            command += ["-e", setting]
        process = subprocess.Popen(
            [*command, "-e", f"push '{keys}'"],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env={**os.environ, "TERM": "vt100", "HOME": str(self.root)},
            start_new_session=True,
        )
        os.close(terminal)
        try:
            # Mutt waits if nobody reads what it shows.
            while True:
                try:
                    if not os.read(main, 4096):
                        break
                except OSError:
                    break
            self.assertEqual(process.wait(TIMEOUT), 0)
        finally:
            process.kill()
            process.wait()
            os.close(main)

    def uids(self):
        """Return the unique-ids that a session shows."""
        return re.findall(rb"(?m)^\d+ (\S+)\r$", self.pop(b"UIDL"))

    def test_mutt(self):
        """What mutt marks as read keeps its unique-id; what it deletes is gone."""
        before = self.uids()
        self.assertEqual(len(before), 4)
        self.mutt("<first-entry><display-message><exit><sync-mailbox><exit>")
        self.assertIn(b"\nStatus: RO\n", self.file.read_bytes())
        self.assertEqual(self.uids(), before)
        self.mutt("<first-entry><next-entry><delete-message><sync-mailbox><exit>")
        self.assertEqual(self.subjects(), [0, 2, 3])
        self.assertEqual(self.uids(), [before[0], *before[2:]])

    def test_mutt_during_session(self):
        """QUIT removes what was marked, and nothing else, if mutt has changed the file."""
        session = subprocess.Popen(
            ["popserv", "session", "--user", USER, "--mbox", str(self.spool)],
            executable=shutil.which("popserv", path=BIN),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with session:
            for command in (b"DELE 2\r\n", b"DELE 3\r\n"):
                session.stdin.write(command)
                session.stdin.flush()
            for _ in range(3):
                self.assertTrue(session.stdout.readline().startswith(b"+OK"))
            self.mutt(
                "<first-entry><delete-message><next-entry><delete-message><sync-mailbox><exit>"
            )
            self.deliver(4)
            rest, _ = session.communicate(b"RETR 1\r\nRETR 4\r\nQUIT\r\n", timeout=TIMEOUT)
        self.assertTrue(rest.startswith(b"-ERR message 1 was removed by another program"), rest)
        # Mutt has added fields to it.
        self.assertIn(b"\r\n-ERR [SYS/TEMP] message has changed, log in again\r\n+OK", rest)
        self.assertEqual(self.subjects(), [3, 4])

    def test_dovecot(self):
        """Dovecot finds the same messages."""
        subjects = [b"message %d" % number for number in self.subjects()]
        maildir = self.root / "maildir"
        maildir.mkdir()
        dovecot = Dovecot(self, maildir)
        location = f"mail_location=mbox:{maildir}:INBOX={self.file}"
        shutil.chown(self.file, "nobody", "nogroup")
        self.spool.chmod(0o777)
        found = dovecot("-o", location, "-f", "tab", "fetch", "hdr.subject", "all")
        self.assertEqual([each.encode() for each in found.splitlines()[1:]], subjects)

    def test_dovecots_data(self):
        """The unique-ids stay when Dovecot writes its fields into the messages."""
        before = self.uids()
        maildir = self.root / "maildir"
        maildir.mkdir()
        dovecot = Dovecot(self, maildir)
        location = f"mail_location=mbox:{maildir}:INBOX={self.file}"
        shutil.chown(self.file, "nobody", "nogroup")
        self.spool.chmod(0o777)
        dovecot("-o", location, "flags", "add", r"\Seen", "mailbox", "INBOX", "1")
        self.assertIn(b"X-UID: ", self.file.read_bytes())
        self.assertEqual(self.uids(), before)
        dovecot("-o", location, "expunge", "mailbox", "INBOX", "1")
        self.assertEqual(self.uids(), before[1:])


class LockedTests(MboxCase):
    """A program that keeps the file locked."""

    def test_dotlock(self):
        """The dotlock of a program that runs is respected, and that of one that is dead is not."""
        self.deliver(0)
        dotlock = Path(f"{self.file}.lock")
        dotlock.write_text(f"{os.getpid()}\n")
        done = run("popserv", "session", "--user", USER, "--mbox", self.spool, input=b"QUIT\r\n")
        self.assertTrue(done.stdout.startswith(b"-ERR [IN-USE]"), repr(done))
        process = subprocess.Popen(["true"])
        process.wait()
        dotlock.write_text(f"{process.pid}\n")
        self.fetch()
        self.assertEqual((self.fetched, self.subjects()), ([0], []))
        self.assertFalse(dotlock.exists())


class FaultTests(MboxCase):
    """System calls that fail or kill the server, while QUIT removes the second of four messages."""

    def setUp(self):
        """Deliver the messages."""
        super().setUp()
        require_programs(self, "strace")
        for number in range(4):
            self.deliver(number)

    def remove(self, fault):
        """Run a session with a fault in its system calls; return its output."""
        command = ("strace", "-f", "-o", "/dev/null", "-e", f"inject={fault}", BIN / "popserv")
        options = ("session", "--user", USER, "--mbox", self.spool)
        return run(*command, *options, input=b"DELE 2\r\nQUIT\r\n").stdout

    def test_killed(self):
        """A server that is killed in any system call loses no message."""
        octets = self.file.read_bytes()
        killed = 0
        for call, number in (
            *(("pwrite64", number) for number in range(1, 5)),
            *(("fdatasync", 1), ("fdatasync", 2), ("ftruncate", 1), ("fsync", 1)),
        ):
            self.file.write_bytes(octets)
            replies = self.remove(f"{call}:signal=KILL:when={number}")
            killed += b"signing off" not in replies
            self.assertLessEqual({0, 2, 3}, set(self.subjects()), (call, number))
            # The next session goes on: the dotlock of the dead one is stale.
            self.assertIn(b"signing off", self.pop(b"NOOP"))
        self.assertGreaterEqual(killed, 7)

    def test_full_disk(self):
        """On a full disk QUIT fails, and the file is what it was."""
        octets = self.file.read_bytes()
        for error in ("ENOSPC", "EDQUOT", "EIO"):
            replies = self.remove(f"pwrite64:error={error}")
            self.assertIn(b"-ERR [SYS/TEMP] 1 deleted message not removed", replies)
            self.assertEqual(self.file.read_bytes(), octets)
