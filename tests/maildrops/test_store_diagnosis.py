"""Tests of popserv.maildrops.store_diagnosis."""

import os

from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops import store_diagnosis
from popserv.maildrops.layout import Layout
from popserv.maildrops.store_diagnosis import diagnose_root
from tests.doctor.harness import codes, open_directory


class RootTests(SynchronousTestCase):
    """The root directory of a layout."""

    def setUp(self):
        """Create it, on a file system with room."""
        self.root = open_directory(self)
        self.patch(store_diagnosis, "diagnose_file_system", lambda path: [])

    def findings(self):
        """Return what is found."""
        layout = Layout(str(self.root))
        return diagnose_root(layout, os.path.isfile, "Maildirs", "files, mbox files perhaps")

    def test_kind(self):
        """What is of the wrong kind is a warning; hidden files are nobody's."""
        (self.root / "ann").mkdir()
        (self.root / ".users").write_text("x")
        self.assertEqual(codes(self.findings()), [])
        (self.root / "bob").write_text("x")
        [finding] = self.findings()
        self.assertEqual(finding.code, "maildrop-kind")
        self.assertEqual(finding.what, "1 of the Maildirs are files, mbox files perhaps: bob")

    def test_missing(self):
        """A root that does not exist is an error."""
        self.root.rmdir()
        self.assertEqual(codes(self.findings()), ["e directory"])
        self.root.mkdir()

    def test_unlisted(self):
        """A root that cannot be listed, but searched, may be right."""

        def users(layout, exists):
            raise PermissionError(13, "Permission denied")

        self.patch(Layout, "users", users)
        self.assertEqual(codes(self.findings()), [])
