"""Tests of popserv.maildrops.mh.folder."""

import contextlib
import os
from unittest.mock import patch

from popserv.errors import MaildropBusy
from popserv.maildrops.mh import folder as module
from popserv.maildrops.mh.folder import MAX_SCANS, lock, open_number
from tests.maildrops.maildir.harness import SPECIAL_FILES, before_each_call
from tests.maildrops.mh.harness import MHCase


class FolderTests(MHCase):
    """Which files of a folder are messages."""

    def test_names(self):
        """Messages are regular files whose names are numbers, in the order of these."""
        for name in (
            "10",
            "9",
            "1",
            "01",
            ",3",
            "0",
            "x",
            ".mh_sequences",
            "1" * 19,
            "-5",
            "\uff12",
        ):
            with open(self.file(name), "wb"):
                pass
        for number, make in enumerate(SPECIAL_FILES.values(), 20):
            make(self.file(number))
        self.assertEqual(list(self.scan().files), [1, 9, 10])
        with self.folder() as folder:
            for number in range(20, 20 + len(SPECIAL_FILES)):
                with contextlib.suppress(OSError):
                    self.assertIsNone(open_number(folder, number))
            self.assertIsNone(open_number(folder, 2))

    def test_vanishing(self):
        """A file that is removed while the folder is listed is left out."""
        self.deliver(b"1\n")
        real = os.scandir

        @contextlib.contextmanager
        def scandir(fd):
            with real(fd) as entries:
                listed = list(entries)
            if listed:
                os.unlink(self.file(1))
            yield listed

        with patch.object(os, "scandir", scandir):
            self.assertEqual(self.scan().files, {})

    def test_changing(self):
        """A folder that changes during a scan is listed again, a few times."""
        changes = []

        def change(fd):
            changes.append(fd)
            os.utime(self.path, ns=(0, len(changes)))

        with before_each_call(os, "scandir", change):
            found = self.scan()
        self.assertEqual(len(changes), MAX_SCANS)
        self.assertFalse(found.is_settled)
        self.assertIsNone(found.times)

    def test_times(self):
        """Times are trusted only if they are older than any change that may have the same."""
        self.assertIsNone(self.scan().times)
        with (
            patch.object(module, "TRUSTED_AGE", -(10**12)),
            patch.object(module, "CLOCK_TICK", -(10**12)),
        ):
            found = self.scan()
        self.assertTrue(found.is_settled)
        with self.folder() as folder:
            self.assertEqual(found.times, module.times_of(folder))

    def test_lock(self):
        """The lock excludes another descriptor of the folder."""
        with self.folder() as first, self.folder() as second:
            lock(first)
            with self.assertRaises(MaildropBusy):
                lock(second)
