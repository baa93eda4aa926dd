"""Tests of popserv.runtime.coroutines."""

import gc
import sys
from contextvars import ContextVar

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from popserv.runtime.coroutines import run_eagerly

_setting = ContextVar("setting", default="outside")


class RunEagerlyTests(SynchronousTestCase):
    """A Deferred is returned only if the coroutine waits."""

    def test_no_wait(self):
        """A coroutine that awaits fired Deferreds only returns its result."""

        async def coroutine():
            return await succeed(3)

        self.assertEqual(run_eagerly(coroutine()), 3)

    def test_raises_before_wait(self):
        """An exception before the first wait is raised."""

        async def coroutine():
            raise KeyError("wrong")

        self.assertRaises(KeyError, run_eagerly, coroutine())

    def test_several_waits(self):
        """A coroutine that waits returns a Deferred, which fires when the coroutine ends."""
        waits = [Deferred(), Deferred(), Deferred()]

        async def coroutine():
            return [await wait for wait in waits]

        result = run_eagerly(coroutine())
        for number, wait in enumerate(waits):
            self.assertNoResult(result)
            wait.callback(number)
        self.assertEqual(self.successResultOf(result), [0, 1, 2])

    def test_exceptions(self):
        """A failure is raised in the coroutine, which may catch it or fail."""
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

    def test_result_after_exception(self):
        """A coroutine may return a result after it has caught a failure."""
        wait = Deferred()

        async def coroutine():
            try:
                await wait
            except KeyError:
                return "recovered"

        result = run_eagerly(coroutine())
        wait.errback(KeyError())
        self.assertEqual(self.successResultOf(result), "recovered")

    def test_garbage_collected(self):
        """A coroutine whose Deferred is garbage collected is closed without a warning."""
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
        """A coroutine keeps its context variables across waits, and changes nobody else's."""
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
