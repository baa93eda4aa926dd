"""How stores count what they do to open maildrops."""

import os
from threading import Thread
from types import SimpleNamespace
from unittest.mock import patch

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv.interfaces import IScanCounts
from popserv.maildrops.kinds import make_store
from popserv.maildrops.maildir.folders import Folders
from popserv.maildrops.maildir.store import MaildirMaildrops
from popserv.maildrops.mbox.index import Identity
from popserv.maildrops.mbox.store import MboxMaildrops
from popserv.maildrops.memory import MemoryMaildrops
from popserv.maildrops.mh import store as mh_store
from popserv.maildrops.mh.store import MHMaildrops
from popserv.maildrops.scans import ScanCounts, record_nothing
from popserv.maildrops.settings import StoreSettings
from popserv.maildrops.wrapping import share_interfaces


class ScanCountsTests(SynchronousTestCase):
    """ScanCounts."""

    def test_record(self):
        """Scans and messages are added up."""
        counts = ScanCounts()
        self.assertEqual(counts.totals(), (0, 0))
        for messages in (3, 0, 4):
            counts.record(messages)
        self.assertEqual(counts.totals(), (3, 7))
        record_nothing(7)

    def test_threads(self):
        """Nothing is lost, in however many threads they are counted."""
        counts = ScanCounts()
        threads = [Thread(target=lambda: [counts.record(2) for _ in range(1000)]) for _ in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        self.assertEqual(counts.totals(), (4000, 8000))


class StoresTests(SynchronousTestCase):
    """The stores that keep maildrops in memory."""

    def setUp(self):
        """Make a directory."""
        self.root = os.path.abspath(self.mktemp())
        os.mkdir(self.root)

    def test_interface(self):
        """Every store that has a cache counts, also one around it, and no other does."""
        for kind in ("maildir", "mh", "mbox"):
            for settings in (
                StoreSettings(10),
                StoreSettings(10, since=60.0),
                *([StoreSettings(10, deleted="keep")] if kind == "maildir" else []),
            ):
                store = make_store(f"{kind}:{self.root}", settings)
                verifyObject(IScanCounts, store)
                self.assertEqual(store.scan_counts(), (0, 0))
        wrapper = SimpleNamespace()
        share_interfaces(wrapper, MemoryMaildrops())
        self.assertFalse(IScanCounts.providedBy(wrapper))

    def open(self, store):
        """Open and release ann's maildrop; return its number of messages."""
        mailbox = self.successResultOf(Deferred.fromCoroutine(store.open_maildrop(b"ann")))
        messages = len(mailbox.messages)
        self.successResultOf(Deferred.fromCoroutine(mailbox.release()))
        return messages

    def write(self, path, octets, mode="wb"):
        """Write or append to a file of ann."""
        path = os.path.join(self.root, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, mode) as file:
            file.write(octets)

    def test_maildir(self):
        """A scan of a Maildir counts what is new, and a Maildir in memory is not scanned."""
        store = MaildirMaildrops(self.root, run=maybeDeferred)
        self.assertEqual((self.open(store), store.scan_counts()), (0, (0, 0)))
        for folder in ("new", "cur", "tmp"):
            os.makedirs(os.path.join(self.root, "ann", folder))
        for name in ("1.a", "2.b"):
            self.write(f"ann/new/{name}", b"one\n")
        self.assertEqual((self.open(store), store.scan_counts()), (2, (1, 2)))
        with patch.object(Folders, "are_unchanged_since", lambda *_: True):
            self.assertEqual((self.open(store), store.scan_counts()), (2, (1, 2)))
        self.write("ann/new/3.c", b"x" * 100_000)
        self.assertEqual((self.open(store), store.scan_counts()), (3, (2, 3)))

    def test_mh(self):
        """A scan of an MH folder counts what is new."""
        store = MHMaildrops(self.root, run=maybeDeferred)
        for number in (1, 2):
            self.write(f"ann/{number}", b"one\n")
        self.assertEqual((self.open(store), store.scan_counts()), (2, (1, 2)))
        with patch.object(mh_store, "times_of", lambda _: store._cache.get(b"ann").times):
            self.assertEqual((self.open(store), store.scan_counts()), (2, (1, 2)))

    def test_mbox(self):
        """An mbox file is read from the place where it has grown, or else from its start."""
        store = MboxMaildrops(self.root, run=maybeDeferred)
        message = b"From a Mon Jan  1 00:00:00 2024\n\none\n\n"
        self.write("ann", message * 2)
        self.patch(Identity, "is_settled", lambda _: True)
        self.assertEqual((self.open(store), store.scan_counts()), (2, (1, 2)))
        self.assertEqual((self.open(store), store.scan_counts()), (2, (1, 2)))
        self.write("ann", message, "ab")
        # The last message is read again, because it could have become longer.
        self.assertEqual((self.open(store), store.scan_counts()), (3, (2, 4)))
