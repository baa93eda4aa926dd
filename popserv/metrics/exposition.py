"""Metrics in the formats of Prometheus and OpenMetrics, which prometheus_client writes.

Requires the extra ``metrics``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from popserv.metrics.catalogue import METRICS, Kind, Metric
from popserv.metrics.samples import Samples


def encode(samples: Samples, accept: str) -> tuple[bytes, str]:
    """Return samples in the format that the header field Accept prefers, and its Content-Type."""
    try:
        encoder, content_type = choose_encoder(accept)
    except (TypeError, ValueError):
        # A version that is no number.
        encoder, content_type = choose_encoder("")
    return encoder(_Samples(samples)), content_type


class _Samples(Collector):
    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Family]:
        """Return the metrics that have samples; see Collector."""
        for metric in METRICS:
            values = self._samples.get(metric.name)
            if values:
                family = _family(metric)
                for labels, value in sorted(values.items()):
                    if metric.kind is Kind.HISTOGRAM:
                        family.add_metric(labels, *_buckets(metric, value))
                    else:
                        family.add_metric(labels, value)
                yield family


_FAMILIES = {
    Kind.COUNTER: CounterMetricFamily,
    Kind.GAUGE: GaugeMetricFamily,
    Kind.HISTOGRAM: HistogramMetricFamily,
}


def _family(metric: Metric) -> Any:
    family: Any = _FAMILIES[metric.kind]
    return family(metric.name, metric.help, labels=metric.labels)


def _buckets(metric: Metric, value: Any) -> tuple[Sequence[tuple[str, float]], float]:
    """Return the cumulative buckets of a histogram, and the sum of its observations."""
    *counts, total = value
    bounds = [*map(floatToGoString, metric.bounds), "+Inf"]
    return list(zip(bounds, accumulate(counts), strict=True)), total
