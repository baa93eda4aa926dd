"""Coroutines that may have nothing to wait for."""

import gc
import sys
from contextvars import ContextVar

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from popserv.runtime.coroutines import run_eagerly

_setting = ContextVar("setting", default="outside")


class BegunTests(SynchronousTestCase):
    """A Deferred is made only of what must be waited for."""

    def test_nothing_to_wait_for(self):
        """What needs no wait is returned as it is, and so is what is awaited but there."""

        async def coroutine():
            return await succeed(3)

        self.assertEqual(run_eagerly(coroutine()), 3)

    def test_raised_at_once(self):
        """What goes wrong before a wait is raised."""

        async def coroutine():
            raise KeyError("wrong")

        self.assertRaises(KeyError, run_eagerly, coroutine())

    def test_waits(self):
        """However often it waits, the result comes at its end."""
        waits = [Deferred(), Deferred(), Deferred()]

        async def coroutine():
            return [await wait for wait in waits]

        result = run_eagerly(coroutine())
        for number, wait in enumerate(waits):
            self.assertNoResult(result)
            wait.callback(number)
        self.assertEqual(self.successResultOf(result), [0, 1, 2])

    def test_fails_after_a_wait(self):
        """What goes wrong in a wait reaches the coroutine, which may go on or fail."""
        waits = [Deferred(), Deferred()]

        async def coroutine():
            try:
                await waits[0]
            except KeyError:
                await waits[1]

        result = run_eagerly(coroutine())
        waits[0].errback(KeyError("first"))
        self.assertNoResult(result)
        waits[1].errback(OSError("second"))
        self.failureResultOf(result, OSError)

    def test_ends_with_a_failed_wait(self):
        """A coroutine may end with what it makes of a failure."""
        wait = Deferred()

        async def coroutine():
            try:
                await wait
            except KeyError:
                return "mended"

        result = run_eagerly(coroutine())
        wait.errback(KeyError())
        self.assertEqual(self.successResultOf(result), "mended")

    def test_abandoned(self):
        """What nobody waits for any more is closed without a word."""
        closed = []

        async def coroutine():
            try:
                await Deferred()
            finally:
                closed.append(True)

        unraisable = []
        self.patch(sys, "unraisablehook", unraisable.append)
        for _ in range(3):
            run_eagerly(coroutine())
            gc.collect()
        self.assertEqual((closed, unraisable), ([True] * 3, []))

    def test_context(self):
        """What a coroutine sets of its context is there after its waits, and for nobody else."""
        wait = Deferred()

        async def coroutine():
            _setting.set("inside")
            await wait
            return _setting.get()

        result = run_eagerly(coroutine())
        self.assertEqual(_setting.get(), "outside")
        wait.callback(None)
        self.assertEqual(self.successResultOf(result), "inside")
        self.assertEqual(_setting.get(), "outside")
