"""maildir.cached_open: what is opened at once is what os.open would have opened."""

import contextlib
import errno
import os
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.maildir import cached_open
from popserv.maildrops.maildir.cached_open import is_local_filesystem, open_cached
from tests.maildrops.maildir.test_layout import watch_descriptors

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def can_open_cached(path):
    """Tell whether this kernel and this file system know how."""
    try:
        fd = open_cached(os.fsencode(path), DIRECTORY, -1)
    except OSError:
        return False
    try:
        return is_local_filesystem(fd)
    finally:
        os.close(fd)


class WarmTests(SynchronousTestCase):
    """The kernel opens what it has in memory, and never through a link unasked."""

    def setUp(self):
        """Make a directory in one, and a link to it."""
        self.path = os.path.abspath(self.mktemp())
        os.makedirs(os.path.join(self.path, "a", "b"))
        os.symlink("a", os.path.join(self.path, "link"))
        watch_descriptors(self)
        self.here = os.open(self.path, DIRECTORY)
        self.addCleanup(os.close, self.here)
        if not can_open_cached(self.path):
            self.skipTest("not for this system")

    def opened(self, name, **options):
        """Open a directory, and return its inode; it is inherited by no program."""
        # The kernel may shrug at any time, if somebody else renames something.
        for _ in range(100):
            with contextlib.suppress(BlockingIOError):
                fd = open_cached(name, DIRECTORY, self.here, **options)
                break
            os.stat(name, dir_fd=self.here)
        try:
            self.assertFalse(os.get_inheritable(fd))
            return os.fstat(fd).st_ino
        finally:
            os.close(fd)

    def test_same(self):
        """A name leads where it always leads, for the directory given or for none."""
        inner = os.path.join(self.path, "a", "b")
        wanted = os.stat(inner).st_ino
        self.assertEqual(self.opened(b"a/b"), wanted)
        self.assertEqual(self.opened(os.fsencode(inner)), wanted)

    def test_links(self):
        """A link is followed only if that is asked for, wherever on the way it is."""
        wanted = os.stat(os.path.join(self.path, "a", "b")).st_ino
        self.assertEqual(self.opened(b"link/b", follow_symlinks=True), wanted)
        for name in (b"link", b"link/b"):
            refused = self.assertRaises(OSError, self.opened, name)
            self.assertEqual(refused.errno, errno.ELOOP)

    def test_refused(self):
        """What is not there, or no directory, is an error."""
        os.mknod(os.path.join(self.path, "file"))
        for name in (b"nothing", b"a/nothing", b"file"):
            self.assertRaises(OSError, self.opened, name)

    def test_never_asks(self):
        """Neither what is no disk is thought local, nor what is not open, nor a strange system."""
        self.assertTrue(is_local_filesystem(self.here))
        fd = os.open("/proc", DIRECTORY)
        self.addCleanup(os.close, fd)
        self.assertFalse(is_local_filesystem(fd))
        self.assertFalse(is_local_filesystem(-1))
        with mock.patch.object(cached_open, "_IS_SUPPORTED", False):
            self.assertFalse(is_local_filesystem(self.here))
