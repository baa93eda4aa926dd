"""Shares of a limit."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.workers.role import WorkerRole


class WorkerRoleTests(SynchronousTestCase):
    """WorkerRole."""

    def test_single_process(self):
        """A single process has the whole limit, and its updates go nowhere."""
        self.assertEqual(WorkerRole().share_of(7), 7)
        WorkerRole().bus.publish("anything", 1)

    @given(st.integers(1, 200), st.integers(0, 10**6))
    def test_shares(self, count, total):
        """The shares of all workers add up to the total, and differ by at most one."""
        shares = [WorkerRole(number, count).share_of(total) for number in range(1, count + 1)]
        self.assertEqual(sum(shares), total)
        self.assertLessEqual(max(shares) - min(shares), 1)
