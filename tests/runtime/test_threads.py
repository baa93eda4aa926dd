"""The pools of threads: bounded, started late, and off the reactor's thread."""

import threading

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, gatherResults
from twisted.trial.unittest import TestCase

from popserv.errors import TryLater
from popserv.runtime.threads import BoundedThreadPool


class ThreadsTests(TestCase):
    """Threads, on real threads of the real reactor."""

    def make(self, **more):
        """Return a pool that ends with the test rather than with the reactor."""
        triggers = []
        self.patch(reactor, "addSystemEventTrigger", lambda *trigger: triggers.append(trigger))
        self.addCleanup(lambda: [stop() for _, _, stop in triggers])
        self.triggers = triggers
        return BoundedThreadPool("popserv-test", **{"threads": 1, **more})

    def hold(self, threads):
        """Keep one thread busy until what is returned first is set."""
        gate, begun = threading.Event(), threading.Event()
        self.addCleanup(gate.set)

        def busy():
            begun.set()
            gate.wait()
            return "done"

        return gate, begun, threads.run(busy)

    async def test_elsewhere(self):
        """A function runs in a thread of the pool, its result comes back in the reactor's."""
        threads = self.make()
        name = await threads.run(lambda: threading.current_thread().name)
        self.assertIn("popserv-test", name)
        self.assertIs(threading.current_thread(), threading.main_thread())

    async def test_arguments(self):
        """Arguments are handed on, and results handed back."""
        self.assertEqual(await self.make().run(divmod, 7, 2), (3, 1))

    async def test_late_start(self):
        """No thread and no trigger is there before the first use, so that a fork loses none."""
        for more in ({}, {"reactor": reactor}):
            threads = self.make(**more)
            self.assertEqual(self.triggers, [])
            self.assertFalse(threads._pool.started)
            for _ in range(2):
                await threads.run(int)
                self.assertTrue(threads._pool.started)
                self.assertEqual(
                    [trigger[:2] for trigger in self.triggers], [("during", "shutdown")]
                )

    async def test_unawaited(self):
        """What nobody needs holds up the end of nothing."""
        threads = self.make(wait_at_shutdown=False)
        self.assertTrue(await threads.run(lambda: threading.current_thread().daemon))
        self.assertEqual(self.triggers, [])
        self.assertFalse(await self.make().run(lambda: threading.current_thread().daemon))

    async def test_backlog(self):
        """A full backlog refuses at once, and takes more when there is room again."""
        threads = self.make(backlog=2)
        gate, _, first = self.hold(threads)
        second = threads.run(int, "2")
        for _ in range(2):
            with self.assertRaises(TryLater):
                threads.run(int, "3")
        gate.set()
        self.assertEqual(await gatherResults([first, second]), ["done", 2])
        self.assertEqual(await gatherResults([threads.run(int, n) for n in "45"]), [4, 5])

    async def test_failures(self):
        """What fails goes to its own caller, and takes up no room afterwards."""
        threads = self.make(backlog=1)
        for _ in range(3):
            with self.assertRaises(ValueError):
                await threads.run(int, "none")
        self.assertEqual(await threads.run(int, "1"), 1)

    async def test_cancelled(self):
        """Work that nobody waits for any more still fills the backlog until it is over."""
        threads = self.make(backlog=1)
        gate, begun, first = self.hold(threads)
        begun.wait()
        first.cancel()
        with self.assertRaises(CancelledError):
            await first
        with self.assertRaises(TryLater):
            threads.run(int)
        gate.set()

    async def test_unwanted(self):
        """What nobody wants when it could begin is not begun, and takes up no room then."""
        threads = self.make(backlog=4)
        gate, begun, first = self.hold(threads)
        begun.wait()
        ran, still_needed = [], {1: False, 2: True, 3: True}
        jobs = {
            n: threads.run(ran.append, n, still_needed=lambda n=n: still_needed[n])
            for n in still_needed
        }
        still_needed[3] = False
        gate.set()
        await first
        await jobs[2]
        for n in (1, 3):
            with self.assertRaises(TryLater):
                await jobs[n]
        self.assertEqual(ran, [2])
        self.assertEqual(await gatherResults([threads.run(int, n) for n in "4567"]), [4, 5, 6, 7])

    async def test_room_of_the_unwanted(self):
        """In a full backlog the unwanted make room, and nobody else does."""
        threads = self.make(backlog=3)
        gate, begun, first = self.hold(threads)
        begun.wait()
        still_needed = [True, True]
        jobs = [threads.run(int, "2", still_needed=lambda n=n: still_needed[n]) for n in (0, 1)]
        with self.assertRaises(TryLater):
            threads.run(int)
        still_needed[0] = False
        third = threads.run(int, "3")
        with self.assertRaises(TryLater):
            threads.run(int)
        gate.set()
        self.assertEqual(await gatherResults([first, jobs[1], third]), ["done", 2, 3])
        with self.assertRaises(TryLater):
            await jobs[0]
        self.assertEqual(await gatherResults([threads.run(int, n) for n in "456"]), [4, 5, 6])
