"""Tests of popserv.maildrops.read_only, with the stores that use it."""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv.core.user_settings import UnsupportedSettings, UserSettings
from popserv.errors import MaildropBusy, RemovalFailed
from popserv.interfaces import (
    ICachedMessages,
    IConfigurableStore,
    IReadOnlyMailbox,
    IRetrievalRecord,
)
from popserv.maildrops.memory import MemoryMaildrops
from tests.maildrops.maildir.harness import read_message, result
from tests.maildrops.mbox.harness import MboxCase, mbox_of
from tests.maildrops.mh.harness import MHCase

READ_ONLY = UserSettings(read_only=True)


class MemoryTests(SynchronousTestCase):
    """MemoryMaildrops."""

    def setUp(self):
        """Deliver two messages."""
        self.maildrops = MemoryMaildrops()
        self.maildrops.deliver(b"ann", b"1\n")
        self.maildrops.deliver(b"ann", b"2\n")

    def test_read_only(self):
        """Messages are read, and nothing is removed or recorded, under the lock of the store."""
        self.assertTrue(verifyObject(IConfigurableStore, self.maildrops))
        mailbox = result(self.maildrops.open_configured(b"ann", READ_ONLY))
        self.assertTrue(verifyObject(IReadOnlyMailbox, mailbox))
        self.assertTrue(verifyObject(IRetrievalRecord, mailbox))
        self.assertRaises(MaildropBusy, result, self.maildrops.open_maildrop(b"ann"))
        messages = list(mailbox.messages)
        self.assertEqual([read_message(mailbox, at) for at in (0, 1)], [b"1\n", b"2\n"])
        result(mailbox.record_retrieved(messages))
        self.assertIsNone(result(mailbox.last_retrieved()))
        result(mailbox.remove([]))
        self.assertRaises(RemovalFailed, result, mailbox.remove(messages))
        result(mailbox.release())
        self.assertEqual(len(self.maildrops.stored[b"ann"]), 2)
        self.assertEqual((self.maildrops.locked, self.maildrops.retrieved[b"ann"]), (set(), set()))

    def test_no_settings(self):
        """With settings that say nothing, the mailbox is the usual one."""
        mailbox = result(self.maildrops.open_configured(b"ann", UserSettings()))
        self.assertFalse(IReadOnlyMailbox.providedBy(mailbox))

    def test_unsupported(self):
        """Other settings are refused, and nothing is locked."""
        opened = self.maildrops.open_configured(b"ann", UserSettings(read_only=True, since=1))
        self.assertRaises(UnsupportedSettings, result, opened)
        self.assertEqual(self.maildrops.locked, set())


def tree(root):
    """Return the contents, the mode and the time of each file below a directory."""
    found = {}
    for path in sorted(Path(root).rglob("*")):
        status = path.lstat()
        octets = path.read_bytes() if path.is_file() else None
        found[path.name] = (octets, status.st_mode, status.st_mtime_ns, status.st_ino)
    return found


class MHTests(MHCase):
    """MHMaildrops."""

    def test_read_only(self):
        """A folder cannot be read-only: it is not opened, and nothing is written into it."""
        self.deliver(b"1\n", b"2\n")
        self.sequences(b"cur: 2\nunseen: 1-2\n")
        before = tree(self.root)
        opened = self.maildrops.open_configured(b"ann", READ_ONLY)
        self.assertRaises(UnsupportedSettings, result, opened)
        self.assertEqual(tree(self.root), before)
        # It is not locked either.
        self.assertEqual(self.read_all(), [b"1\n", b"2\n"])


class MboxTests(MboxCase):
    """MboxMaildrops."""

    def test_read_only(self):
        """The file stays as it is to the octet, and messages are read from the page cache."""
        self.write(mbox_of([b"1\n", b"2\n"]))
        before, files = self.contents(), tree(self.root)
        self.assertTrue(verifyObject(IConfigurableStore, self.maildrops))
        mailbox = result(self.maildrops.open_configured(b"ann", READ_ONLY))
        self.assertTrue(verifyObject(IReadOnlyMailbox, mailbox))
        self.assertTrue(verifyObject(ICachedMessages, mailbox))
        messages = list(mailbox.messages)
        self.assertEqual(read_message(mailbox, 1), b"2\n")
        result(mailbox.record_retrieved(messages))
        self.assertRaises(RemovalFailed, result, mailbox.remove(messages))
        result(mailbox.release())
        # Nor is there anything else: no index, and no lock that is left.
        self.assertEqual(tree(self.root), files)
        mailbox = result(self.maildrops.open_configured(b"ann", UserSettings()))
        result(mailbox.record_retrieved(messages))
        result(mailbox.release())
        self.assertNotEqual(self.contents(), before)

    def test_unsupported(self):
        """Other settings are refused."""
        opened = self.maildrops.open_configured(b"ann", UserSettings(deleted="keep"))
        self.assertRaises(UnsupportedSettings, result, opened)
