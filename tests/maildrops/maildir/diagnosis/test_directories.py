"""Tests of popserv.maildrops.maildir.diagnosis.directories."""

import os
import shutil
from unittest import SkipTest

from popserv.maildrops.maildir.diagnosis.maildir import diagnose_maildir
from popserv.maildrops.maildir.folder_names import FolderLayout
from popserv.maildrops.maildir.folders import Folders
from popserv.maildrops.maildir.unique_ids.format import Source
from tests.doctor.harness import codes, unprivileged
from tests.maildrops.maildir.diagnosis.harness import NOW, DiagnosisCase
from tests.maildrops.maildir.harness import NOBODY


class DirectoriesTests(DiagnosisCase):
    """The directories of a Maildir."""

    def test_incomplete(self):
        """A Maildir without tmp, new or cur is a warning."""
        for names, what in (
            (["tmp"], "it has no tmp"),
            (["tmp", "cur"], "it has no cur and no tmp"),
        ):
            for name in names:
                shutil.rmtree(self.maildir / name, ignore_errors=True)
            [finding] = self.findings()
            self.assertEqual((finding.code, finding.what), ("maildir-incomplete", what))

    def test_other_contents(self):
        """A directory that is no Maildir is told by what it contains."""
        bob = self.root / "bob"
        bob.mkdir()
        self.assertEqual(self.codes(b"bob"), ["h maildir-empty"])
        (bob / "file").write_text("x")
        [finding] = self.findings(b"bob")
        self.assertEqual((finding.code, finding.remedy), ("not-a-maildir", "correct --maildir"))
        (bob / "7").write_text("x")
        [finding] = self.findings(b"bob")
        self.assertIn("like an MH folder", finding.what)
        (bob / "Maildir" / "cur").mkdir(parents=True)
        [finding] = self.findings(b"bob")
        self.assertIn("the directory Maildir in it has", finding.what)
        self.assertIn("/Maildir", finding.remedy)

    def test_exposed(self):
        """Permissions of others are a warning; those of the group are not."""
        self.maildir.chmod(0o770)
        self.assertEqual(self.codes(), [])
        self.maildir.chmod(0o701)
        self.assertEqual(self.codes(), ["w maildir-exposed"])

    def test_owner(self):
        """A folder of another owner is a warning."""
        if os.geteuid() != 0:
            raise SkipTest("only root can give files away")
        os.chown(self.maildir / "new", NOBODY, NOBODY)
        [finding] = self.findings()
        self.assertEqual(finding.code, "maildir-owner")
        self.assertEqual(finding.what, "it belongs to nobody, and the Maildir to root")
        os.chown(self.maildir / "new", 0, 0)
        self.assertEqual(self.codes(), [])

    def test_not_writable(self):
        """A folder that cannot be written is an error, and the Maildir itself a hint."""
        self.maildir.chmod(0o705)
        for name in ("new", "cur"):
            (self.maildir / name).chmod(0o777)
        if os.geteuid() == 0:
            with unprivileged():
                self.assertEqual(self.codes(), ["w maildir-exposed", "h maildir-not-writable"])
        for name in ("new", "cur"):
            (self.maildir / name).chmod(0o555)
        self.addCleanup((self.maildir / "new").chmod, 0o755)
        with unprivileged():
            self.assertIn("e maildir-not-writable", self.codes())

    def test_unreadable(self):
        """A folder that cannot be listed is an error."""
        (self.maildir / "new").chmod(0)
        self.addCleanup((self.maildir / "new").chmod, 0o755)
        self.maildir.chmod(0o707)
        with unprivileged():
            self.assertIn("e maildrop-unusable", self.codes())

    def test_link(self):
        """A link in place of a folder is an error, wherever it leads."""
        shutil.rmtree(self.maildir / "cur")
        for target in ("/tmp", "nowhere"):
            os.symlink(target, self.maildir / "cur")
            found = self.codes()
            self.assertIn("e maildrop-unusable", found)
            self.assertNotIn("w maildir-incomplete", found)
            (self.maildir / "cur").unlink()

    def test_outside(self):
        """Messages beside the folders are a warning, other files are not."""
        (self.maildir / "subscriptions").write_text("x")
        (self.maildir / "2.txt").write_text("x")
        self.assertEqual(self.codes(), [])
        (self.maildir / "1600000000.x").write_text("x")
        [finding] = self.findings()
        self.assertEqual(finding.code, "maildir-outside")
        self.assertTrue(finding.what.endswith(": 1600000000.x"), finding)

    def test_tmp(self):
        """Files that are in tmp for more than 36 hours are a hint, and so are links."""
        tmp = self.maildir / "tmp"
        (tmp / "1600000000.x").write_text("x")
        os.symlink("nowhere", tmp / "link")
        for age, found in ((36 * 3600, []), (36 * 3600 + 1, ["maildir-tmp"])):
            for path in tmp.iterdir():
                os.utime(path, (NOW - age, NOW - age), follow_symlinks=False)
            findings = self.findings()
            self.assertEqual([finding.code for finding in findings], found)
        self.assertIn("2 deliveries were interrupted: ", findings[0].what)

    def test_no_directory(self):
        """What is in the place of tmp is not opened if it is a link or a FIFO."""
        tmp, other = self.maildir / "tmp", self.root / "other"
        tmp.rename(other)
        (other / "1600000000.x").write_text("x")
        os.utime(other / "1600000000.x", (0, 0))
        for make in (os.mkfifo, lambda path: os.symlink(other, path)):
            make(tmp)
            self.assertEqual(self.codes(), [])
            tmp.unlink()

    def test_ignored(self):
        """What is no message is a hint."""
        (self.maildir / "new" / ".hidden").write_text("x")
        (self.maildir / "new" / "directory").mkdir()
        os.symlink("../new/1600000000.M1P1.host", self.maildir / "cur" / "link")
        found = self.findings()
        self.assertEqual([finding.code for finding in found], ["maildir-ignored"] * 2)
        self.assertIn("2 entries", found[0].what)
        self.assertTrue(found[1].what.endswith(": link"), found[1])

    def test_vanished(self):
        """A folder that is removed meanwhile is empty."""
        real = Folders.scan

        def scan(folders):
            result = real(folders)
            shutil.rmtree(self.maildir / "new")
            folders.close_folders()
            return result._replace(files={})

        self.patch(Folders, "scan", scan)
        layout = FolderLayout(str(self.root))
        self.assertEqual(codes(diagnose_maildir(layout, b"ann", Source.NONE, NOW)), [])
