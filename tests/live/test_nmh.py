"""popserv beside nmh: its programs deliver, renumber, reorder, refile and remove messages."""

import io
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from popserv.core.user_settings import NO_SETTINGS
from popserv.errors import NoSuchMessage, RemovalFailed
from popserv.maildrops.mh import MHMaildrops
from tests.maildrops.maildir.harness import read_message, result, run_inline

PROGRAMS = "/usr/bin/mh:/usr/lib/mh:/usr/libexec/nmh"
"""Where Debian has nmh's programs."""


class NmhTests(SynchronousTestCase):
    """One user's nmh and one POP3 session at a time."""

    def setUp(self):
        """Make a profile, and deliver three messages of which the last is the oldest."""
        self.home = Path(tempfile.mkdtemp(prefix="popserv-nmh-"))
        self.addCleanup(shutil.rmtree, self.home)
        self.inbox = self.home / "Mail" / "inbox"
        self.inbox.mkdir(parents=True)
        profile = "Path: Mail\nUnseen-Sequence: unseen\n"
        (self.home / ".mh_profile").write_text(profile)
        self.maildrops = MHMaildrops(f"{self.home}/Mail/%u", run=run_inline)
        for day in (3, 2, 1):
            self.store(day)

    def run_program(self, name, *arguments, text=b""):
        """Run one of nmh's programs, and return its output."""
        path = f"{PROGRAMS}:{os.environ['PATH']}"
        environment = {**os.environ, "HOME": str(self.home), "PATH": path}
        for variable in ("MH", "MHCONTEXT", "MAIL", "MAILDROP"):
            environment.pop(variable, None)
        done = subprocess.run(
            [shutil.which(name, path=path), *arguments],
            input=text,
            env=environment,
            cwd=self.home,
            capture_output=True,
            timeout=60,
            check=True,
        )
        return done.stdout

    def store(self, day):
        """Deliver a message with rcvstore."""
        self.run_program("rcvstore", "+inbox", text=message_of(day))

    def open(self):
        """Open the maildrop; it is released at the end of the test at the latest."""
        return result(self.maildrops.open_maildrop(b"inbox"))

    def listing(self):
        """Return the day and the unique-id of each message, in order."""
        mailbox = self.open()
        days = [day_of(read_message(mailbox, at)) for at in range(len(mailbox.messages))]
        result(mailbox.release())
        return list(zip(days, mailbox.messages.uids, strict=True))

    def unseen(self):
        """Return nmh's list of the unseen messages."""
        return self.run_program("pick", "unseen", "+inbox").split()

    def test_between_sessions(self):
        """Renumbering, reordering and refiling change no unique-id, in any process."""
        uids = dict(self.listing())
        self.assertEqual(list(uids), [3, 2, 1])
        self.run_program("sortm", "+inbox")
        self.assertEqual(self.listing(), [(day, uids[day]) for day in (1, 2, 3)])
        self.run_program("rmm", "+inbox", "2")
        self.assertEqual(sorted(self.inbox.glob(",*")), [self.inbox / ",2"])
        self.assertEqual(self.listing(), [(day, uids[day]) for day in (1, 3)])
        self.run_program("folder", "+inbox", "-pack")
        self.assertEqual(self.listing(), [(day, uids[day]) for day in (1, 3)])
        self.run_program("refile", "-src", "+inbox", "1", "+other", "-nolink")
        self.assertEqual(self.listing(), [(3, uids[3])])
        self.run_program("refile", "-src", "+other", "1", "+inbox")
        self.maildrops = MHMaildrops(f"{self.home}/Mail/%u", run=run_inline)
        self.assertEqual(sorted(self.listing()), [(day, uids[day]) for day in (1, 3)])

    def test_inc(self):
        """Mail that inc takes from a spool file is new mail, and changes no unique-id."""
        before = self.listing()
        spool = self.home / "spool"
        spool.write_bytes(b"From ann@example.org Mon Jan  5 10:00:00 2026\n" + message_of(9))
        self.run_program("inc", "+inbox", "-file", str(spool), "-truncate")
        after = self.listing()
        self.assertEqual(after[:-1], before)
        self.assertEqual(after[-1][0], 9)

    def test_during_session(self):
        """Messages are found under their new numbers; those that nmh removed have vanished."""
        mailbox = self.open()
        self.run_program("rmm", "+inbox", "2")
        self.run_program("sortm", "+inbox")
        self.run_program("folder", "+inbox", "-pack")
        self.store(7)
        self.assertEqual(day_of(read_message(mailbox, 0)), 3)
        self.assertEqual(day_of(read_message(mailbox, 2)), 1)
        with self.assertRaises(NoSuchMessage):
            read_message(mailbox, 1)
        result(mailbox.remove(mailbox.messages[:2]))
        result(mailbox.release())
        self.assertEqual([day for day, _ in self.listing()], [1, 7])

    def test_packing_at_quit(self):
        """While "folder -pack" and "sortm" run without sequences, QUIT removes the right ones."""
        (self.home / ".mh_profile").write_text("Path: Mail\n")
        for number in range(4, 28):
            self.store(number)
        mailbox = self.open()
        marked = mailbox.messages[::2]
        gone = {day_of(read_message(mailbox, at)) for at in range(0, len(mailbox.messages), 2)}
        kept = {day_of(read_message(mailbox, at)) for at in range(1, len(mailbox.messages), 2)}
        (self.inbox / ".mh_sequences").unlink(missing_ok=True)
        path = f"{PROGRAMS}:{os.environ['PATH']}"
        program = shutil.which("folder", path=path)
        packing = subprocess.Popen(
            [program, "+inbox", "-pack"],
            env={**os.environ, "HOME": str(self.home), "PATH": path},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with packing:
            try:
                result(mailbox.remove(marked))
            except RemovalFailed as failed:
                # Those that it could not find remain.
                self.assertLessEqual(failed.remaining, len(gone))
        result(mailbox.release())
        left = [day for day, _ in self.listing()]
        self.assertLessEqual(kept, set(left))
        self.assertEqual(len(set(left)), len(left))

    def test_sequences(self):
        """In nmh it is seen which messages were retrieved, and LAST what nmh has shown."""
        self.assertEqual(self.unseen(), [b"1", b"2", b"3"])
        mailbox = self.open()
        self.assertIsNone(result(mailbox.last_retrieved()))
        result(mailbox.record_retrieved(mailbox.messages[:1]))
        result(mailbox.release())
        self.assertEqual(self.unseen(), [b"2", b"3"])
        self.run_program("show", "+inbox", "2", "-showproc", "cat")
        mailbox = self.open()
        self.assertEqual(result(mailbox.last_retrieved()).position, 1)
        result(mailbox.remove(mailbox.messages[:1]))
        result(mailbox.release())
        self.run_program("folder", "+inbox", "-pack")
        self.assertEqual(self.unseen(), [b"2"])
        self.run_program("rmm", "+inbox", "2")
        self.store(8)
        self.assertEqual(self.unseen(), [b"2"])
        mailbox = self.open()
        self.assertEqual(result(mailbox.last_retrieved()).position, 0)
        result(mailbox.release())

    def deliver(self, day):
        """Deliver a message as LMTP does."""
        result(self.maildrops.deliver_new(b"inbox", NO_SETTINGS, io.BytesIO(message_of(day))))

    def test_delivery(self):
        """A delivery leaves the sequences that rcvstore would leave, also after all was read."""
        self.run_program("show", "+inbox", "all", "-showproc", "cat")
        sequences = self.inbox / ".mh_sequences"
        self.assertNotIn(b"unseen", sequences.read_bytes())
        before = sequences.read_bytes()
        self.store(4)
        after = sequences.read_bytes()
        self.run_program("rmm", "+inbox", "4")
        sequences.write_bytes(before)
        self.deliver(4)
        self.assertEqual(sequences.read_bytes(), after)
        self.assertEqual(self.unseen(), [b"4"])

    def test_delivery_without_sequence(self):
        """Without Unseen-Sequence in the profile, nmh shows the same as without the sequence."""
        (self.home / ".mh_profile").write_text("Path: Mail\n")
        (self.inbox / ".mh_sequences").unlink()
        self.deliver(4)
        commands = (("show", "+inbox", "last", "-showproc", "cat"), ("scan", "+inbox"))
        shown = [self.run_program(*each) for each in commands]
        sequences = self.inbox / ".mh_sequences"
        self.assertIn(b"unseen: 4\n", sequences.read_bytes())
        sequences.write_bytes(sequences.read_bytes().replace(b"unseen: 4\n", b""))
        self.assertEqual([self.run_program(*each) for each in commands], shown)


def message_of(day):
    """Return a message that was sent on this day."""
    date = b"Date: Thu, %02d Jan 2026 10:00:00 +0000\n" % day
    return b"From: ann@example.org\n" + date + b"Subject: %d\n\nbody\n" % day


def day_of(message):
    """Return the day in the subject of a message."""
    return int(message.partition(b"Subject: ")[2].split(b"\n")[0])
