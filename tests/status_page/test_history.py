"""The last hour of a server's numbers."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.status_page.history import INTERVAL, RATE_SPAN, History
from popserv.status_page.plot import SPAN


class HistoryTests(SynchronousTestCase):
    """Samples and rates."""

    def setUp(self):
        """Create a history of two numbers."""
        self.history = History(["logins", "sessions"])
        self.now = 1000.0

    def add(self, logins, sessions=0):
        """Add a sample, an interval after the last one; None is one that is not known."""
        self.now += INTERVAL
        sample = {"logins": logins, "sessions": sessions, "other": 1}
        self.history.add(self.now, None if logins is None else sample)

    def rates(self, seconds=1):
        """Return the rates without their times."""
        return [rate for _, rate in self.history.rates("logins", self.now, seconds)]

    def test_values(self):
        """A number is told with the seconds that have passed since; 0 is a number."""
        self.add(5, 2)
        self.add(None)
        self.add(5, 0)
        self.assertEqual(
            self.history.values("sessions", self.now),
            [(2 * INTERVAL, 2), (INTERVAL, None), (0, 0)],
        )

    def test_rate(self):
        """A rate is what has been added since the first sample of the last minute."""
        for logins in (0, 0, 20, 20):
            self.add(logins)
        self.assertEqual(self.rates(), [None, 0, 1, 20 / 30])
        self.assertEqual(self.rates(60), [None, 0, 60, 40])
        for _ in range(RATE_SPAN // INTERVAL):
            self.add(20)
        self.assertEqual(self.rates()[-3:], [20 / 60, 0, 0])

    def test_gap(self):
        """There is no rate over a sample that is missing."""
        for logins in (0, 10, None, 1000, 1010):
            self.add(logins)
        self.assertEqual(self.rates(), [None, 1, None, None, 1])

    def test_late(self):
        """There is none over a time without samples, which is a gap; a little late is none."""
        self.add(0)
        self.now += INTERVAL * 0.4
        self.add(14)
        self.now += INTERVAL * 5
        self.add(1000)
        self.assertEqual(self.rates(), [None, 1, None, None])
        self.assertEqual([age for age, _ in self.history.rates("logins", self.now)][-2:], [10, 0])

    def test_down(self):
        """A counter that has gone down is no negative rate, and no rate from zero either."""
        for logins in (1000, 1010, 300, 310):
            self.add(logins)
        self.assertEqual(self.rates(), [None, 1, None, 1])

    def test_bounded(self):
        """The samples of the last hour are kept, and what the first rates need."""
        for logins in range(1000):
            self.add(logins)
        points = self.history.rates("logins", self.now, 10)
        self.assertEqual(len(points), (SPAN + RATE_SPAN) // INTERVAL + 1)
        shown = [rate for age, rate in points if age <= SPAN]
        self.assertEqual(len(shown), SPAN // INTERVAL + 1)
        for rate in shown:
            self.assertAlmostEqual(rate, 1)

    @given(
        st.lists(
            st.tuples(
                st.floats(min_value=0.1, max_value=60),
                st.none() | st.integers(min_value=0, max_value=1 << 60),
            )
        )
    )
    def test_never_negative(self, samples):
        """Whatever the samples, rates are numbers that are not negative, and ages descend."""
        history, now = History(["logins"]), 0.0
        for seconds, logins in samples:
            now += seconds
            history.add(now, None if logins is None else {"logins": logins})
        points = history.rates("logins", now)
        for _, rate in points:
            self.assertTrue(rate is None or 0 <= rate < float("inf"), points)
        ages = [age for age, _ in points]
        self.assertEqual(ages, sorted(ages, reverse=True))
