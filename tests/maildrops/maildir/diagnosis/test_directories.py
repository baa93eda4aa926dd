"""Tests of popserv.maildrops.maildir.diagnosis.directories."""

import os
import shutil
import time
from unittest import SkipTest

from popserv.maildrops.maildir.diagnosis.maildir import diagnose_maildir
from popserv.maildrops.maildir.folder_names import FolderLayout
from popserv.maildrops.maildir.folders import Folders
from popserv.maildrops.maildir.unique_ids.format import Source
from tests.doctor.harness import codes, unprivileged
from tests.maildrops.maildir.diagnosis.harness import NOW, DiagnosisCase, age
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
        """A link in place of a folder is an error."""
        shutil.rmtree(self.maildir / "cur")
        os.symlink("/tmp", self.maildir / "cur")
        self.assertIn("e maildrop-unusable", self.codes())

    def test_outside(self):
        """Messages beside the folders are a warning, other files are not."""
        (self.maildir / "subscriptions").write_text("x")
        (self.maildir / "2.txt").write_text("x")
        self.assertEqual(self.codes(), [])
        (self.maildir / "1600000000.x").write_text("x")
        self.assertEqual(self.codes(), ["w maildir-outside"])

    def test_tmp(self):
        """Files that are in tmp for more than 36 hours are a hint."""
        path = self.maildir / "tmp" / "1600000000.x"
        path.write_text("x")
        age(path, 35 * 3600)
        self.assertEqual(self.codes(now=time.time()), [])
        age(path, 37 * 3600)
        self.assertEqual(self.codes(now=time.time()), ["h maildir-tmp"])

    def test_ignored(self):
        """What is no message is a hint."""
        (self.maildir / "new" / ".hidden").write_text("x")
        (self.maildir / "new" / "directory").mkdir()
        os.symlink("x", self.maildir / "cur" / "link")
        found = self.findings()
        self.assertEqual([finding.code for finding in found], ["maildir-ignored"] * 2)
        self.assertIn("2 entries", found[0].what)

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
