"""Tests of popserv.runtime.deadlines."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from popserv.runtime.deadlines import Deadline


class DeadlineTests(SynchronousTestCase):
    """A deadline that is set again and again."""

    @given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([None, 0, 2, 3, 9]))))
    def test_model(self, steps):
        """The call is made when a call of the reactor's would be that is cancelled each time."""
        clock, calls, expected = Clock(), [], []
        deadline = Deadline(clock, lambda: calls.append(clock.seconds()))
        call = None
        for seconds, period in steps:
            for _ in range(seconds):
                clock.advance(1)
            if call is not None and call.active():
                call.cancel()
            if period is None:
                deadline.clear()
            else:
                deadline.set(clock.seconds() + period)
                call = clock.callLater(period, lambda: expected.append(clock.seconds()))
        clock.pump([1] * 10)
        self.assertEqual(calls, expected)
        self.assertEqual(clock.getDelayedCalls(), [])
        self.assertEqual(deadline.time, float("inf"))

    def test_calls(self):
        """The reactor has one call for many deadlines, and none after the last."""
        clock, calls = Clock(), []
        deadline = Deadline(clock, lambda: calls.append(None))
        for _ in range(9):
            deadline.set(clock.seconds() + 10)
            clock.advance(1)
            deadline.clear()
        [call] = clock.getDelayedCalls()
        self.assertEqual(call.getTime(), 10)
        deadline.set(clock.seconds() + 10)
        clock.advance(1)
        self.assertEqual(clock.getDelayedCalls()[0].getTime(), 19)
        deadline.stop()
        deadline.stop()
        self.assertEqual((clock.getDelayedCalls(), calls), ([], []))

    def test_earlier(self):
        """A deadline that is set to an earlier time has one call, at that, and never before now."""
        clock, calls = Clock(), []
        deadline = Deadline(clock, lambda: calls.append(clock.seconds()))
        for time in (10, 0.25, -1):
            deadline.set(time)
            [call] = clock.getDelayedCalls()
            self.assertEqual(call.getTime(), max(0, time))
        clock.advance(0)
        self.assertEqual(calls, [0])

    def test_set_after_stop(self):
        """A deadline that was stopped can be set again."""
        clock, calls = Clock(), []
        deadline = Deadline(clock, lambda: calls.append(clock.seconds()))
        deadline.set(5)
        deadline.stop()
        self.assertEqual(deadline.time, float("inf"))
        deadline.set(9)
        clock.advance(9)
        self.assertEqual(calls, [9])

    def test_set_by_call(self):
        """The call may set the deadline."""
        clock, calls = Clock(), []

        def call():
            calls.append(clock.seconds())
            if len(calls) < 3:
                deadline.set(clock.seconds() + 2)

        deadline = Deadline(clock, call)
        deadline.set(1)
        clock.pump([1] * 9)
        self.assertEqual(calls, [1, 3, 5])
