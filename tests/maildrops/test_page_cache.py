"""popserv.maildrops.page_cache: only what the page cache has is read."""

import os

from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops import page_cache
from popserv.maildrops.page_cache import read_start
from tests.maildrops.maildir.harness import failing, use_python


class PageCacheTests(SynchronousTestCase):
    """A file of six octets."""

    def setUp(self):
        """Open the file; not every file system supports RWF_NOWAIT."""
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(b"012345")
        self.fd = os.open(path, os.O_RDONLY)
        self.addCleanup(os.close, self.fd)
        real = os.preadv
        self.patch(os, "preadv", lambda fd, to, at, _flags: real(fd, to, at))
        use_python(self, page_cache, "read_part")

    def test_start(self):
        """The start may have fewer octets than are asked for."""
        self.assertEqual(read_start(self.fd, 4), b"0123")
        self.assertEqual(read_start(self.fd, 9, 2), b"2345")

    def test_part(self):
        """A part has all octets."""
        self.assertEqual(page_cache.read_part(self.fd, 2, 3), b"34")
        self.assertEqual(page_cache.read_part(self.fd, 2, 5), None)

    def test_not_cached(self):
        """What would have to be read from a disk is not read."""
        with failing(os, "preadv", BlockingIOError()):
            self.assertEqual(read_start(self.fd, 4), None)
            self.assertEqual(page_cache.read_part(self.fd, 4, 0), None)
