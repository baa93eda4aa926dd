"""The list of metrics keeps to the conventions of Prometheus."""

import re
from itertools import pairwise

from twisted.trial.unittest import SynchronousTestCase

from popserv.metrics import catalogue
from popserv.metrics.catalogue import BY_NAME, METRICS, OTHER, Kind, Metric, one_of, reason_label
from popserv.server.session_events import EndReason


class CatalogueTests(SynchronousTestCase):
    """Names, units and labels; promtool checks more of them in tests.live.test_metrics."""

    def test_all(self):
        """Every metric of the module is in the list once, by a name of its own."""
        there = [each for each in vars(catalogue).values() if isinstance(each, Metric)]
        self.assertEqual(sorted(there, key=METRICS.index), list(METRICS))
        self.assertEqual(len(BY_NAME), len(METRICS))

    def test_names(self):
        """Names have the prefix of popserv, and counters alone end in _total."""
        for each in METRICS:
            self.assertRegex(each.name, r"^popserv_[a-z]+(_[a-z]+)*$")
            self.assertEqual(each.name.endswith("_total"), each.kind is Kind.COUNTER, each.name)
            self.assertRegex(each.help, r"^[A-Z].*\.$")

    def test_units(self):
        """Units are seconds and bytes."""
        for each in METRICS:
            self.assertIsNone(re.search("milli|octets|kilo|minutes|hours", each.name), each.name)
            if each.kind is Kind.HISTOGRAM:
                self.assertTrue(each.name.endswith("_seconds"), each.name)

    def test_labels(self):
        """No label could contain a name of a user or an address, and fixed values are distinct."""
        labels = {label for each in METRICS for label in each.labels}
        self.assertEqual(
            labels,
            {
                *("method", "outcome", "tls", "reason", "command", "code", "operation"),
                *("cache", "pool", "file", "worker", "version"),
            },
        )
        for each in METRICS:
            self.assertEqual(len(set(each.values)), len(each.values))
            self.assertNotIn(OTHER, each.values)
            if each.values:
                self.assertEqual(len(each.labels), 1, each.name)

    def test_bounds(self):
        """The buckets of histograms ascend, and nothing else has buckets."""
        for each in METRICS:
            self.assertEqual(bool(each.bounds), each.kind is Kind.HISTOGRAM)
            self.assertTrue(all(a < b for a, b in pairwise(each.bounds)))

    def test_one_of(self):
        """A value that is not in the list is "other"."""
        self.assertEqual(one_of(("a", "b"), "b"), "b")
        for value in ("", "ab", "B"):
            self.assertEqual(one_of(("a", "b"), value), OTHER)

    def test_reasons(self):
        """Each end of a session has a label value."""
        self.assertEqual(reason_label(EndReason.BAD_COMMANDS), "bad-commands")
        self.assertEqual(len(catalogue.REASONS), len(EndReason))
