"""What one process has counted."""

from twisted.trial.unittest import SynchronousTestCase

from popserv.metrics import catalogue
from popserv.metrics.catalogue import METRICS, OTHER, Kind
from popserv.metrics.counters import Counters


class CountersTests(SynchronousTestCase):
    """Counters and histograms."""

    def setUp(self):
        """Make the counters."""
        self.counters = Counters()

    def test_zero(self):
        """What has labels that are known is there from the start, so that no increase is lost."""
        samples = self.counters.samples
        self.assertEqual(
            set(samples), {each.name for each in METRICS if each.kind is not Kind.GAUGE}
        )
        self.assertEqual(samples[catalogue.SENT_BYTES.name], {(): 0})
        self.assertEqual(samples[catalogue.LOGINS.name], {})
        self.assertEqual(
            samples[catalogue.STORE_ERRORS.name],
            {(each,): 0 for each in (*catalogue.OPERATIONS, OTHER)},
        )
        self.assertEqual(samples[catalogue.RETR_SECONDS.name], {(): [0] * 16})

    def test_add(self):
        """A counter is increased by 1, or by an amount; those of others stay."""
        self.counters.add(catalogue.COMMANDS, ("RETR",))
        self.counters.add(catalogue.COMMANDS, ("RETR",))
        self.counters.add(catalogue.SENT_BYTES, (), 70)
        self.counters.add(catalogue.LOGINS, ("PASS", "failed"))
        samples = self.counters.samples
        self.assertEqual(samples[catalogue.COMMANDS.name]["RETR",], 2)
        self.assertEqual(samples[catalogue.COMMANDS.name]["DELE",], 0)
        self.assertEqual(samples[catalogue.SENT_BYTES.name], {(): 70})
        self.assertEqual(samples[catalogue.LOGINS.name], {("PASS", "failed"): 1})

    def test_values(self):
        """A counter can be increased in place."""
        self.counters.values(catalogue.SENT_BYTES)[()] += 5
        self.counters.add(catalogue.SENT_BYTES, (), 70)
        self.assertEqual(self.counters.values(catalogue.SENT_BYTES), {(): 75})

    def test_observe(self):
        """An observation belongs to the first bucket whose bound is not below it."""
        metric = catalogue.RETR_SECONDS
        for seconds in (0, metric.bounds[0], metric.bounds[0] * 1.01, 10.0, 10.1, 1000.0):
            self.counters.observe(metric, seconds)
        *counts, total = self.counters.samples[metric.name][()]
        self.assertEqual(counts, [2, 1, *[0] * 11, 1, 2])
        self.assertAlmostEqual(total, 1020.101005)
