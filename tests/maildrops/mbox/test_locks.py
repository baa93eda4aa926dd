"""popserv.maildrops.mbox.locks: fcntl(2), then a dotlock, and neither if one is taken."""

import errno
import fcntl
import os
import subprocess
import sys
import time
from unittest import mock

from twisted.internet.defer import succeed
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.mbox import locks
from popserv.maildrops.mbox.locks import FileLock, FileLocked, retry_while_locked
from popserv.runtime.permissions import this_user
from tests.maildrops.maildir.harness import failing, result, watch_descriptors

TRY_TO_LOCK = """
import fcntl, sys
with open(sys.argv[1], "rb+") as file:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
"""
"""What any other program does, which has locks of the process and not of the open file."""


class LockTests(SynchronousTestCase):
    """A file, and another program that wants it."""

    def setUp(self):
        """Make the file."""
        self.root = os.path.abspath(self.mktemp())
        os.makedirs(self.root)
        self.path = os.path.join(self.root, "ann")
        self.dotlock = self.path + ".lock"
        with open(self.path, "wb"):
            pass
        watch_descriptors(self)
        self.parent = os.open(self.root, os.O_RDONLY)
        self.addCleanup(os.close, self.parent)
        self.fd = os.open(self.path, os.O_RDWR)
        self.addCleanup(os.close, self.fd)
        self.lock = FileLock(self.fd, self.parent, b"ann")

    def write_dotlock(self, contents, age=0):
        """Make a dotlock of another program."""
        with open(self.dotlock, "wb") as file:
            file.write(contents)
        os.utime(self.dotlock, (time.time() - age,) * 2)

    def other_can_lock(self):
        """Return whether another process gets the lock of fcntl."""
        command = [sys.executable, "-c", TRY_TO_LOCK, self.path]
        return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0

    def test_both(self):
        """Both locks are taken and released; the dotlock names the process."""
        self.lock.acquire()
        self.assertFalse(self.other_can_lock())
        with open(self.dotlock, "rb") as file:
            self.assertEqual(file.read(), b"%d\n" % os.getpid())
            self.assertEqual(os.fstat(file.fileno()).st_mode & 0o777, 0o644)
        self.lock.release()
        self.assertTrue(self.other_can_lock())
        self.assertFalse(os.path.exists(self.dotlock))

    def test_locks_of_the_process(self):
        """On a system without locks of the open file, those of the process are used."""
        self.patch(locks, "_SET_LOCK", None)
        self.lock.acquire()
        self.assertFalse(self.other_can_lock())
        self.lock.release()
        self.assertTrue(self.other_can_lock())
        with open(self.path, "rb") as file:
            lock = FileLock(file.fileno(), self.parent, b"ann")
            lock.acquire()
            self.assertFalse(self.other_can_lock())
            lock.release()

    def test_octets(self):
        """Every octet of the file is locked, and those that another program could append."""
        self.lock.acquire()
        with open(self.path, "rb+") as file:
            for offset in (0, 1, 1 << 40):
                with self.assertRaises(BlockingIOError):
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
        self.lock.release()

    def test_other_session(self):
        """Another session of this process that closes the file does not release the lock."""
        self.lock.acquire()
        fd = os.open(self.path, os.O_RDWR)
        with self.assertRaises(FileLocked):
            FileLock(fd, self.parent, b"ann").acquire()
        os.close(fd)
        self.assertFalse(self.other_can_lock())
        self.lock.release()

    def test_fcntl_taken(self):
        """If another program has the lock of fcntl, no dotlock is made."""
        with open(self.path, "rb+") as file:
            for kind in (fcntl.LOCK_EX, fcntl.LOCK_SH):
                fcntl.lockf(file, kind)
                with self.assertRaises(FileLocked) as locked:
                    self.lock.acquire()
                self.assertIn(f"{self.path} with fcntl", str(locked.exception))
                self.assertEqual(os.listdir(self.root), ["ann"])

    def test_dotlock_taken(self):
        """If there is a dotlock, the lock of fcntl is released again, and the dotlock stays."""
        for contents in (
            *(b"%d\n" % os.getppid(), b"", b"0", b"1", b"x", b"9" * 19),
            # Invalid process numbers, and text that is no number.
            *(b"%d" % (1 << 31), b"-1", b"%dX" % ((1 << 31) - 1)),
        ):
            self.write_dotlock(contents)
            with self.assertRaises(FileLocked) as locked:
                self.lock.acquire()
            self.assertIn(self.dotlock, str(locked.exception))
            self.assertTrue(self.other_can_lock())
            self.assertTrue(os.path.exists(self.dotlock))

    def test_stale(self):
        """A dotlock of a process that has ended, or that is old, is removed."""
        process = subprocess.Popen([sys.executable, "-c", ""])
        process.wait()
        for contents, age in (
            *((b"%d\n" % process.pid, 0), (b"\0 %d" % ((1 << 31) - 1), 0)),
            *((b"", 301), (b"0", 301), (b"1", 301)),
            # In a container, the server before this one may have had the same number.
            (b"%d\n" % os.getpid(), 0),
        ):
            self.write_dotlock(contents, age)
            observer = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
            self.lock.acquire()
            self.assertEqual(os.stat(self.dotlock).st_mode & 0o777, 0o644)
            self.lock.release()
            self.assertFalse(os.path.exists(self.dotlock))
            [event] = observer
            self.assertEqual(formatEvent(event), "stale dotlock removed: ann.lock")
            globalLogPublisher.removeObserver(observer)

    def test_stale_replaced(self):
        """A stale dotlock that another program replaces is not taken from that one."""
        real = os.stat

        def link():
            os.rename(self.dotlock, self.path + ".old")
            os.symlink("ann.old", self.dotlock)

        for replace in (lambda: self.write_dotlock(b"", 1), link):
            self.write_dotlock(b"", 400)

            def stat(*args, replace=replace, **kwargs):
                replace()
                return real(*args, **kwargs)

            with mock.patch.object(os, "stat", stat), self.assertRaises(FileLocked):
                self.lock.acquire()
        self.assertTrue(os.path.islink(self.dotlock))

    def test_other_session_of_replaced(self):
        """A dotlock of this process is not stale, although another session's file is new."""
        self.lock.acquire()
        os.rename(self.path, self.path + ".old")
        with open(self.path, "wb"):
            pass
        fd = os.open(self.path, os.O_RDWR)
        other = FileLock(fd, self.parent, b"ann")
        with self.assertRaises(FileLocked):
            other.acquire()
        self.lock.release()
        other.acquire()
        with self.assertRaises(FileLocked):
            self.lock.acquire()
        other.release()
        self.lock.acquire()
        self.lock.release()
        os.close(fd)

    def test_complete(self):
        """A dotlock has the process in it from its first moment on.

        A server that is killed leaves none of which nobody knows whether it is stale.
        """
        events = []
        real_write, real_link = os.write, os.link

        def write(fd, octets):
            events.append(os.listdir(self.root))
            return real_write(fd, octets)

        def link(*args, **kwargs):
            real_link(*args, **kwargs)
            with open(self.dotlock, "rb") as file:
                events.append(file.read())

        self.patch(os, "write", write)
        self.patch(os, "link", link)
        self.lock.acquire()
        self.assertEqual(events, [["ann"], b"%d\n" % os.getpid()])
        self.lock.release()
        self.assertEqual(os.listdir(self.root), ["ann"])

    def test_not_linked(self):
        """Where no file can be without a name, or cannot get one, the dotlock is created first."""
        error = OSError(errno.EOPNOTSUPP, "not supported")
        unnamed = failing(os, "open", error, lambda name, *_, **__: name == b".")
        missing = failing(os, "link", FileNotFoundError(errno.ENOENT, "no /proc"))
        for impossible in (unnamed, missing):
            with impossible:
                self.lock.acquire()
                with open(self.dotlock, "rb") as file:
                    self.assertEqual(file.read(), b"%d\n" % os.getpid())
                    self.assertEqual(os.fstat(file.fileno()).st_mode & 0o777, 0o644)
                with self.assertRaises(FileLocked):
                    FileLock(self.fd, self.parent, b"ann").acquire()
                self.lock.release()
                self.assertEqual(os.listdir(self.root), ["ann"])

    def test_vanished(self):
        """A dotlock that vanishes while it is examined is no obstacle."""
        real = os.open

        def open_(name, flags, *args, **kwargs):
            if name == b"ann.lock" and not flags & os.O_CREAT:
                os.unlink(self.dotlock)
            return real(name, flags, *args, **kwargs)

        self.write_dotlock(b"1")
        self.patch(os, "open", open_)
        self.lock.acquire()
        self.lock.release()

    def test_no_file(self):
        """A dotlock counts even if unreadable; no link is followed, and no FIFO waited for."""
        for make in (
            lambda: os.symlink("nowhere", self.dotlock),
            lambda: os.symlink("ann", self.dotlock),
            lambda: os.mkfifo(self.dotlock),
        ):
            make()
            reading = failing(os, "read", AssertionError, lambda *_: os.path.islink(self.dotlock))
            with reading, self.assertRaises(FileLocked):
                self.lock.acquire()
            os.unlink(self.dotlock)
        self.write_dotlock(b"1")
        with failing(os, "read", OSError(errno.EIO, "I/O")), self.assertRaises(FileLocked):
            self.lock.acquire()

    def test_another_users_process(self):
        """A process that this user may not signal exists."""
        self.write_dotlock(b"1")
        error = PermissionError(errno.EPERM, "not permitted")
        with failing(os, "kill", error), self.assertRaises(FileLocked):
            self.lock.acquire()

    def test_unwritable(self):
        """Without permission or room for a dotlock, the lock of fcntl is enough.

        The log says so once for each directory and reason, with the remedy.
        """
        observer = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        locks._log_no_dotlock.cache_clear()
        for code in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT):
            with failing(os, "open", OSError(code, "denied")):
                self.lock.acquire()
            self.assertFalse(self.other_can_lock())
            self.lock.touch()
            self.lock.release()
            self.assertTrue(self.other_can_lock())
        lines = [formatEvent(event) for event in observer]
        user = this_user()
        self.assertEqual(
            [line.partition("; ")[0] for line in lines],
            [
                f"cannot create dotlocks in {self.root}: denied{end}"
                for end in (f" for user {user}", "")
            ],
        )
        self.assertIn("such as with --gid mail", lines[0])

    def test_not_released(self):
        """A dotlock that cannot be removed, or looked at, is stale; that of fcntl is released."""
        error = OSError(errno.EIO, "I/O error")
        for name in ("unlink", "stat", "fstat"):
            self.lock.acquire()
            with failing(os, name, error), self.assertRaises(OSError):
                self.lock.release()
            self.assertTrue(self.other_can_lock())
            self.assertTrue(os.path.exists(self.dotlock))
        self.lock.acquire()
        self.lock.release()
        self.assertFalse(os.path.exists(self.dotlock))

    def test_not_released_of_another(self):
        """The dotlock of another program, which cannot be looked at, stays as it is."""
        self.lock.acquire()
        os.rename(self.dotlock, self.path + ".old")
        self.write_dotlock(b"1", age=1)
        before = os.stat(self.dotlock).st_mtime_ns
        error = OSError(errno.EIO, "I/O error")
        with failing(os, "stat", error), self.assertRaises(OSError):
            self.lock.release()
        self.assertEqual(os.stat(self.dotlock).st_mtime_ns, before)

    def test_full_disk(self):
        """A dotlock without a process in it is one all the same."""
        with failing(os, "write", OSError(errno.ENOSPC, "full")):
            self.lock.acquire()
        self.assertTrue(os.path.exists(self.dotlock))
        self.lock.release()
        self.assertFalse(os.path.exists(self.dotlock))

    def test_other_errors(self):
        """Any other error is raised, and nothing stays locked."""
        for owner, name in ((os, "open"), (fcntl, "fcntl")):
            error = OSError(errno.EIO, "I/O error")
            with failing(owner, name, error), self.assertRaises(OSError):
                self.lock.acquire()
        error = OSError(errno.ENOLCK, "no locks")
        with (
            failing(fcntl, "fcntl", error, lambda *args: len(args) == 3),
            self.assertRaises(OSError),
        ):
            self.lock.acquire()
        self.assertTrue(self.other_can_lock())

    def test_read_only(self):
        """A file that is open for reading gets a shared lock."""
        fd = os.open(self.path, os.O_RDONLY)
        self.addCleanup(os.close, fd)
        lock = FileLock(fd, self.parent, b"ann")
        lock.acquire()
        self.assertFalse(self.other_can_lock())
        lock.release()

    def test_touch(self):
        """The dotlock is touched from time to time, so that it does not become stale."""
        now = 1000.0
        self.patch(locks, "time", mock.Mock(wraps=time, monotonic=lambda: now))
        self.lock.acquire()
        for later, is_touched in ((59, False), (1, True), (59, False), (1, True)):
            now += later
            os.utime(self.dotlock, (1, 1))
            self.lock.touch()
            self.assertEqual(os.stat(self.dotlock).st_mtime != 1, is_touched)
        os.unlink(self.dotlock)
        now += 60
        self.lock.touch()
        self.lock.release()

    def test_release_of_another(self):
        """A dotlock that another program has put in place of this one is not removed."""
        self.lock.acquire()
        os.unlink(self.dotlock)
        self.lock.release()
        for replace in (
            lambda: self.write_dotlock(b"1"),
            lambda: os.symlink("ann.old", self.dotlock),
        ):
            self.lock.acquire()
            os.rename(self.dotlock, self.path + ".old")
            replace()
            self.lock.release()
            self.assertTrue(os.path.exists(self.dotlock))
            os.unlink(self.dotlock)


class RetryTests(SynchronousTestCase):
    """Waiting for a lock."""

    def setUp(self):
        """Record the waiting."""
        self.waited = []

    def retry(self, locked_times):
        """Call a function that finds the lock taken some times."""
        left = iter(range(locked_times))

        def function(argument):
            if next(left, None) is not None:
                raise FileLocked
            return argument

        async def run(function, *args):
            return function(*args)

        def wait(seconds):
            self.waited.append(seconds)
            return succeed(None)

        return result(retry_while_locked(run, wait, function, "x"))

    def test_at_once(self):
        """A function that gets the lock is called once."""
        self.assertEqual(self.retry(0), "x")
        self.assertEqual(self.waited, [])

    def test_later(self):
        """Otherwise it is called again, until it gets the lock."""
        self.assertEqual(self.retry(3), "x")
        self.assertEqual(self.waited, [0.05, 0.1, 0.2])

    def test_never(self):
        """After about ten seconds it is not."""
        with self.assertRaises(FileLocked):
            self.retry(999)
        self.assertTrue(9 < sum(self.waited) < 11)
