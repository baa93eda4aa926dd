"""Tests of popserv.maildrops.mh.diagnosis."""

import os
import shutil

from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.layout import Layout
from popserv.maildrops.mh import diagnosis, index_file
from popserv.maildrops.mh.diagnosis import diagnose_folder
from tests.doctor.harness import codes, open_directory, unprivileged
from tests.maildrops.maildir.harness import failing, watch_descriptors


class DiagnosisTests(SynchronousTestCase):
    """The MH folder of ann."""

    def setUp(self):
        """Create it, with a message; no test may leave a file open."""
        watch_descriptors(self)
        self.root = open_directory(self)
        self.folder = self.root / "ann"
        self.folder.mkdir(mode=0o700)
        (self.folder / "1").write_text("Subject: x\n\n")

    def codes(self, user=b"ann"):
        """Return the codes of what is found."""
        return codes(diagnose_folder(Layout(str(self.root)), user))

    def test_right(self):
        """A folder has nothing wrong with it, and files that are no messages are not looked at."""
        (self.folder / ",2").write_text("x")
        self.assertEqual(self.codes(), [])

    def test_missing(self):
        """A user without a folder is hinted at; names and files that cannot be one are errors."""
        (self.root / "file").write_text("x")
        self.assertEqual(self.codes(b"bob"), ["h mh-missing"])
        self.assertEqual(self.codes(b".ann"), ["e maildrop-name"])
        self.assertEqual(self.codes(b"file"), ["e maildrop-unusable"])

    def test_permissions(self):
        """Permissions of others are a warning; missing ones are errors."""
        (self.folder / "1").chmod(0)
        self.folder.chmod(0o505)
        self.addCleanup(self.folder.chmod, 0o700)
        with unprivileged():
            found = self.codes()
        self.assertEqual(found, ["w mh-exposed", "e mh-not-writable", "e message-unreadable"])

    def test_index(self):
        """A damaged index is a warning; a whole one is not, even if it is empty."""
        fd = os.open(self.folder, os.O_RDONLY)
        self.addCleanup(os.close, fd)
        index_file.save(fd, [], b"0")
        self.assertEqual(self.codes(), [])
        (self.folder / ".popserv-index").write_bytes(b"x")
        self.assertEqual(self.codes(), ["w mh-index"])

    def test_unlisted(self):
        """A folder that cannot be listed is an error."""
        with failing(os, "scandir", PermissionError(13, "Permission denied")):
            self.assertEqual(self.codes(), ["e maildrop-unusable"])

    def test_vanished(self):
        """A message that is removed meanwhile is none."""
        real = diagnosis.scan

        def scan(folder):
            result = real(folder)
            (self.folder / "1").unlink()
            return result

        self.patch(diagnosis, "scan", scan)
        self.assertEqual(self.codes(), [])
        shutil.rmtree(self.folder)
