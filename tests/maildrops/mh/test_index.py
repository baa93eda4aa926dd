"""Tests of popserv.maildrops.mh.index: which unique-id a message has."""

import errno
import os
import shutil
from hashlib import blake2b
from unittest.mock import patch

from twisted.internet.testing import EventLoggingObserver
from twisted.logger import formatEvent, globalLogPublisher

from popserv.errors import MaildropUnavailable
from popserv.maildrops.mh import folder, index_file
from popserv.maildrops.mh import index as module
from popserv.messages.details import NO_DETAILS
from popserv.messages.downgrade.downgrader import Downgrader
from popserv.testing.delivery_contract import body_of
from tests.maildrops.maildir.harness import before_each_call, result
from tests.maildrops.mh.harness import MHCase, deliver, pack


class UniqueIdTests(MHCase):
    """The same unique-id for the same message, and never for another."""

    def both(self):
        """Return the unique-ids, which are the same after a restart."""
        uids = self.uids()
        self.restart()
        self.assertEqual(self.uids(), uids)
        return uids

    def test_versions(self):
        """It is the same in every version of popserv: made of the time and the octets."""
        deliver(self.path, b"1\n", 1)
        modified = os.stat(self.file(1)).st_mtime_ns
        octets = blake2b(b"1\n", digest_size=16).hexdigest()
        expected = blake2b(f"{modified} {octets}".encode(), digest_size=16).hexdigest()
        self.assertEqual(self.uids(), [expected.encode()])

    def test_renumbered(self):
        """Renumbering and reordering change no unique-id, with the index in memory or without."""
        self.deliver(b"1\n", b"2\n", b"3\n")
        _one, two, three = self.both()
        self.remove(0)
        pack(self.path)
        self.assertEqual(self.both(), [two, three])
        os.rename(self.file(1), self.file(9))
        self.assertEqual(self.both(), [three, two])

    def test_restored(self):
        """A restored copy, which has another inode and the same time, has the same unique-ids."""
        self.deliver(b"1\n", b"2\n")
        uids = self.both()
        copy = self.path + ".copy"
        shutil.copytree(self.path, copy)
        shutil.rmtree(self.path)
        shutil.move(copy, self.path)
        self.assertEqual(self.both(), uids)

    def test_delivered_again(self):
        """A message with the octets of one that was removed, and its inode, is another one."""
        self.deliver(b"1\n", b"2\n")
        one, two = self.both()
        # As if the file system had given the inode of a removed file to a new one.
        os.rename(self.file(1), self.file(3))
        os.utime(self.file(3), ns=(5, 5))
        same, new = self.both()
        self.assertEqual(same, two)
        self.assertNotEqual(new, one)

    def test_changed(self):
        """A message with other octets has another unique-id."""
        self.deliver(b"1\n", b"2\n")
        one, two = self.both()
        deliver(self.path, b"9\n", 1)
        new, same = self.both()
        self.assertEqual(same, two)
        self.assertNotEqual(new, one)

    def test_copies(self):
        """Copies with the same time, or links, have unique-ids of their own until they go."""
        for copy in (shutil.copy2, os.link):
            for at in range(3):
                self.deliver(b"1\n")
                copy(self.file(1), self.file(2))
                copy(self.file(1), self.file(3))
                uids = self.both()
                self.assertEqual(len(set(uids)), 3)
                self.remove(at)
                del uids[at]
                self.assertEqual(self.both(), uids)
                pack(self.path)
                self.assertEqual(self.both(), uids)
                self.remove(0, 1)

    def test_recent(self):
        """A file that was just written is read again, as it may change within a clock tick."""
        self.deliver(b"1\n")
        os.utime(self.file(1))
        status = os.stat(self.file(1))
        (one,) = self.both()
        with open(self.file(1), "r+b") as file:
            file.write(b"9")
        os.utime(self.file(1), ns=(status.st_atime_ns, status.st_mtime_ns))
        self.assertNotEqual(self.uids(), [one])
        self.assertEqual(self.read_all(), [b"9\n"])


class CountingTests(MHCase):
    """Which messages are read."""

    def files_read(self):
        """Return the names of the message files that a login opens."""
        names = []
        with before_each_call(os, "open", names.append), self.session():
            pass
        return [int(name) for name in names if isinstance(name, bytes) and name.isdigit()]

    def test_read_once(self):
        """Only new messages are read; after a restart the index file spares it for many."""
        self.patch(module, "SAVE_THRESHOLD", 2)
        self.deliver(b"1\n")
        self.assertEqual(self.files_read(), [1])
        self.assertEqual(self.files_read(), [])
        self.restart()
        self.assertEqual(self.files_read(), [1])
        self.deliver(b"2\n")
        self.assertEqual(self.files_read(), [2])
        self.restart()
        self.assertEqual(self.files_read(), [])
        self.maildrops = type(self.maildrops)(
            self.root, downgrader=Downgrader, run=self.maildrops.run
        )
        self.assertEqual(self.files_read(), [1, 2])

    def test_file_not_read(self):
        """Without the unique-ids that are in the index file, the folder is not opened."""
        delivery = result(self.maildrops.open_delivery(b"ann"))
        result(delivery.deliver(b"other", NO_DETAILS, body_of(b"1\n")))
        result(delivery.commit())
        result(delivery.release())
        self.restart()
        error = OSError(errno.EIO, "I/O error", index_file.NAME)
        with (
            patch.object(index_file, "load", side_effect=error),
            self.assertRaises(MaildropUnavailable) as refused,
        ):
            self.uids()
        path = self.file(".popserv-index")
        self.assertEqual(str(refused.exception.__cause__), f"{path}: I/O error")
        self.assertEqual(self.uids(), [b"other"])

    def test_unreadable(self):
        """A message without permission is left out and logged, and tried again."""
        self.deliver(b"1\n", b"2\n")
        real = module.open_number

        def open_number(folder, number):
            if number == 1:
                raise PermissionError(13, "Permission denied")
            return None if number == 2 else real(folder, number)

        self.patch(folder, "TRUSTED_AGE", -(10**12))
        observer = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        with patch.object(module, "open_number", open_number), self.session() as mailbox:
            self.assertEqual(len(mailbox.messages), 0)
            self.assertIsNone(mailbox.index.times)
        [event] = observer
        self.assertIn(f"message skipped: {self.file(1)} cannot be read", formatEvent(event))
        with self.session() as mailbox:
            self.assertIsNotNone(mailbox.index.times)
        self.assertEqual(self.read_all(), [b"1\n", b"2\n"])

    def test_not_saved(self):
        """An index file that cannot be written is logged, and not written at each login."""
        self.patch(module, "SAVE_THRESHOLD", 1)
        self.deliver(b"1\n")
        observer = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        with patch.object(index_file, "save", side_effect=OSError(28, "full")) as save:
            self.uids()
            self.uids()
        save.assert_called_once()
        [event] = observer
        path = self.file(".popserv-index")
        self.assertEqual(formatEvent(event), f"index of an MH folder not written: {path}: full")
