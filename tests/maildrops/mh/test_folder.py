"""Tests of popserv.maildrops.mh.folder."""

import contextlib
import errno
import os
from pathlib import Path
from unittest.mock import patch

from popserv.errors import MaildropBusy
from popserv.maildrops.file_times import CLOCK_TICK, TRUSTED_AGE
from popserv.maildrops.mh import folder as module
from popserv.maildrops.mh.folder import MAX_SCANS, lock, open_number, unlink_if_same
from tests.maildrops.maildir.harness import SPECIAL_FILES, before_each_call, failing
from tests.maildrops.mh.harness import MHCase, deliver


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
        """A file that is removed while the folder is listed is left out, and no other."""
        self.deliver(b"1\n", b"2\n")
        real = os.scandir

        @contextlib.contextmanager
        def scandir(fd):
            with real(fd) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
            os.unlink(self.file(1))
            yield listed

        # On a file system that stores whole seconds the folder is not listed again.
        with (
            patch.object(os, "scandir", scandir),
            patch.object(module, "times_of", return_value=(1, 1, 0, 0)),
        ):
            found = self.scan()
        self.assertEqual((list(found.files), found.missing), ([2], [1]))
        self.assertFalse(found.is_settled)
        self.assertIsNone(found.times)
        with self.folder() as folder:
            module.check_gone(folder, found.missing)
            error = self.assertRaises(OSError, module.check_gone, folder, [1, 2])
        self.assertEqual((error.errno, error.filename), (errno.ESTALE, b"2"))

    def test_changing(self):
        """A folder that changes during a scan is listed again, a few times."""
        for changes, listed in ((0, 1), (1, 2), (99, MAX_SCANS)):
            calls = []

            def change(fd, changes=changes, calls=calls):
                calls.append(fd)
                if len(calls) <= changes:
                    os.utime(self.path, ns=(0, len(calls)))

            with (
                before_each_call(os, "scandir", change),
                patch.object(module.time, "clock_gettime_ns", return_value=1 << 62),
            ):
                found = self.scan()
            self.assertEqual(len(calls), listed)
            self.assertEqual(found.is_settled, changes < MAX_SCANS)
            self.assertEqual(found.times is not None, changes < MAX_SCANS)

    def test_times(self):
        """The times are those of the folder."""
        with (
            patch.object(module.time, "clock_gettime_ns", return_value=1 << 62),
            self.folder() as fd,
        ):
            self.assertEqual(self.scan().times, module.times_of(fd))

    def test_ages(self):
        """Times are trusted only if they are older than any change that may have the same."""
        now = 2 * 10**18
        for age, is_settled, is_trusted in (
            (CLOCK_TICK, False, False),
            (CLOCK_TICK + 1, True, False),
            (TRUSTED_AGE, True, False),
            (TRUSTED_AGE + 1, True, True),
        ):
            # Any program can set the time of modification, also to a time to come.
            for modified, changed in ((0, now - age), (now + 10**12, now - age)):
                # The number of an inode may be greater than any time.
                times = (1, 1 << 63, modified, changed)
                with (
                    patch.object(module.time, "clock_gettime_ns", return_value=now),
                    patch.object(module, "times_of", return_value=times),
                ):
                    found = self.scan()
                self.assertEqual(found.is_settled, is_settled)
                self.assertEqual(found.times, times if is_trusted else None)

    def test_written(self):
        """Times are not trusted while a message may be being written, which does not alter them."""
        self.deliver(b"1\n", b"2\n")
        changed = os.stat(self.file(2)).st_ctime_ns
        for age, is_trusted in ((TRUSTED_AGE, False), (TRUSTED_AGE + 1, True)):
            for modified in (0, changed + 10**12):
                os.utime(self.file(1), ns=(modified, modified))
                changed = max(os.stat(self.file(number)).st_ctime_ns for number in (1, 2))
                with (
                    patch.object(module.time, "clock_gettime_ns", return_value=changed + age),
                    patch.object(module, "times_of", return_value=(1, 1, 0, 0)),
                ):
                    found = self.scan()
                self.assertTrue(found.is_settled)
                self.assertEqual(found.times is not None, is_trusted)

    def test_lock(self):
        """The lock excludes another descriptor of the folder."""
        with self.folder() as first, self.folder() as second:
            lock(first)
            with self.assertRaises(MaildropBusy):
                lock(second)


