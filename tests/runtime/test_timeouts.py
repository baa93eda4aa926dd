"""Tests of popserv.runtime.timeouts."""

from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from popserv.runtime.timeouts import TimeoutQueue

PERIOD = 10


class Broken(Exception):
    """A fault of a call."""


class TimeoutQueueTests(SynchronousTestCase):
    """Timeouts of one length."""

    def setUp(self):
        """Make a queue with a clock that only tests move."""
        self.clock = Clock()
        self.queue = TimeoutQueue(PERIOD, self.clock)
        self.calls = []

    @given(
        st.lists(
            st.tuples(
                st.sampled_from([0, 0, 1, 4, 11]),
                st.sampled_from([PERIOD, PERIOD, PERIOD, 3, None]),
                st.integers(0, 5),
            )
        )
    )
    def test_model(self, steps):
        """Calls are made, and cancelled, as those of a reactor are."""
        logs = []
        for clock in (Clock(), Clock()):
            log, calls = [], {}
            # The reactor that is compared has no queue.
            is_queue = not logs
            call_later = TimeoutQueue(PERIOD, clock).call_later if is_queue else clock.callLater
            for number, (seconds, period, other) in enumerate(steps):
                for _ in range(seconds):
                    clock.advance(1)

                def call(number=number, other=other, calls=calls, log=log, clock=clock):
                    del calls[number]
                    log.append((clock.seconds(), number))
                    if number + other in calls:
                        calls.pop(number + other).cancel()

                if period is not None:
                    calls[number] = call_later(period, call)
                    log.append(calls[number].getTime() - calls[number].seconds())
                elif other in calls:
                    calls.pop(other).cancel()
                if is_queue:
                    others = sum(step[1] == 3 for step in steps[: number + 1])
                    self.assertLessEqual(len(clock.getDelayedCalls()), 1 + others)
            for _ in range(2 * PERIOD):
                clock.advance(1)
            self.assertEqual(clock.getDelayedCalls(), [])
            logs.append(log)
        self.assertEqual(*logs)

    def test_clock_replaced(self):
        """A reactor that gets a steady clock later has it for these timeouts, too."""
        timeout = self.queue.call_later(PERIOD, lambda: self.calls.append(1))
        wrong, self.clock.seconds = self.clock.seconds, lambda: wrong() + 3
        self.assertEqual((self.queue.now(), timeout.seconds()), (3, 3))
        self.clock.advance(PERIOD - 4)
        self.assertEqual(self.calls, [])
        self.clock.advance(1)
        self.assertEqual(self.calls, [1])

    def test_together(self):
        """The clock has one call for all, and none when there is nothing to call."""
        timeouts = []
        for _ in range(5):
            timeouts.append(self.queue.call_later(PERIOD, lambda: self.calls.append(1)))
            self.clock.advance(1)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        timeouts[0].cancel()
        self.clock.advance(PERIOD - 4)
        self.assertEqual(self.calls, [1])
        for timeout in timeouts[2:]:
            timeout.cancel()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_times(self):
        """A timeout may be a part of a second, and one that is overdue is due at once."""
        TimeoutQueue(0.25, self.clock).call_later(0.25, lambda: self.calls.append(1))
        self.clock.advance(0.25)
        self.assertEqual(self.calls, [1])

        def slow():
            self.clock.rightNow += 5

        self.queue.call_later(PERIOD, slow)
        self.clock.advance(1)
        self.queue.call_later(PERIOD, lambda: self.calls.append(2))
        with mock.patch.object(self.clock, "callLater", wraps=self.clock.callLater) as call_later:
            self.clock.advance(PERIOD - 1)
        self.assertEqual([call.args[0] for call in call_later.mock_calls], [0])
        self.assertEqual(self.calls, [1, 2])

    def test_added_by_call(self):
        """A call may start the next timeout."""

        def again():
            self.calls.append(self.clock.seconds())
            self.queue.call_later(PERIOD, again)

        self.queue.call_later(PERIOD, again)
        self.queue.call_later(PERIOD, again)
        for _ in range(3 * PERIOD):
            self.clock.advance(1)
        self.assertEqual(self.calls, [10, 10, 20, 20, 30, 30])

    def test_broken(self):
        """An exception is logged, and the other calls are made."""

        def broken():
            raise Broken

        self.queue.call_later(PERIOD, broken)
        self.queue.call_later(PERIOD, lambda: self.calls.append(1))
        self.clock.advance(PERIOD)
        self.assertEqual(self.calls, [1])
        self.assertEqual(len(self.flushLoggedErrors(Broken)), 1)

    def test_reactor(self):
        """The clock is the reactor's, unless another is given."""
        timeout = TimeoutQueue(PERIOD).call_later(PERIOD, self.fail)
        self.assertEqual(len(reactor.getDelayedCalls()), 1)
        timeout.cancel()
        self.assertEqual(reactor.getDelayedCalls(), [])
