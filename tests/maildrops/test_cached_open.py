"""popserv.maildrops.cached_open: it opens what os.open opens, if it is cached."""

import contextlib
import errno
import os
import re
import struct
import sys
from importlib.util import find_spec, module_from_spec
from types import SimpleNamespace
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops import cached_open
from popserv.maildrops.cached_open import is_local_filesystem, open_cached
from tests.maildrops.maildir.harness import DIRECTORY, watch_descriptors


def has_resolve_cached():
    """Return whether the kernel has RESOLVE_CACHED: Linux from version 5.12."""
    version = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return sys.platform == "linux" and tuple(map(int, version.groups())) >= (5, 12)


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
        if not (has_resolve_cached() and is_local_filesystem(self.here)):
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

    def test_mounts(self):
        """A path leads to other file systems."""
        for options in ({}, {"follow_symlinks": True}):
            self.assertEqual(self.opened(b"/proc", **options), os.stat("/proc").st_ino)

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

    def test_descriptor(self):
        """Any descriptor is returned, also that of standard input, if the process has closed it."""
        with mock.patch.object(cached_open, "_SYSCALL", return_value=0):
            self.assertEqual(open_cached(b"a", DIRECTORY, self.here), 0)


class LocalFilesystemTests(SynchronousTestCase):
    """Whether a file can be opened and locked without a server or a daemon."""

    def setUp(self):
        """Create a file in memory."""
        if sys.platform != "linux":
            self.skipTest("it has no openat2")
        self.file = os.memfd_create("popserv")
        self.addCleanup(os.close, self.file)

    def test_open_files(self):
        """A file in memory is local; /proc is not known to be, nor is what is not open."""
        self.assertIs(is_local_filesystem(self.file), True)
        fd = os.open("/proc", DIRECTORY)
        self.addCleanup(os.close, fd)
        self.assertFalse(is_local_filesystem(fd))
        self.assertFalse(is_local_filesystem(-1))

    def test_machines(self):
        """Only on Linux, and on machines whose system calls are known, a file is local."""
        for platform, machine, expected in (
            ("linux", "x86_64", True),
            ("linux", "aarch64", True),
            ("linux", "riscv64", True),
            ("linux", "s390x", False),
            ("darwin", "x86_64", False),
        ):
            with (
                mock.patch.object(sys, "platform", platform),
                mock.patch.object(os, "uname", lambda it=machine: SimpleNamespace(machine=it)),
            ):
                spec = find_spec(cached_open.__name__)
                module = module_from_spec(spec)
                spec.loader.exec_module(module)
            self.assertEqual(module.is_local_filesystem(self.file), expected, machine)

    def test_types(self):
        """File systems on disks of this machine are local; those of servers and FUSE are not."""
        for name, number, expected in (
            ("ext4", 0xEF53, True),
            ("XFS", 0x58465342, True),
            ("Btrfs", 0x9123683E, True),
            ("ZFS", 0x2FC12FC1, True),
            ("F2FS", 0xF2F52010, True),
            ("tmpfs", 0x01021994, True),
            ("overlayfs", 0x794C7630, True),
            ("NFS", 0x6969, False),
            ("SMB", 0xFE534D42, False),
            ("CephFS", 0x00C36400, False),
            ("FUSE", 0x65735546, False),
        ):

            def fstatfs(_fd, status, number=number):
                # struct statfs of machines with 64 bits: the type, and what does not matter.
                status[:120] = struct.pack("<Q112s", number, b"\xff" * 112)
                return 0

            with mock.patch.object(cached_open, "_FSTATFS", fstatfs):
                self.assertEqual(is_local_filesystem(self.file), expected, name)
