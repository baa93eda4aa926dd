"""Tests of popserv.runtime.native_threads."""

import fcntl
import os
import sys
import termios
import threading
import time
from struct import calcsize
from unittest import mock

from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.interfaces import IReadDescriptor
from twisted.trial.unittest import SkipTest, TestCase
from zope.interface.verify import verifyObject

from popserv.errors import TryLater
from popserv.maildrops.maildir.files import stamp_of, unlink_unchanged
from popserv.runtime import native_threads, speedups
from popserv.runtime.file_credentials import acting_as, own
from popserv.runtime.native_threads import NativeThreads, prepare_job
from popserv.runtime.threads import BoundedThreadPool
from tests.runtime.harness import ANN


def octets_waiting(fd):
    """Return how many octets can be read from a pipe."""
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)


class Hashless:
    """A function that cannot be looked up in a dictionary."""

    __hash__ = None

    def __call__(self):
        """Return a number."""
        return 7


class NativeThreadsTests(TestCase):
    """Pools that remove files without the interpreter."""

    def setUp(self):
        """Make a Maildir with a message, and a pool whose threads end with the test."""
        if unlink_unchanged not in speedups.in_python:
            raise SkipTest("popserv._speedups is not built, or PURE_PYTHON is set")
        self.path = self.mktemp()
        os.makedirs(os.path.join(self.path, "new"))
        self.maildir_fd = os.open(self.path, os.O_RDONLY)
        self.addCleanup(os.close, self.maildir_fd)
        self.stops = []
        self.patch(reactor, "addSystemEventTrigger", lambda *trigger: self.stops.append(trigger))
        self.addCleanup(lambda: [stop() for _, _, stop in self.stops])
        self.pool = BoundedThreadPool("popserv-test", threads=2, backlog=20)
        self.python_threads = self.patch_counter(threading.Thread, "start")

    def patch_counter(self, owner, name):
        """Return a list to which each call of a method adds its first argument."""
        calls, method = [], getattr(owner, name)

        def call(first, *args):
            calls.append(first)
            return method(first, *args)

        self.patch(owner, name, call)
        return calls

    def write(self, name):
        """Write a message; return its path and stamp."""
        path = os.path.join(self.path, "new", name)
        with open(path, "wb") as file:
            file.write(b"x" * 9)
        return path, stamp_of(os.stat(path))

    def remove(self, name, stamp, folder=b"new"):
        """Remove a message in a thread of the pool."""
        arguments = ((name.encode(),), folder, (stamp,), self.maildir_fd, True)
        return self.pool.run(unlink_unchanged, *arguments)

    def names_of_threads(self):
        """Return the names of the threads that were started."""
        return [thread.name for thread in self.python_threads]

    async def test_remove(self):
        """A message is removed; meanwhile the reactor reads the results, and not afterwards."""
        path, stamp = self.write("1.a")
        done = self.remove("1.a", stamp)
        self.assertEqual(self.pool.unfinished, 1)
        native = self.pool._native
        self.assertIn(native, reactor.getReaders())
        self.assertEqual(await done, ([9], True))
        self.assertEqual(os.path.exists(path), False)
        self.assertEqual(self.pool.unfinished, 0)
        self.assertNotIn(native, reactor.getReaders())
        self.assertEqual(await self.remove("missing", 1), ([], False))
        self.assertEqual(self.names_of_threads(), ["popserv-test-native-0"])

    async def test_many(self):
        """Several jobs have their own results, from no more threads than the pool may have."""
        written = [self.write(f"{number}.a") for number in range(9)]
        done = [self.remove(f"{n}.a", stamp + n % 2) for n, (_, stamp) in enumerate(written)]
        self.assertEqual(self.pool.unfinished, 9)
        results = await gatherResults(done)
        self.assertEqual(results, [([], False) if n % 2 else ([9], True) for n in range(9)])
        self.assertEqual(len(self.python_threads), 2)

    async def test_many_results(self):
        """Results of many jobs are read together, each as a whole."""
        done = [self.remove("missing", 1) for _ in range(20)]
        finished = self.pool._native.fileno()
        while octets_waiting(finished) < 20 * calcsize("P"):
            time.sleep(0.001)
        self.assertEqual(await gatherResults(done), [([], False)] * 20)

    async def test_failure(self):
        """An error of the function is one of the Deferred."""
        with mock.patch.object(native_threads, "_in_c") as in_c:
            in_c.configure_mock(**vars(speedups.SPEEDUPS))
            in_c.job_result = mock.Mock(side_effect=OSError(5, "Input/output error"))
            _, stamp = self.write("1.a")
            done = self.remove("1.a", stamp)
            with self.assertRaises(OSError):
                await done
        self.assertEqual(self.pool.unfinished, 0)

    def test_wrong_arguments(self):
        """Arguments that do not fit are an error at once."""
        self.assertRaises(ValueError, self.remove, "1.a\0", 1)
        self.assertEqual(self.pool.unfinished, 0)

    async def test_backlog(self):
        """Jobs of both kinds count for the backlog."""
        unblock = threading.Event()
        self.addCleanup(unblock.set)
        waiting = [self.pool.run(unblock.wait) for _ in range(17)]
        done = [self.remove("missing", 1) for _ in range(3)]
        self.assertEqual(self.pool.unfinished, 20)
        self.assertRaises(TryLater, self.remove, "missing", 1)
        self.assertRaises(TryLater, self.pool.run, int)
        unblock.set()
        await gatherResults([*waiting, *done])

    async def test_no_descriptors(self):
        """Without descriptors for it, a usual thread removes the files."""
        pipe = os.pipe()
        error = OSError(24, "too many open files")
        for pipes in ([error], [pipe, error]):
            _, stamp = self.write("1.a")
            with mock.patch.object(os, "pipe", side_effect=pipes):
                done = self.remove("1.a", stamp)
            self.assertEqual(await done, ([9], True))
        self.assert_closed(pipe)
        self.assertEqual(self.names_of_threads(), ["popserv-test-0"])

    async def test_no_native_thread(self):
        """If the first thread in C cannot be started, a usual one removes the files."""
        start = threading.Thread.start

        def fail(thread):
            if "native" in thread.name:
                raise RuntimeError("can't start new thread")
            start(thread)

        _, stamp = self.write("1.a")
        with mock.patch.object(threading.Thread, "start", fail):
            done = self.remove("1.a", stamp)
        self.assertEqual(await done, ([9], True))
        self.assertEqual(self.pool.unfinished, 0)

    def assert_closed(self, descriptors):
        """Assert that descriptors are closed."""
        for fd in descriptors:
            self.assertRaises(OSError, os.set_blocking, fd, False)

    async def test_other_user(self):
        """Threads in C cannot have the file credentials of a user."""
        if os.geteuid():
            raise SkipTest("only root can access files as another user")
        own()
        with acting_as(ANN):
            done = self.remove("missing", 1)
        self.assertEqual(await done, ([], False))
        self.assertEqual(self.names_of_threads(), ["popserv-test-0"])

    def test_no_thread(self):
        """If a second thread cannot be started, the first one does the jobs."""
        first = self.remove("missing", 1)
        with mock.patch.object(threading.Thread, "start", side_effect=RuntimeError):
            second = self.remove("missing", 1)
        self.assertEqual(self.pool.unfinished, 2)
        return gatherResults([first, second])

    def test_stop(self):
        """At shutdown the unfinished jobs end first, and what follows them; then none is begun."""
        written = [self.write(f"{number}.a") for number in range(9)]
        done = [self.remove(f"{n}.a", stamp) for n, (_, stamp) in enumerate(written)]
        followed = []
        done[0].addCallback(lambda result: (self.pool.run(followed.append, 1), result)[1])
        native = self.pool._native
        (phase, event, stop) = self.stops.pop()
        self.assertEqual((phase, event), ("during", "shutdown"))
        joined = self.patch_counter(threading.Thread, "join")
        stop()
        self.assertEqual(joined, self.python_threads)
        self.assertEqual([self.successResultOf(each) for each in done], [([9], True)] * 9)
        self.assert_closed((*native._jobs, *native._finished))
        self.assertEqual([thread.is_alive() for thread in self.python_threads], [False] * 3)
        self.assertEqual(followed, [1])
        self.assertEqual(self.stops, [])
        self.assertRaises(TryLater, self.remove, "missing", 1)
        self.assertRaises(TryLater, self.pool.run, int)
        self.assertRaises(RuntimeError, native.run, None)

    async def test_no_reader(self):
        """A job that cannot be passed on, or not heard of, is done by a usual thread alone."""
        error = OSError(28, "no space")
        for owner, name in ((reactor, "addReader"), (os, "write")):
            _, stamp = self.write("1.a")
            with mock.patch.object(owner, name, side_effect=error):
                done = self.remove("1.a", stamp)
            self.assertNotIn(self.pool._native, reactor.getReaders())
            self.assertEqual(await done, ([9], True))
            self.assertEqual(self.pool.unfinished, 0)
            self.assertEqual(await self.remove("missing", 1), ([], False))

    async def test_not_waited_for(self):
        """A pool whose jobs may be cut off has no threads in C."""
        self.pool = BoundedThreadPool("popserv-test", threads=1, wait_at_shutdown=False)
        self.addCleanup(self.pool._stop)
        self.assertEqual(await self.remove("missing", 1), ([], False))
        self.assertEqual(self.names_of_threads(), ["popserv-test-0"])

    def test_other_functions(self):
        """Any other function needs the interpreter."""
        in_python = speedups.in_python[unlink_unchanged]
        for function in (int, len, Hashless(), in_python, speedups.SPEEDUPS.split_line):
            self.assertIsNone(prepare_job(function, ()))

    def test_interface(self):
        """They are a descriptor for the reactor."""
        native = NativeThreads("popserv-test", 1, reactor)
        self.addCleanup(native.stop)
        verifyObject(IReadDescriptor, native)
        self.assertEqual(native.logPrefix(), "popserv-test")
        native.connectionLost(None)
