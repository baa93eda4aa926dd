"""A Maildir for the tests of its diagnosis."""

import os
import time

from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.maildir.diagnosis.maildir import diagnose_maildir
from popserv.maildrops.maildir.folder_names import FolderLayout
from popserv.maildrops.maildir.unique_ids.format import Source
from tests.doctor.harness import codes, open_directory
from tests.maildrops.maildir.harness import watch_descriptors

NOW = 1_700_000_000


class DiagnosisCase(SynchronousTestCase):
    """Tests with the Maildir of ann, which has one message and nothing wrong with it."""

    source = Source.NONE

    def setUp(self):
        """Create it."""
        watch_descriptors(self)
        self.root = open_directory(self)
        self.maildir = self.root / "ann"
        for name in ("new", "cur", "tmp"):
            (self.maildir / name).mkdir(parents=True)
        self.maildir.chmod(0o700)
        self.deliver("1600000000.M1P1.host")

    def deliver(self, name, octets=b"Subject: x\n\n", folder="new"):
        """Write a message file; return its path."""
        path = self.maildir / folder / name
        path.write_bytes(octets)
        os.utime(path, (NOW - 10, NOW - 10))
        return path

    def findings(self, user=b"ann", template=None, now=NOW):
        """Return what is found, and check that nothing was changed."""
        before = self.tree()
        layout = FolderLayout(template or str(self.root))
        found = list(diagnose_maildir(layout, user, self.source, now))
        self.assertEqual(self.tree(), before)
        return found

    def tree(self):
        """Return all paths with what a change would alter."""
        return {
            path: (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_mode)
            for path in self.root.rglob("*")
            for status in [path.lstat()]
        }

    def codes(self, *args, **options):
        """Return the codes of what is found."""
        return codes(self.findings(*args, **options))


def age(path, seconds):
    """Make a file older."""
    then = time.time() - seconds
    os.utime(path, (then, then))
