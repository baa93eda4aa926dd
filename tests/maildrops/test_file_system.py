"""Tests of popserv.maildrops.file_system."""

import os

from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops import file_system
from popserv.maildrops.file_system import diagnose_file_system
from tests.doctor.harness import codes, open_directory


class Status:
    """The status of a file system, with room in it."""

    f_flag = 0
    f_frsize = 4096
    f_bavail = (100 << 20) // 4096
    f_files = 10**6
    f_favail = 10_000

    def __init__(self, **values):
        vars(self).update(values)


class FileSystemTests(SynchronousTestCase):
    """The file system of a store."""

    def codes(self, **values):
        """Return what is found of a file system with these values."""
        self.patch(file_system.os, "statvfs", lambda path: Status(**values))
        return codes(diagnose_file_system(b"/mail"))

    def test_right(self):
        """A file system with enough room has nothing wrong with it, nor has this one."""
        self.assertEqual(self.codes(), [])
        self.assertEqual(self.codes(f_files=0, f_favail=0), [])

    def test_room(self):
        """Little room is a warning, and none an error."""
        self.assertEqual(self.codes(f_bavail=Status.f_bavail - 1), ["w disk-full"])
        self.assertEqual(self.codes(f_bavail=0), ["e disk-full"])

    def test_text(self):
        """The text tells how much room there is."""
        self.patch(file_system.os, "statvfs", lambda path: Status(f_bavail=1000, f_favail=7))
        disk, inodes = diagnose_file_system(b"/mail")
        self.assertTrue(disk.what.startswith("3 MiB are free: "), disk)
        self.assertTrue(inodes.what.startswith("7 inodes are free: "), inodes)

    def test_inodes(self):
        """So are few inodes, and none."""
        self.assertEqual(self.codes(f_favail=9_999), ["w inodes"])
        self.assertEqual(self.codes(f_favail=0), ["e inodes"])

    def test_read_only(self):
        """A read-only file system is an error, such as sysfs in a container."""
        self.assertEqual(self.codes(f_flag=os.ST_RDONLY), ["e read-only"])

    def test_missing(self):
        """A path that cannot be reached is an error."""
        path = open_directory(self) / "missing"
        self.assertEqual(codes(diagnose_file_system(bytes(path))), ["e directory"])
