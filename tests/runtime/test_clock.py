"""Tests of popserv.runtime.clock."""

import time

from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.base import ReactorBase
from twisted.internet.pollreactor import PollReactor
from twisted.internet.selectreactor import SelectReactor
from twisted.trial.unittest import SynchronousTestCase

from popserv.runtime.clock import SteadyClock, use_steady_clock

DAY = 24 * 60 * 60


class ClockTests(SynchronousTestCase):
    """Reactors whose clocks cannot be set, on a machine whose time can."""

    def setUp(self):
        """Replace the clocks of the machine."""
        self.passed = 0.0
        self.set_by = 0.0
        self.patch(time, "time", lambda: 1_700_000_000.5 + self.passed + self.set_by)
        self.patch(time, "monotonic", lambda: 77.25 + self.passed)
        # The reactors have imported the function.
        self.patch(ReactorBase, "seconds", staticmethod(lambda: time.time()))

    def test_time(self):
        """A steady clock starts at the time of day, and setting that does not change it."""
        clock = SteadyClock()
        self.assertEqual(clock(), time.time())
        self.passed = 3.0
        self.set_by = -DAY
        self.assertEqual(clock(), 1_700_000_003.5)

    def test_timers(self):
        """A timer of any reactor expires when its seconds have passed, wherever the time is set."""
        for make_reactor in (PollReactor, SelectReactor, AsyncioSelectorReactor):
            for set_by in (DAY, -DAY):
                self.passed = self.set_by = 0.0
                reactor = make_reactor()
                self.addCleanup(self.close, reactor)
                expired = []
                reactor.callLater(10, expired.append, "pending before")
                use_steady_clock(reactor)
                later = reactor.callLater(20, expired.append, "later")
                later.reset(10)
                self.set_by = set_by
                self.passed = 9.0
                reactor.runUntilCurrent()
                self.assertEqual(expired, [])
                self.assertEqual(reactor.timeout(), 1)
                self.passed = 10.0
                reactor.runUntilCurrent()
                self.assertEqual(sorted(expired), ["later", "pending before"])

    def test_once(self):
        """A reactor keeps the clock that it was given first, even if the time was set since."""
        reactor = PollReactor()
        self.addCleanup(self.close, reactor)
        use_steady_clock(reactor)
        first = reactor.seconds
        self.set_by = DAY
        use_steady_clock(reactor)
        self.assertIs(reactor.seconds, first)

    def close(self, reactor):
        """Close the descriptors of a reactor that never runs."""
        for reader in reactor.removeAll():
            reader.connectionLost(None)
        if isinstance(reactor, AsyncioSelectorReactor):
            reactor._asyncioEventloop.close()
