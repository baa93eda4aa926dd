"""Tests of popserv.runtime.threads."""

import contextlib
import gc
import os
import threading
import time
import weakref
from unittest import mock

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, gatherResults
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from popserv.errors import TryLater
from popserv.runtime import threads
from popserv.runtime.file_credentials import acting_as, own
from popserv.runtime.threads import BoundedThreadPool, thread_jobs
from tests.runtime.harness import ANN, BOB, in_kernel


class Work:
    """A function that may fail."""

    def __init__(self, fails):
        self._fails = fails

    def __call__(self, argument):
        """Return the argument."""
        return 1 // (not self._fails) and argument


class BoundedThreadPoolTests(TestCase):
    """A pool is bounded, starts late, and runs real threads of the real reactor."""

    def make(self, **more):
        """Return a pool that stops at the end of the test rather than of the reactor."""
        triggers = []
        self.patch(reactor, "addSystemEventTrigger", lambda *trigger: triggers.append(trigger))
        self.addCleanup(lambda: [stop() for _, _, stop in triggers])
        self.triggers = triggers
        return BoundedThreadPool("popserv-test", **{"threads": 1, **more})

    def block(self, pool):
        """Keep a thread busy; return (event to end it, event set at its start, Deferred)."""
        unblock, started = threading.Event(), threading.Event()
        self.addCleanup(unblock.set)

        def busy():
            started.set()
            unblock.wait()
            return "done"

        return unblock, started, pool.run(busy)

    async def test_thread(self):
        """A function runs in a thread of the pool; its result arrives in the reactor's thread."""
        pool = self.make()
        name = await pool.run(lambda: threading.current_thread().name)
        self.assertIn("popserv-test", name)
        self.assertIs(threading.current_thread(), threading.main_thread())

    async def test_arguments(self):
        """The function gets its arguments, and the Deferred its result."""
        self.assertEqual(await self.make().run(divmod, 7, 2), (3, 1))

    async def test_late_start(self):
        """Threads and shutdown trigger exist from the first use on, so that a fork loses none."""
        for more in ({}, {"reactor": reactor}):
            pool = self.make(**more)
            before = threading.active_count()
            self.assertEqual(self.triggers, [])
            for _ in range(2):
                await pool.run(int)
                self.assertEqual(threading.active_count(), before + 1)
                self.assertEqual(
                    [trigger[:2] for trigger in self.triggers], [("during", "shutdown")]
                )

    async def test_jobs(self):
        """The jobs of all pools are told by their names, those that wait included."""
        pools = [self.make(), self.make(), BoundedThreadPool("popserv-idle", threads=1)]
        before = thread_jobs().get("popserv-test", 0)
        blocked = [self.block(pool) for pool in pools[:2]]
        waiting = pools[0].run(int)
        self.assertEqual([pool.unfinished for pool in pools], [2, 1, 0])
        jobs = thread_jobs()
        self.assertEqual((jobs["popserv-test"] - before, jobs["popserv-idle"]), (3, 0))
        for unblock, _, done in blocked:
            unblock.set()
            await done
        await waiting
        self.assertEqual([pool.unfinished for pool in pools], [0, 0, 0])

    async def test_threads(self):
        """A pool starts a thread for a job that finds none free, up to ``threads``."""
        pool = self.make(threads=2)
        before = threading.active_count()
        for running in (1, 2, 2):
            self.block(pool)
            self.assertEqual(threading.active_count() - before, running)

    async def test_no_thread(self):
        """If no thread can be started, the present ones do the job, or it is refused."""
        pool = self.make(threads=2)

        def fail(self):
            raise RuntimeError("can't start new thread")

        with mock.patch.object(threading.Thread, "start", fail):
            self.assertRaises(TryLater, pool.run, int)
        self.assertEqual(self.triggers, [])
        unblock, _, _ = self.block(pool)
        with mock.patch.object(threading.Thread, "start", fail):
            result = pool.run(int)
        unblock.set()
        self.assertEqual(await result, 0)

    async def test_release(self):
        """An idle thread keeps nothing of its last job."""
        pool = self.make()
        for fails in (False, True):
            work = Work(fails)
            kept = weakref.ref(work)
            with contextlib.suppress(ZeroDivisionError):
                await pool.run(work, work)
            del work
            # It has not ended the job when it passes on the result, and nor has the reactor.
            end = time.monotonic() + 10
            while kept() is not None and time.monotonic() < end:
                gc.collect()
                await deferLater(reactor, 0.001)
            self.assertIsNone(kept())

    async def test_stop(self):
        """At shutdown the jobs that are unfinished are done."""
        pool = self.make()
        done = []
        unblock, _, _ = self.block(pool)
        for n in range(3):
            pool.run(done.append, n)
        unblock.set()
        [(_, _, stop)] = self.triggers
        stop()
        self.assertEqual(done, [0, 1, 2])

    async def test_wait_at_shutdown(self):
        """A pool without ``wait_at_shutdown`` has daemon threads, and no shutdown trigger."""
        pool = self.make(wait_at_shutdown=False)
        self.assertTrue(await pool.run(lambda: threading.current_thread().daemon))
        self.assertEqual(self.triggers, [])
        self.assertFalse(await self.make().run(lambda: threading.current_thread().daemon))

    async def test_backlog(self):
        """A full backlog rejects jobs immediately, and accepts jobs when there is room again."""
        pool = self.make(backlog=2)
        unblock, _, first = self.block(pool)
        second = pool.run(int, "2")
        for _ in range(2):
            with self.assertRaises(TryLater):
                pool.run(int, "3")
        unblock.set()
        self.assertEqual(await gatherResults([first, second]), ["done", 2])
        self.assertEqual(await gatherResults([pool.run(int, n) for n in "45"]), [4, 5])

    async def test_failures(self):
        """A failed job fails its own Deferred, and leaves the backlog."""
        pool = self.make(backlog=1)
        for _ in range(3):
            with self.assertRaises(ValueError):
                await pool.run(int, "none")
        self.assertEqual(await pool.run(int, "1"), 1)

    async def test_cancelled(self):
        """A running job whose Deferred was cancelled stays in the backlog until it ends."""
        pool = self.make(backlog=1)
        unblock, started, first = self.block(pool)
        started.wait()
        first.cancel()
        with self.assertRaises(CancelledError):
            await first
        with self.assertRaises(TryLater):
            pool.run(int)
        unblock.set()

    async def test_unneeded(self):
        """A job that is not needed when a thread is free is not run, and leaves the backlog."""
        pool = self.make(backlog=4)
        unblock, started, first = self.block(pool)
        started.wait()
        ran, still_needed = [], {1: False, 2: True, 3: True}
        jobs = {
            n: pool.run(ran.append, n, still_needed=lambda n=n: still_needed[n])
            for n in still_needed
        }
        still_needed[3] = False
        unblock.set()
        await first
        await jobs[2]
        for n in (1, 3):
            with self.assertRaises(TryLater):
                await jobs[n]
        self.assertEqual(ran, [2])
        self.assertEqual(await gatherResults([pool.run(int, n) for n in "4567"]), [4, 5, 6, 7])

    async def test_failing_still_needed(self):
        """An exception of ``still_needed`` is the result of the job, which leaves the backlog."""
        pool = self.make(backlog=1)
        for _ in range(2):
            with self.assertRaises(ZeroDivisionError):
                await pool.run(int, still_needed=lambda: 1 // 0 > 0)
        self.assertEqual(pool.unfinished, 0)

    async def test_full_backlog_drops_unneeded(self):
        """A full backlog drops the jobs that are not needed, and no others."""
        pool = self.make(backlog=3)
        unblock, started, first = self.block(pool)
        started.wait()
        still_needed = [True, True]
        jobs = [pool.run(int, "2", still_needed=lambda n=n: still_needed[n]) for n in (0, 1)]
        with self.assertRaises(TryLater):
            pool.run(int)
        still_needed[0] = False
        third = pool.run(int, "3")
        with self.assertRaises(TryLater):
            pool.run(int)
        unblock.set()
        self.assertEqual(await gatherResults([first, jobs[1], third]), ["done", 2, 3])
        with self.assertRaises(TryLater):
            await jobs[0]
        self.assertEqual(await gatherResults([pool.run(int, n) for n in "456"]), [4, 5, 6])


class CredentialsTests(TestCase):
    """Jobs have the file credentials of those who pass them on."""

    def setUp(self):
        """Make a pool of one thread."""
        if os.geteuid():
            self.skipTest("only root can become other users")
        self.pool = BoundedThreadPool("popserv-test", 1, wait_at_shutdown=False)
        self.addCleanup(self.pool._stop)

    async def test_jobs(self):
        """Each job has those of its own user, in whatever order they come."""
        seen = []
        for credentials in (ANN, None, BOB, ANN, ANN, None):
            with acting_as(credentials):
                running = self.pool.run(in_kernel)
            seen.append(await running == (credentials or own()))
        self.assertEqual(seen, [True] * 6)

    async def test_new_thread(self):
        """A thread that a user's job has started does not keep the user's credentials."""
        with acting_as(ANN):
            await self.pool.run(int)
            self.assertEqual(in_kernel(), ANN)
        self.assertEqual(await self.pool.run(in_kernel), own())

    async def test_still_needed(self):
        """The same holds for jobs that may be dropped."""
        with acting_as(ANN):
            running = self.pool.run(in_kernel, still_needed=lambda: True)
        self.assertEqual(await running, ANN)

    async def test_refused(self):
        """A job whose credentials cannot be had is not run, and is no longer pending."""
        await self.pool.run(int)
        with acting_as(ANN), mock.patch.object(threads, "switch", side_effect=OSError):
            running = self.pool.run(self.fail)
            while self.pool._unfinished:
                time.sleep(0)
        with self.assertRaises(OSError):
            await running
