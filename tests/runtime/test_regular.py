"""Tests of popserv.runtime.regular."""

from unittest import mock

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from popserv.errors import TryLater
from popserv.runtime.regular import RegularWork


class RegularTests(SynchronousTestCase):
    """Work that is done about once a minute."""

    def setUp(self):
        """Make the work, which is not started."""
        self.clock = Clock()
        self.running = []
        self.regular = RegularWork(self.work, 60, self.clock, "it cannot be done")

    async def work(self):
        """Wait for the test."""
        self.running.append(Deferred())
        await self.running[-1]

    def test_intervals(self):
        """It begins half an interval to one and a half after it has ended the last time."""
        self.regular.start()
        for _ in range(10):
            self.clock.advance(29.9)
            before = len(self.running)
            self.clock.advance(60.1)
            self.assertEqual(len(self.running), before + 1)
            self.clock.advance(1000)
            self.regular.start()
            self.assertEqual(self.clock.getDelayedCalls(), [])
            self.running[-1].callback(None)
            self.regular.start()
            self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_random(self):
        """The interval is another one each time."""
        with mock.patch.object(self.regular, "_random") as random:
            random.uniform.return_value = 1.25
            self.regular.start()
        random.uniform.assert_called_once_with(0.5, 1.5)
        [call] = self.clock.getDelayedCalls()
        self.assertEqual(call.getTime(), 75)

    def test_now(self):
        """It can begin at once."""
        self.regular.start(now=True)
        self.assertEqual(len(self.running), 1)

    def test_stopped(self):
        """Nothing is done after the end, which waits for what is under way."""
        self.regular.start(now=True)
        stopping = Deferred.fromCoroutine(self.regular.stop())
        self.assertNoResult(stopping)
        self.running[0].callback(None)
        self.successResultOf(stopping)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.successResultOf(Deferred.fromCoroutine(self.regular.stop()))
        self.regular.start()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_failures(self):
        """It goes on after failures, of which the first one is logged."""
        self.regular.start()
        for error in (TryLater(), ZeroDivisionError(), ZeroDivisionError()):
            self.clock.advance(90)
            self.running[-1].errback(error)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.clock.advance(90)
        self.running[-1].callback(None)
        self.clock.advance(90)
        self.running[-1].errback(ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
