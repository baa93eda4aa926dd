"""Parts of a whole."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.workers.role import WorkerRole


class ShareTests(SynchronousTestCase):
    """Share."""

    def test_whole(self):
        """One process alone has the whole, and nobody to tell."""
        self.assertEqual(WorkerRole().part(7), 7)
        WorkerRole().bus.publish("anything", 1)

    @given(st.integers(1, 200), st.integers(0, 10**6))
    def test_parts(self, of, whole):
        """All parts together are the whole, and differ by one at most."""
        parts = [WorkerRole(number, of).part(whole) for number in range(1, of + 1)]
        self.assertEqual(sum(parts), whole)
        self.assertLessEqual(max(parts) - min(parts), 1)
