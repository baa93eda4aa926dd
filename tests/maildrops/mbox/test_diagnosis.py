"""Tests of popserv.maildrops.mbox.diagnosis."""

import os
import time

from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.layout import Layout
from popserv.maildrops.mbox.appending import journal_name
from popserv.maildrops.mbox.diagnosis import diagnose_mbox
from popserv.maildrops.mbox.locks import STALE_AGE
from popserv.maildrops.mbox.parser import DEFAULT_FORMAT
from popserv.maildrops.mbox.window import Window
from popserv.runtime.file_credentials import acting_as
from tests.doctor.harness import codes, open_directory, unprivileged
from tests.maildrops.maildir.harness import watch_descriptors
from tests.runtime.harness import ANN

MAIL = b"From ann@example.org Mon Jan  5 10:00:00 2026\nSubject: x\n\n\n"


class DiagnosisTests(SynchronousTestCase):
    """The mbox file of ann."""

    def setUp(self):
        """Write it; no test may leave a file open."""
        watch_descriptors(self)
        self.root = open_directory(self)
        self.file = self.root / "ann"
        self.file.write_bytes(MAIL)
        self.file.chmod(0o600)

    def findings(self, user=b"ann"):
        """Return what is found, and check that nothing was changed."""
        before = sorted(self.root.iterdir()), self.file.stat().st_mtime_ns
        found = list(diagnose_mbox(Layout(str(self.root)), user, DEFAULT_FORMAT))
        self.assertEqual((sorted(self.root.iterdir()), self.file.stat().st_mtime_ns), before)
        return found

    def codes(self, user=b"ann"):
        """Return the codes of what is found."""
        return codes(self.findings(user))

    def test_right(self):
        """A file with a message has nothing wrong with it, nor has an empty one."""
        self.assertEqual(self.codes(), [])
        self.file.write_bytes(b"")
        self.assertEqual(self.codes(), [])

    def test_missing(self):
        """A user without a file is hinted at; a name that cannot be one is an error."""
        self.assertEqual(self.codes(b"bob"), ["h mbox-missing"])
        self.assertEqual(self.codes(b".ann"), ["e maildrop-name"])

    def test_directory(self):
        """A Maildir where a file is meant is an error."""
        (self.root / "bob").mkdir()
        (self.root / "bob" / "cur").mkdir()
        [finding] = self.findings(b"bob")
        self.assertEqual(finding.code, "maildrop-unusable")
        self.assertEqual(finding.what, "it is a directory, a Maildir perhaps")

    def test_unreadable(self):
        """A file, or a directory, that cannot be read is an error."""
        self.file.chmod(0)
        with unprivileged():
            [finding] = self.findings()
        self.assertEqual(finding.code, "maildrop-unusable")
        self.assertIn("cannot be read by user", finding.what)
        os.symlink("loop", self.root / "loop")
        self.assertEqual(self.codes(b"loop"), ["e maildrop-unusable"])

    def test_permissions(self):
        """Permissions of others are a warning; missing ones are an error or a hint."""
        self.file.chmod(0o644)
        with unprivileged():
            expected = ["w mbox-exposed"]
            if os.getuid() != self.file.stat().st_uid:
                expected += ["e mbox-not-writable", "h mbox-no-dotlock"]
            found = self.codes()
        self.assertEqual(found, expected)

    def test_spool_directory(self):
        """A user can make dotlocks in a directory like /var/mail, by the rights of its group."""
        if os.geteuid():
            self.skipTest("only root can act as another user")
        os.chown(self.file, *ANN[:2])
        for group, mode, expected in (
            (6001, 0o775, []),
            (6001, 0o755, ["h mbox-no-dotlock"]),
            (0, 0o775, ["h mbox-no-dotlock"]),
        ):
            os.chown(self.root, 0, group)
            self.root.chmod(mode)
            with acting_as(ANN):
                self.assertEqual(self.codes(), expected)

    def test_special_file(self):
        """What is not a regular file is an error, and is not waited for."""
        os.mkfifo(self.root / "fifo", 0o600)
        [finding] = self.findings(b"fifo")
        self.assertEqual(finding.code, "maildrop-unusable")
        self.assertEqual(finding.what, "it is not a regular file")

    def test_links(self):
        """A file with two names is an error."""
        os.link(self.file, self.root / "other")
        self.assertEqual(self.codes(), ["e maildrop-unusable"])

    def test_contents(self):
        """A file of another kind is an error."""
        self.file.write_bytes(b"Subject: x\n\n")
        self.assertEqual(self.codes(), ["e not-an-mbox"])

    def test_damaged(self):
        """A file that the disk does not read is an error."""

        def read(window, offset, octets):
            raise OSError(5, "Input/output error")

        self.patch(Window, "read", read)
        [finding] = self.findings()
        self.assertEqual((finding.code, finding.what), ("maildrop-unusable", "Input/output error"))

    def test_interrupted(self):
        """A copy that was interrupted is a hint, whatever the name of the file is."""
        (self.root / os.fsdecode(journal_name(b"ann"))).write_bytes(b"x")
        self.assertEqual(self.codes(), ["h mbox-interrupted"])
        home = self.root / "bob"
        home.mkdir()
        (home / "mbox").write_bytes(MAIL)
        (home / "mbox").chmod(0o600)
        (home / os.fsdecode(journal_name(b"mbox"))).write_bytes(b"x")
        found = diagnose_mbox(Layout(f"{self.root}/%u/mbox"), b"bob", DEFAULT_FORMAT)
        self.assertEqual(codes(found), ["h mbox-interrupted"])

    def test_dotlock(self):
        """A lock is a warning once it is stale."""
        lock = self.root / "ann.lock"
        lock.write_text("1")
        now = time.time()
        os.utime(lock, (now - STALE_AGE + 60, now - STALE_AGE + 60))
        self.assertEqual(self.codes(), [])
        os.utime(lock, (now - STALE_AGE - 60, now - STALE_AGE - 60))
        [finding] = self.findings()
        self.assertEqual(finding.code, "mbox-dotlock")
        self.assertIn("6 minutes old", finding.what)
        lock.unlink()
        lock.symlink_to("nowhere")
        os.utime(lock, (now - 7200, now - 7200), follow_symlinks=False)
        [finding] = self.findings()
        self.assertIn("120 minutes old", finding.what)
