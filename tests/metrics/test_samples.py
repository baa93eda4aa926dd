"""Values of metrics as plain data."""

import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.metrics.catalogue import METRICS, Kind
from popserv.metrics.samples import combine, from_plain, only, to_plain

NUMBERS = st.integers(0, 1 << 40)


def values_of(metric):
    """Return a strategy of the values of a metric."""
    if metric.kind is Kind.HISTOGRAM:
        size = len(metric.bounds) + 2
        return st.lists(NUMBERS, min_size=size, max_size=size)
    return NUMBERS


def samples_of(metric):
    """Return a strategy of the labels and values of a metric."""
    labels = st.tuples(*[st.sampled_from(("a", "ä", ""))] * len(metric.labels))
    return st.dictionaries(labels, values_of(metric), min_size=1)


ALL = st.fixed_dictionaries({}, optional={each.name: samples_of(each) for each in METRICS})


class SamplesTests(SynchronousTestCase):
    """Samples of processes."""

    @given(ALL)
    def test_plain(self, samples):
        """Samples are the same after they were sent as JSON."""
        self.assertEqual(from_plain(json.loads(json.dumps(to_plain(samples)))), samples)

    @given(ALL)
    def test_only(self, samples):
        """Each sample is of a gauge or not."""
        gauges, others = only(samples, gauges=True), only(samples, gauges=False)
        self.assertEqual({**gauges, **others}, samples)
        self.assertEqual(set(gauges) & set(others), set())

    @given(ALL, ALL, ALL)
    def test_order(self, one, two, three):
        """It does not matter in which order values are combined, and no part is changed."""
        parts = [one, two, three]
        before = json.dumps([to_plain(each) for each in parts])
        combined = combine(parts)
        self.assertEqual(combine([three, combine([two, one])]), combined)
        self.assertEqual(json.dumps([to_plain(each) for each in parts]), before)

    def test_copy(self):
        """What was told does not change when more is counted."""
        samples = {
            "popserv_commands_total": {("RETR",): 3},
            "popserv_retr_duration_seconds": {(): [1] * 16},
        }
        before = from_plain(to_plain(samples))
        told = from_plain(to_plain(samples))
        samples["popserv_commands_total"]["RETR",] += 1
        samples["popserv_retr_duration_seconds"][()][0] += 1
        self.assertEqual(told, before)

    def test_combine(self):
        """Counters and histograms are added; of some gauges, one value is chosen."""
        ends = "popserv_certificate_not_after_timestamp_seconds"
        one = {
            "popserv_commands_total": {("RETR",): 3, ("DELE",): 1},
            "popserv_throttled_networks": {(): 5},
            ends: {("a",): 7, ("b",): 8},
        }
        two = {
            "popserv_commands_total": {("RETR",): 4},
            "popserv_throttled_networks": {(): 2},
            ends: {("a",): 6},
            "popserv_retr_duration_seconds": {(): [1] * 16},
        }
        three = {"popserv_retr_duration_seconds": {(): [2] * 16}}
        self.assertEqual(
            combine([one, two, three]),
            {
                "popserv_commands_total": {("RETR",): 7, ("DELE",): 1},
                "popserv_throttled_networks": {(): 5},
                ends: {("a",): 6, ("b",): 8},
                "popserv_retr_duration_seconds": {(): [3] * 16},
            },
        )
        self.assertEqual(combine([]), {})

    def test_other_versions(self):
        """What this version does not know is left out."""
        known = ["popserv_commands_total", ["RETR"], 3]
        for name, labels, value in [
            ("popserv_songs_total", [], 1),
            ("popserv_commands_total", [], 1),
            ("popserv_commands_total", ["RETR", "x"], 1),
            ("popserv_commands_total", ["DELE"], "many"),
            ("popserv_commands_total", ["DELE"], [1]),
            ("popserv_retr_duration_seconds", [], 1),
            ("popserv_retr_duration_seconds", [], [1] * 15),
            ("popserv_retr_duration_seconds", [], [1] * 17),
        ]:
            self.assertEqual(
                from_plain([known, [name, labels, value]]),
                {"popserv_commands_total": {("RETR",): 3}},
            )
