"""Tests of popserv.maildrops.store_diagnosis."""

import os

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv.core.user_settings import NO_SETTINGS, UserSettings
from popserv.interfaces import IDiagnosedStore, IUserListing
from popserv.maildrops import store_diagnosis
from popserv.maildrops.kinds import make_store
from popserv.maildrops.layout import Layout
from popserv.maildrops.maildir.store import MaildirMaildrops
from popserv.maildrops.mbox.store import MboxMaildrops
from popserv.maildrops.mh.store import MHMaildrops
from popserv.maildrops.settings import StoreSettings
from popserv.maildrops.store_diagnosis import diagnose_root
from tests.doctor.harness import codes, open_directory
from tests.maildrops.maildir.harness import result, run_inline


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


class StoreTests(SynchronousTestCase):
    """The stores, also with ``--since``."""

    def test_stores(self):
        """Each store examines its root, and the maildrop of a user or at a path."""
        self.patch(store_diagnosis, "diagnose_file_system", lambda path: [])
        for store in (MaildirMaildrops, MboxMaildrops, MHMaildrops):
            defaults = {**store.__init__.__kwdefaults__, "run": run_inline}
            self.patch(store.__init__, "__kwdefaults__", defaults)
        for since in (None, 86_400):
            for kind, missing in (("maildir", "maildir"), ("mbox", "mbox"), ("mh", "mh")):
                root = open_directory(self)
                settings = StoreSettings(0, since=since)
                store = make_store(f"{kind}:{root}/%u", settings)
                verifyObject(IDiagnosedStore, store)
                self.assertTrue(IUserListing.providedBy(store))
                self.assertEqual(codes(result(store.diagnose())), [])
                found = store.diagnose_maildrop(b"ann", NO_SETTINGS)
                self.assertEqual(codes(found), [f"h {missing}-missing"])
        store = make_store(f"maildir:{root}", StoreSettings(0))
        settings = UserSettings(maildrop=bytes(root / "elsewhere"))
        [finding] = store.diagnose_maildrop(b"ann", settings)
        self.assertEqual(finding.where, str(root / "elsewhere"))

    def test_settings(self):
        """What the store does not support is an error; the maildrop of the user is examined."""
        root = open_directory(self)
        other = root / "other"
        maildrop = os.fsencode(other)
        settings = UserSettings(deleted="keep", read_only=True, maildrop=maildrop)
        for kind, found in (
            ("mbox", ["e user-settings", "h mbox-missing"]),
            ("mh", ["e user-settings", "h mh-missing"]),
            ("maildir", ["h maildir-missing"]),
        ):
            store = make_store(f"{kind}:{root}", StoreSettings(1))
            findings = list(store.diagnose_maildrop(b"ann", settings))
            self.assertEqual(codes(findings), found)
            self.assertEqual(findings[-1].where, str(other))
        store = make_store(f"maildir:{root}", StoreSettings(1, uidl="dovecot"))
        found = codes(store.diagnose_maildrop(b"ann", settings))
        self.assertEqual(found, ["e user-settings", "h maildir-missing"])