class UnlinkTests(MHCase):
    """A message is unlinked, and no other that gets its number."""

    def setUp(self):
        """Deliver two messages."""
        super().setUp()
        self.deliver(b"one\n", b"two\n")
        self.keys = self.scan().files

    def unlink(self, number=1):
        """Unlink a message."""
        with self.folder() as fd:
            unlink_if_same(fd, number, self.keys[number])

    def racing(self, action):
        """Do something just before the file is renamed."""
        real = os.rename

        def rename(*args, **kwargs):
            self.patch(os, "rename", real)
            action()
            real(*args, **kwargs)

        self.patch(os, "rename", rename)

    def contents(self):
        """Return all files by their names."""
        return {path.name: path.read_bytes() for path in Path(self.path).iterdir()}

    def test_unlink(self):
        """The file is unlinked, and nothing else is left."""
        self.unlink()
        self.assertEqual(self.contents(), {"2": b"two\n"})
        with self.assertRaises(FileNotFoundError):
            self.unlink()

    def test_changed(self):
        """A file that has changed is not touched."""
        deliver(self.path, b"longer\n", 1)
        with self.assertRaises(OSError) as failed:
            self.unlink()
        self.assertEqual(failed.exception.errno, errno.EBUSY)
        self.assertEqual(self.contents(), {"1": b"longer\n", "2": b"two\n"})

    def test_renumbered(self):
        """A message that gets the number at the last moment keeps it."""
        self.racing(lambda: os.rename(self.file(2), self.file(1)))
        with self.assertRaises(OSError) as failed:
            self.unlink()
        self.assertEqual(failed.exception.errno, errno.EBUSY)
        self.assertEqual(self.contents(), {"1": b"two\n"})

    def test_number_taken(self):
        """If its number is taken meanwhile, it gets the next one that is free."""
        real = os.stat

        def stat(name, **kwargs):
            if isinstance(name, bytes) and name.startswith(b",popserv-"):
                for number in (1, 2, 3):
                    deliver(self.path, b"new\n", number)
            return real(name, **kwargs)

        self.racing(lambda: os.rename(self.file(2), self.file(1)))
        with patch.object(os, "stat", stat), self.assertRaises(OSError):
            self.unlink()
        new = dict.fromkeys("123", b"new\n")
        self.assertEqual(self.contents(), {**new, "4": b"two\n"})

    def test_link(self):
        """A symbolic link that takes the number at the last moment stays one."""

        def link():
            os.unlink(self.file(1))
            os.symlink("2", self.file(1))

        self.racing(link)
        with self.assertRaises(OSError):
            self.unlink()
        self.assertTrue(os.path.islink(self.file(1)))

    def test_link_to_message(self):
        """A symbolic link to the message, which was renamed, is not unlinked instead of it."""
        os.rename(self.file(1), self.file("moved"))
        os.symlink("moved", self.file(1))
        with self.assertRaises(OSError) as failed:
            self.unlink()
        self.assertEqual(failed.exception.errno, errno.EBUSY)
        self.assertEqual(os.readlink(self.file(1)), "moved")

    def test_not_restored(self):
        """Without hard links the message stays under the other name, which the error tells."""
        self.racing(lambda: os.rename(self.file(2), self.file(1)))
        denied = PermissionError(errno.EPERM, "no links")
        with failing(os, "link", denied), self.assertRaises(OSError) as failed:
            self.unlink()
        [(name, contents)] = self.contents().items()
        self.assertIn(f"the message is now in {name}", str(failed.exception))
        self.assertEqual(contents, b"two\n")

    def test_killed(self):
        """A process that is killed leaves the file as a backup, which is no message."""
        killed = failing(os, "unlink", KeyboardInterrupt())
        with killed, self.assertRaises(KeyboardInterrupt):
            self.unlink()
        self.assertEqual(sorted(self.contents().values()), [b"one\n", b"two\n"])
        self.assertEqual(list(self.scan().files), [2])
