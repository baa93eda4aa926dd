"""What one process has counted since it started."""

from __future__ import annotations

from bisect import bisect_left

from popserv.metrics.catalogue import METRICS, OTHER, Kind, Metric
from popserv.metrics.samples import Labels, Samples


class Counters:
    """The counters and histograms of a process.

    :ivar samples: their values; those whose labels are known begin with 0.
    """

    def __init__(self) -> None:
        self.samples: Samples = {
            each.name: {labels: _zero(each) for labels in _known_labels(each)}
            for each in METRICS
            if each.kind is not Kind.GAUGE
        }

    def values(self, metric: Metric) -> dict[Labels, float]:
        """Return the values of a counter, for those who increase it often."""
        values: dict[Labels, float] = self.samples[metric.name]  # type: ignore[assignment]
        return values

    def add(self, metric: Metric, labels: Labels = (), amount: float = 1) -> None:
        """Increase a counter."""
        values = self.values(metric)
        values[labels] = values.get(labels, 0) + amount

    def observe(self, metric: Metric, seconds: float) -> None:
        """Add an observation to a histogram."""
        value: list[float] = self.samples[metric.name][()]  # type: ignore[assignment]
        value[bisect_left(metric.bounds, seconds)] += 1
        value[-1] += seconds


def _known_labels(metric: Metric) -> list[Labels]:
    if metric.labels:
        return [(value,) for value in (*metric.values, OTHER)] if metric.values else []
    return [()]


def _zero(metric: Metric) -> float | list[float]:
    return [0] * (len(metric.bounds) + 2) if metric.kind is Kind.HISTOGRAM else 0
