"""Locks of UNIX sockets that an earlier process has left."""

import gc
import os
import socket
import time
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory
from twisted.trial.unittest import TestCase

from popserv.listening import unix_locks
from popserv.listening.reactor import AddressFamilyReactor


class StaleLockTests(TestCase):
    """A UNIX socket whose server was killed."""

    def setUp(self):
        """Choose a path, which must be short."""
        self.path = f"/tmp/popserv-test-{os.getpid()}"
        self.lock = Path(f"{self.path}.lock")
        for each in (Path(self.path), self.lock):
            self.addCleanup(each.unlink, missing_ok=True)
        self.listening = AddressFamilyReactor(reactor)

    def leave(self, process):
        """Leave a socket and the lock of a process."""
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(self.path)
        self.leave_lock(process)

    def leave_lock(self, process):
        """Leave the lock of a process that was made some seconds ago."""
        self.lock.symlink_to(str(process))
        made = time.time() - 2
        os.utime(self.lock, (made, made), follow_symlinks=False)

    async def assert_listens(self, **options):
        """Check that a server can listen on the path, and leaves nothing."""
        port = self.listening.listenUNIX(self.path, Factory(), wantPID=1, **options)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.path)
        await port.stopListening()
        self.assertFalse(os.path.lexists(self.path) or os.path.lexists(self.lock))
        self.flushWarnings()  # Twisted compares the path as text and as bytes

    async def test_own_process_id(self):
        """A lock with the ID of this process, which has not made it, does not count."""
        self.leave(os.getpid())
        await self.assert_listens()

    async def test_no_socket(self):
        """The same holds if only the lock was left."""
        self.lock.symlink_to(str(os.getpid()))
        await self.assert_listens()

    async def test_ended_process(self):
        """A lock of a process that has ended does not count, as with Twisted itself."""
        self.leave(1 << 30)
        await self.assert_listens()

    async def test_another_process(self):
        """A lock of another process does not count either, which has the ID of one that ended."""
        self.leave(os.getppid())
        await self.assert_listens()
        self.leave_lock(os.getppid())
        await self.assert_listens()

    async def test_starting_server(self):
        """A lock that was made just now counts: its process may be about to listen."""
        for has_socket in (False, True):
            with socket.socket(socket.AF_UNIX) as other:
                if has_socket:
                    other.bind(self.path)
                self.lock.symlink_to(str(os.getppid()))
                self.assertRaises(
                    CannotListenError, self.listening.listenUNIX, self.path, Factory(), wantPID=1
                )
            self.assertEqual(os.path.lexists(self.path), has_socket)
            self.lock.unlink()

    async def test_other_server(self):
        """A lock of another process counts whose socket is open, also if too many clients wait."""
        for clients in (0, 1):
            with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as client:
                other.bind(self.path)
                self.leave_lock(os.getppid())
                other.listen(0)
                if clients:
                    client.connect(self.path)
                self.assertRaises(
                    CannotListenError, self.listening.listenUNIX, self.path, Factory(), wantPID=1
                )
            self.assertEqual(os.readlink(self.lock), str(os.getppid()))
            self.assertTrue(os.path.lexists(self.path))
            self.lock.unlink()
            os.unlink(self.path)

    async def test_other_system(self):
        """Elsewhere than on Linux, a lock of another process that runs counts."""
        self.patch(unix_locks.sys, "platform", "darwin")
        self.leave(os.getppid())
        self.assertRaises(
            CannotListenError, self.listening.listenUNIX, self.path, Factory(), wantPID=1
        )
        self.assertTrue(self.lock.is_symlink())
        self.lock.unlink()
        self.lock.symlink_to(str(os.getpid()))
        await self.assert_listens()

    async def test_other_file(self):
        """A file that is no socket stays."""
        Path(self.path).write_text("mine")
        self.leave_lock(os.getppid())
        self.assertRaises(
            CannotListenError, self.listening.listenUNIX, self.path, Factory(), wantPID=1
        )
        self.assertEqual(Path(self.path).read_text(), "mine")
        gc.collect()
        self.flushWarnings()  # Twisted does not close the socket that cannot listen

    async def test_used(self):
        """So does that of a socket which this process itself has opened."""
        port = self.listening.listenUNIX(self.path, Factory(), wantPID=1)
        self.assertRaises(
            CannotListenError, self.listening.listenUNIX, self.path, Factory(), wantPID=1
        )
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.path)
        await port.stopListening()
        self.flushWarnings()

    async def test_no_lock(self):
        """Without locks, nothing is removed."""
        self.leave(os.getpid())
        self.assertRaises(CannotListenError, self.listening.listenUNIX, self.path, Factory())
        self.assertTrue(self.lock.is_symlink())
        gc.collect()
        self.flushWarnings()  # Twisted does not close the socket that cannot listen
