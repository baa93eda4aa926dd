"""popserv.maildrops.page_cache: only what the page cache has is read."""

import errno
import os
from importlib.util import find_spec, module_from_spec
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops import page_cache
from popserv.maildrops.page_cache import OPEN_FLAGS, read_start
from popserv.runtime.speedups import in_python
from tests.maildrops.maildir.harness import failing, use_python, watch_descriptors


class PageCacheTests(SynchronousTestCase):
    """A file of six octets."""

    def setUp(self):
        """Open the file; not every file system supports RWF_NOWAIT."""
        watch_descriptors(self)
        self.path = self.mktemp()
        with open(self.path, "wb") as file:
            file.write(b"012345")
        self.fd = os.open(self.path, os.O_RDONLY)
        self.addCleanup(os.close, self.fd)
        real = os.preadv
        self.patch(os, "preadv", lambda fd, to, at, _flags: real(fd, to, at))
        use_python(self, page_cache, "read_part", "read_cached_file")

    def test_start(self):
        """The start may have fewer octets than are asked for."""
        for _ in range(2):
            self.assertEqual(read_start(self.fd, 4), b"0123")
        self.assertEqual(read_start(self.fd, 9, 2), b"2345")

    def test_part(self):
        """A part has all octets."""
        self.assertEqual(page_cache.read_part(self.fd, 2, 3), b"34")
        self.assertEqual(page_cache.read_part(self.fd, 2, 5), None)

    def test_cached_file(self):
        """The start of a file is read by its name; one that is missing has none."""
        folder = os.open(os.path.dirname(self.path), os.O_RDONLY)
        self.addCleanup(os.close, folder)
        name = os.fsencode(os.path.basename(self.path))
        self.assertEqual(page_cache.read_cached_file(name, folder, 4), b"0123")
        self.assertIsNone(page_cache.read_cached_file(b"missing", folder, 4))

    def test_not_cached(self):
        """What would have to be read from a disk is not read."""
        with failing(os, "preadv", BlockingIOError()):
            self.assertEqual(read_start(self.fd, 4), None)
            self.assertEqual(page_cache.read_part(self.fd, 4, 0), None)


class SystemTests(SynchronousTestCase):
    """What the system does."""

    def test_open_flags(self):
        """A link is not followed, and a FIFO without a writer does not block."""
        for make, name in ((os.mkfifo, "fifo"), (lambda name: os.symlink("fifo", name), "link")):
            make(name)
            self.addCleanup(os.unlink, name)
        os.close(os.open("fifo", OPEN_FLAGS))
        refused = self.assertRaises(OSError, os.open, "link", OPEN_FLAGS)
        self.assertEqual(refused.errno, errno.ELOOP)

    def test_no_flag(self):
        """On a system without RWF_NOWAIT nothing is read, and a thread has to."""
        path = self.mktemp()
        with open(path, "wb+") as file, mock.patch.dict(vars(os)), mock.patch.dict(in_python):
            file.write(b"012345")
            file.flush()
            vars(os).pop("RWF_NOWAIT", None)
            # A module of its own, whose functions no other test is to find.
            spec = find_spec(page_cache.__name__)
            module = module_from_spec(spec)
            spec.loader.exec_module(module)
            self.assertIsNone(module.read_start(file.fileno(), 4))
