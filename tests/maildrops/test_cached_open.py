"""popserv.maildrops.cached_open: it opens what os.open opens, if it is cached."""

import contextlib
import errno
import os
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops import cached_open
from popserv.maildrops.cached_open import is_local_filesystem, open_cached
from tests.maildrops.maildir.harness import DIRECTORY, can_open_cached, watch_descriptors


class CachedOpenTests(SynchronousTestCase):
    """The kernel opens what it has cached, and follows links only on request."""

    def setUp(self):
        """Make a directory in another, and a link."""
        self.path = os.path.abspath(self.mktemp())
        os.makedirs(os.path.join(self.path, "a", "b"))
        os.symlink("a", os.path.join(self.path, "link"))
        watch_descriptors(self)
        self.here = os.open(self.path, DIRECTORY)
        self.addCleanup(os.close, self.here)
        if not can_open_cached(self.path):
            self.skipTest("open_cached is not supported here")

    def opened(self, name, **options):
        """Open a directory and return its inode, after checking that it is not inheritable."""
        # The kernel may fail with EAGAIN at any time, if another process renames something.
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
        """A relative or absolute path opens the same directory as with os.open."""
        inner = os.path.join(self.path, "a", "b")
        wanted = os.stat(inner).st_ino
        self.assertEqual(self.opened(b"a/b"), wanted)
        self.assertEqual(self.opened(os.fsencode(inner)), wanted)

    def test_links(self):
        """A link in any component is followed only on request."""
        wanted = os.stat(os.path.join(self.path, "a", "b")).st_ino
        self.assertEqual(self.opened(b"link/b", follow_symlinks=True), wanted)
        for name in (b"link", b"link/b"):
            refused = self.assertRaises(OSError, self.opened, name)
            self.assertEqual(refused.errno, errno.ELOOP)

    def test_refused(self):
        """A path that is missing or not a directory is an error."""
        os.mknod(os.path.join(self.path, "file"))
        for name in (b"nothing", b"a/nothing", b"file"):
            self.assertRaises(OSError, self.opened, name)

    def test_is_local_filesystem(self):
        """Only an open file on a known file system and platform is on a local file system."""
        self.assertTrue(is_local_filesystem(self.here))
        fd = os.open("/proc", DIRECTORY)
        self.addCleanup(os.close, fd)
        self.assertFalse(is_local_filesystem(fd))
        self.assertFalse(is_local_filesystem(-1))
        with mock.patch.object(cached_open, "_IS_SUPPORTED", False):
            self.assertFalse(is_local_filesystem(self.here))
