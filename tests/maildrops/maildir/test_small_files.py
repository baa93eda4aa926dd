"""small_files: the small files in the directory of a Maildir, whoever has made them."""

import errno
import os
import time
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.maildir import small_files
from popserv.maildrops.maildir.small_files import is_settled, read_file, replace_file, version
from tests.maildrops.maildir.harness import (
    DIRECTORY,
    SPECIAL_FILES,
    can_open_cached,
    failing,
    link_made_meanwhile,
    watch_descriptors,
)

NAME = b"list"


class FilesTests(SynchronousTestCase):
    """Only regular files are read, and a change of one is noticed."""

    def setUp(self):
        """Make a directory."""
        self.path = os.path.abspath(self.mktemp())
        os.mkdir(self.path)
        self.fd = os.open(self.path, DIRECTORY)
        self.addCleanup(os.close, self.fd)
        watch_descriptors(self)
        self.file = os.path.join(os.fsencode(self.path), NAME)

    def write(self, data):
        """Write the file."""
        with open(self.file, "wb") as file:
            file.write(data)

    def test_read(self):
        """A file is read whole, and its version is that of what was read."""
        for data in (b"", b"x", b"x" * ((1 << 20) + 1)):
            self.write(data)
            self.assertEqual(read_file(NAME, self.fd), (data, version(NAME, self.fd)))

    def test_missing(self):
        """Without a file there are no contents and no version."""
        self.assertEqual(read_file(NAME, self.fd), (None, None))
        self.assertIsNone(version(NAME, self.fd))

    def test_cached_version(self):
        """The version is the same if the kernel may not wait for a disk."""
        if not can_open_cached(self.path):
            self.skipTest("open_cached is not supported here")
        for _ in range(2):
            expected = version(NAME, self.fd)
            self.assertEqual(version(NAME, self.fd, cached=True), expected)
            self.write(b"x")
        for what, make in SPECIAL_FILES.items():
            os.unlink(self.file)
            make(self.file)
            expected = version(NAME, self.fd)
            self.assertEqual(version(NAME, self.fd, cached=True), expected, what)
            if what == "a directory":
                os.rmdir(self.file)
                self.write(b"x")

    def test_changes(self):
        """A file that was replaced, appended to or changed has another version."""
        self.write(b"one")
        seen = {version(NAME, self.fd)}
        self.write(b"longer")
        seen.add(version(NAME, self.fd))
        os.utime(self.file, ns=(0, 0))
        seen.add(version(NAME, self.fd))
        os.rename(self.file, self.file + b".old")
        self.write(b"longer")
        os.utime(self.file, ns=(0, 0))
        seen.add(version(NAME, self.fd))
        self.assertEqual(len(seen), 4)

    def test_settled(self):
        """A version counts as settled once no other change can have the same time."""
        self.write(b"x")
        self.assertFalse(is_settled(version(NAME, self.fd)))
        self.patch(small_files, "TRUSTED_AGE", -(10**12))
        self.assertTrue(is_settled(version(NAME, self.fd)))
        self.assertTrue(is_settled(None))

    def test_settled_times(self):
        """Both times must be in the past: copying programs set one of them."""
        now = 10**18
        last = now - small_files.TRUSTED_AGE
        with mock.patch.object(time, "clock_gettime_ns", return_value=now):
            for times, settled in (
                ((last - 1, last - 1), True),
                ((last, 0), False),
                ((0, last), False),
                ((now + 10**12, 0), False),
            ):
                self.assertIs(is_settled((1, 2, 3, *times)), settled)

    def test_special_files(self):
        """What is not a regular file is refused, with its name."""
        for what, make in SPECIAL_FILES.items():
            with self.subTest(what=what):
                make(self.file)
                error = self.assertRaises(OSError, read_file, NAME, self.fd)
                self.assertEqual(error.filename, NAME)
                if " link" in what:
                    self.assertEqual(error.strerror, "is a symbolic link")
                (os.rmdir if what == "a directory" else os.unlink)(self.file)

    def test_too_large(self):
        """A file that is too large is refused before it is read."""
        self.patch(small_files, "MAX_OCTETS", 2)
        self.write(b"xxx")
        error = self.assertRaises(OSError, read_file, NAME, self.fd)
        self.assertIn("more than 2 octets", str(error))
        self.write(b"xx")
        self.assertEqual(read_file(NAME, self.fd)[0], b"xx")

    def test_permission(self):
        """An error of opening the file has its name."""
        with failing(os, "open", PermissionError(13, "denied"), lambda name, *_: name == NAME):
            error = self.assertRaises(OSError, read_file, NAME, self.fd)
        self.assertEqual(error.filename, NAME)

    def test_read_error(self):
        """So has an error of reading it, and the file is closed."""
        self.write(b"x")
        for call in ("fstat", "read"):
            with failing(os, call, OSError(5, "broken")):
                error = self.assertRaises(OSError, read_file, NAME, self.fd)
            self.assertEqual((error.filename, error.strerror), (NAME, "broken"))

    def replace(self, data):
        """Replace the file."""
        replace_file(NAME, NAME + b".new", data, self.fd)

    def test_replace(self):
        """A file is replaced whole, and an unfinished one is removed."""
        for data in (b"one", b"", b"two" * 100_000):
            with open(self.file + b".new", "wb") as unfinished:
                unfinished.write(b"unfinished")
            self.replace(data)
            self.assertEqual(read_file(NAME, self.fd)[0], data)
            self.assertEqual(os.listdir(self.path), [os.fsdecode(NAME)])

    def test_synced(self):
        """The contents are on disk before the file has its name, and then the directory is."""
        done = []
        real = os.rename

        def rename(*names, **options):
            real(*names, **options)
            done.append("rename")

        with (
            mock.patch.object(os, "fsync", lambda fd: done.append(fd == self.fd)),
            mock.patch.object(os, "rename", rename),
        ):
            self.replace(b"x")
        self.assertEqual(done, [False, "rename", True])

    def test_private(self):
        """A file that cannot be given away is for the server alone."""
        self.addCleanup(os.umask, os.umask(0))
        with mock.patch.object(small_files, "copy_ownership"):
            self.replace(b"x")
        self.assertEqual(os.stat(self.file).st_mode & 0o777, 0o600)

    def test_link_made_meanwhile(self):
        """A link that another program creates while a file is replaced is not followed."""
        with link_made_meanwhile(self, self.file + b".new"), self.assertRaises(OSError):
            self.replace(b"new")

    def test_not_replaced(self):
        """If that fails, the old file is there, and the error has the name."""
        self.write(b"old")
        for call in ("open", "fstat", "write", "fsync", "rename"):
            with failing(os, call, OSError(28, "full")):
                error = self.assertRaises(OSError, self.replace, b"new")
            self.assertEqual((error.filename, error.strerror), (NAME, "full"))
            self.assertEqual(read_file(NAME, self.fd)[0], b"old")
            self.assertEqual(os.listdir(self.path), [os.fsdecode(NAME)])
        os.mkdir(self.file + b".new")
        error = self.assertRaises(OSError, self.replace, b"new")
        self.assertEqual(error.filename, NAME + b".new")

    def test_not_synced(self):
        """If only the directory cannot be synced, the new file is there, and the error names it."""
        self.write(b"old")
        with failing(os, "fsync", OSError(5, "broken"), lambda fd: fd == self.fd):
            error = self.assertRaises(OSError, self.replace, b"new")
        self.assertEqual((error.filename, error.strerror), (NAME, "broken"))
        self.assertEqual(read_file(NAME, self.fd)[0], b"new")
        self.assertEqual(os.listdir(self.path), [os.fsdecode(NAME)])

    def test_not_found(self):
        """A file that cannot be found although the directory lists it is not taken for none."""
        missing = FileNotFoundError(errno.ENOENT, "No such file or directory")
        with failing(os, "open", missing):
            self.assertEqual(read_file(NAME, self.fd), (None, None))
            self.write(b"x")
            error = self.assertRaises(OSError, read_file, NAME, self.fd)
            self.assertEqual((error.errno, error.filename), (errno.ESTALE, NAME))
            self.assertEqual(error.strerror, os.strerror(errno.ESTALE))
            with failing(os, "listdir", OSError(5, "broken", self.fd)):
                error = self.assertRaises(OSError, read_file, NAME, self.fd)
        self.assertEqual((error.errno, error.filename), (errno.EIO, NAME))
        self.assertEqual(error.strerror, "broken")
