"""Values of metrics as plain data: of one process, or the sum of many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from popserv.metrics.catalogue import BY_NAME, METRICS, Kind, Metric

Labels = tuple[str, ...]
"""The values of a metric's labels, in the order of its catalogue entry."""

Value = float | list[float]
"""The value of a counter or gauge; or, for a histogram, how many observations each bucket has, from
the lowest bucket to infinity, and then their sum."""

Samples = dict[str, dict[Labels, Value]]
"""The values of metrics, by the names of the metrics and by labels."""


def to_plain(samples: Mapping[str, Mapping[Labels, Value]]) -> list[Any]:
    """Return samples as a JSON value, which does not change when the samples do."""
    return [
        [name, list(labels), [*value] if isinstance(value, list) else value]
        for name, values in samples.items()
        for labels, value in values.items()
    ]


def from_plain(plain: Iterable[Any]) -> Samples:
    """Return the samples of a JSON value.

    Metrics of another version of popserv, which a worker may have that has taken the place of
    another one, are left out.
    """
    samples: Samples = {}
    for name, labels, value in plain:
        metric = BY_NAME.get(name)
        if metric is not None and len(labels) == len(metric.labels) and _is_of(metric, value):
            samples.setdefault(name, {})[tuple(labels)] = value
    return samples


def _is_of(metric: Metric, value: Any) -> bool:
    if metric.kind is Kind.HISTOGRAM:
        return isinstance(value, list) and len(value) == len(metric.bounds) + 2
    return isinstance(value, int | float)


def combine(parts: Iterable[Samples]) -> Samples:
    """Return one value for each metric and labels, from those of several processes."""
    combined: Samples = {}
    for part in parts:
        for name, values in part.items():
            total = combined.setdefault(name, {})
            of_two = _COMBINE[BY_NAME[name].combine]
            for labels, value in values.items():
                total[labels] = of_two(total[labels], value) if labels in total else value
    return combined


def only(samples: Samples, *, gauges: bool) -> Samples:
    """Return the samples of gauges, or those of all other metrics."""
    return {
        each.name: samples[each.name]
        for each in METRICS
        if each.name in samples and (each.kind is Kind.GAUGE) == gauges
    }


def _add(one: Any, other: Any) -> Value:
    if isinstance(one, list):
        return [a + b for a, b in zip(one, other, strict=True)]
    value: float = one + other
    return value


_COMBINE: Mapping[str, Callable[[Any, Any], Value]] = {"sum": _add, "min": min, "max": max}
