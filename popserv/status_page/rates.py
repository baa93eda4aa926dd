"""What the plots of the page show, of the metrics of a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from popserv.metrics import catalogue
from popserv.metrics.catalogue import Kind, Metric
from popserv.metrics.samples import Samples
from popserv.status_page.history import History
from popserv.status_page.numbers import amount, octets_per_second
from popserv.status_page.plot import Plot, Series


class Line(NamedTuple):
    """A line of a plot: the sum of a metric's values, or of those whose last label is given."""

    label: str
    metric: Metric
    last_label: str | None = None


class Description(NamedTuple):
    """A plot of gauges, or of what is added to counters in so many seconds."""

    name: str
    title: str
    unit: str
    lines: Sequence[Line]
    seconds: float = 60
    form: Callable[[float], str] = amount


DESCRIPTIONS = (
    Description(
        *("open", "Open connections", ""),
        (
            Line("logged in", catalogue.OPEN_SESSIONS),
            Line("all", catalogue.OPEN_CONNECTIONS),
        ),
    ),
    Description(
        *("connections", "New connections", "per minute"),
        (
            Line("accepted", catalogue.CONNECTIONS),
            Line("evicted", catalogue.EVICTED),
        ),
    ),
    Description(
        *("logins", "Logins", "per minute"),
        (
            Line("successful", catalogue.LOGINS, "success"),
            Line("failed", catalogue.LOGINS, "failed"),
        ),
    ),
    Description(
        *("commands", "Commands", "per second"),
        (
            Line("all", catalogue.COMMANDS),
            Line("refused", catalogue.REFUSALS),
        ),
        seconds=1,
    ),
    Description(
        *("messages", "Messages", "per minute"),
        (
            Line("retrieved", catalogue.RETRIEVED_MESSAGES),
            Line("removed", catalogue.REMOVED_MESSAGES),
        ),
    ),
    Description(
        *("sent", "Octets", "per second"),
        (Line("sent", catalogue.SENT_BYTES),),
        seconds=1,
        form=octets_per_second,
    ),
)
"""All plots, in the order in which they are shown."""


def make_history() -> History:
    """Return a history of what the plots show."""
    return History([_key(line) for each in DESCRIPTIONS for line in each.lines])


def measure(samples: Samples) -> Mapping[str, float]:
    """Return what the history needs of the metrics of one time."""
    return {_key(line): _sum(samples, line) for each in DESCRIPTIONS for line in each.lines}


def plots(history: History, now: float) -> Iterator[Plot]:
    """Yield all plots."""
    for each in DESCRIPTIONS:
        series = [
            Series(
                line.label,
                history.values(_key(line), now)
                if line.metric.kind is Kind.GAUGE
                else history.rates(_key(line), now, each.seconds),
            )
            for line in each.lines
        ]
        yield Plot(each.name, each.title, each.unit, each.form, series)


def _key(line: Line) -> str:
    return f"{line.metric.name} {line.last_label}"


def _sum(samples: Samples, line: Line) -> float:
    values = samples.get(line.metric.name, {})
    return sum(
        value
        for labels, value in values.items()
        if line.last_label in (None, *labels[-1:]) and not isinstance(value, list)
    )
