"""popserv.maildrops.mbox.spool: how a user's file is opened and created."""

import errno
import os
from unittest import mock

from popserv.errors import MaildropUnavailable
from popserv.maildrops.layout import Layout
from popserv.maildrops.mbox import MboxMaildrops
from popserv.maildrops.mbox.spool import create_file
from tests.maildrops.maildir.harness import failing, result, run_inline
from tests.maildrops.mbox.harness import MboxCase, mbox_of, wait_not


class OpeningTests(MboxCase):
    """Files that exist."""

    def read_only(self):
        """Let files be opened for reading only."""
        denied = PermissionError(errno.EACCES, "denied")
        return failing(os, "open", denied, lambda _, flags, *rest: flags & os.O_RDWR)

    def test_directories(self):
        """A user's file may have any name, in a directory of the user's."""
        self.maildrops = MboxMaildrops(f"{self.root}/%u/mbox", run=run_inline, wait=wait_not)
        os.mkdir(self.path)
        self.path += "/mbox"
        self.write(mbox_of([b"1\n", b"2\n"]))
        self.remove(0)
        self.assertEqual(self.read_all(), [b"2\n"])

    def test_read_only_times(self):
        """Reading does not change the time of access, even without permission to write."""
        self.write(mbox_of([b"x\n"]))
        os.utime(self.path, ns=(10**9, 2 * 10**9))
        with self.read_only():
            self.assertEqual(self.read_all(), [b"x\n"])
        self.assertEqual(os.stat(self.path).st_atime_ns, 10**9)

    def test_read_only_fifo(self):
        """A FIFO that may be read only is not waited for."""
        os.mkfifo(self.path)
        with self.read_only(), self.assertRaises(MaildropUnavailable):
            result(self.maildrops.open_maildrop(b"ann"))


class CreatingTests(MboxCase):
    """Files that are created for deliveries."""

    def test_synced(self):
        """The name of a new file is on disk when it can be used."""
        directory = os.stat(self.root).st_ino
        synced = []
        with mock.patch.object(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino)):
            create_file(Layout(self.root), b"ann")
        self.assertIn(directory, synced)

    def test_not_given(self):
        """Without permission to change its owner, it is for that of this process alone."""
        denied = PermissionError(errno.EPERM, "not permitted")
        with failing(os, "fchown", denied):
            create_file(Layout(self.root), b"ann")
        self.assertEqual(os.stat(self.path).st_mode & 0o777, 0o600)
