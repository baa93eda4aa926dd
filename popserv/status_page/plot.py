"""Plots as SVG, for the last hour: functions from data to tags of twisted.web.template.

A plot is as wide as the page has room.  Text is placed in percents and pixels, so that it keeps its
size, and only the lines are stretched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.web.template import Tag, tags

SPAN = 3600
"""The seconds that a plot shows."""
WIDTH = 720
"""The width of the lines' coordinates."""
HEIGHT = 112
"""Their height, which is also that in pixels."""
_TOP = 16
"""The pixels above them, for the label of the highest grid line."""
_BOTTOM = 20
"""The pixels below them, for the labels of times."""
_MAX_GRID_LINES = 3

Point = tuple[float, "float | None"]
"""The seconds before now, and the value, or None if it is not known."""


@dataclass(frozen=True)
class Series:
    """The values of one line, from the oldest to the newest; unknown ones are gaps in it."""

    label: str
    points: Sequence[Point]

    def newest(self) -> float | None:
        """Return the newest value, or None if it is not known."""
        return self.points[-1][1] if self.points else None

    def highest(self) -> float | None:
        """Return the highest value, or None if none is known."""
        return max((value for _, value in self.points if value is not None), default=None)


@dataclass(frozen=True)
class Plot:
    """One or two lines with a common scale.

    ``name`` is unique on its page, and ``form`` turns a value into text.
    """

    name: str
    title: str
    unit: str
    form: Callable[[float], str]
    series: Sequence[Series]


def figure(plot: Plot) -> Tag:
    """Return a plot with its title and a legend that tells the newest values."""
    entries = [
        tags.li(_key(number), f"{series.label} ", tags.b(_told(series.newest(), plot.form)))
        for number, series in enumerate(plot.series)
    ]
    caption = tags.figcaption(
        tags.h3(plot.title, " ", tags.small(plot.unit)),
        tags.ul(*entries, class_="legend"),
    )
    return tags.figure(caption, svg(plot))


def svg(plot: Plot) -> Tag:
    """Return the plot itself, with a title and a description for those who do not see it."""
    highest = max((series.highest() or 0 for series in plot.series), default=0)
    grid = grid_lines(highest)
    top = grid[-1]
    title, description = f"{plot.name}-title", f"{plot.name}-description"
    return _tag(
        "svg",
        _tag("title", f"{plot.title} {plot.unit}".strip(), id=title),
        _tag("desc", _description(plot), id=description),
        _tag("g", *_grid(grid), class_="grid"),
        _tag(
            "svg",
            *_lines(plot.series, top),
            y=_TOP,
            width="100%",
            height=HEIGHT,
            viewBox=f"0 0 {WIDTH} {HEIGHT}",
            preserveAspectRatio="none",
            class_="lines",
        ),
        _tag("g", *_labels(grid, plot.form), class_="labels"),
        _tag("g", *_times()),
        xmlns="http://www.w3.org/2000/svg",
        role="img",
        width="100%",
        height=_TOP + HEIGHT + _BOTTOM,
        aria_labelledby=title,
        aria_describedby=description,
        class_="plot",
    )


def grid_lines(highest: float) -> list[float]:
    """Return the values of at most three grid lines above 0, round ones, up to the highest value.

    The last line is not below the highest value; without one, it is at 1.
    """
    if highest <= 0:
        return [1.0]
    magnitude = 10.0 ** math.floor(math.log10(highest / _MAX_GRID_LINES))
    steps = (factor * magnitude for factor in (1, 2, 5, 10, 20))
    step = next(each for each in steps if each * _MAX_GRID_LINES >= highest)
    return [step * number for number in range(1, max(1, math.ceil(highest / step)) + 1)]


def runs(points: Sequence[Point]) -> Iterator[list[tuple[float, float]]]:
    """Yield each uninterrupted part of a line, as times and values."""
    run: list[tuple[float, float]] = []
    for seconds, value in points:
        if value is None:
            if run:
                yield run
            run = []
        elif 0 <= seconds <= SPAN:
            run.append((seconds, value))
    if run:
        yield run


def _grid(values: Sequence[float]) -> Iterator[Tag]:
    for value in (0, *values):
        y = _grid_place(value, values[-1])
        yield _tag("line", x2="100%", y1=y, y2=y)


def _labels(values: Sequence[float], form: Callable[[float], str]) -> Iterator[Tag]:
    """Yield the labels of the grid, which cover the lines."""
    for value in values:
        yield _tag("text", form(value), y=_grid_place(value, values[-1], above=4))


def _grid_place(value: float, top: float, above: float = 0) -> str:
    return _coordinate(_TOP + HEIGHT * (1 - value / top) - above)


def _times() -> Iterator[Tag]:
    y = _TOP + HEIGHT + 15
    for text, x, anchor in (
        ("1 h ago", "0%", "start"),
        ("45 min", "25%", "middle"),
        ("30 min", "50%", "middle"),
        ("15 min", "75%", "middle"),
        ("now", "100%", "end"),
    ):
        yield _tag("text", text, x=x, y=y, text_anchor=anchor)


def _lines(series: Sequence[Series], top: float) -> Iterator[Tag]:
    for number, each in enumerate(series):
        for run in runs(each.points):
            places = [
                (
                    _coordinate(WIDTH * (1 - seconds / SPAN)),
                    _coordinate(HEIGHT * (1 - min(value, top) / top)),
                )
                for seconds, value in run
            ]
            path = "M" + "L".join(f"{x} {y}" for x, y in places)
            if number == 0 and len(places) > 1:
                area = f"{path}L{places[-1][0]} {HEIGHT}L{places[0][0]} {HEIGHT}Z"
                yield _tag("path", d=area, class_="area")
            # Of a single point, the round end of a line is seen.
            yield _tag("path", d=path if len(places) > 1 else f"{path}h0", class_=f"line{number}")


def _description(plot: Plot) -> str:
    """Return in words what the lines show."""
    sentences = [
        f"{series.label}: now {_told(series.newest(), plot.form)}, "
        f"at most {_told(series.highest(), plot.form)}."
        for series in plot.series
    ]
    return " ".join(["The last hour.", *sentences])


def _told(value: float | None, form: Callable[[float], str]) -> str:
    return "unknown" if value is None else form(value)


def _key(number: int) -> Tag:
    """Return a piece of a line, for the legend."""
    line = _tag("path", d="M1 4h18", class_=f"line{number}")
    return _tag("svg", line, aria_hidden="true", width=20, height=8, class_="key")


def _coordinate(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _tag(name: str, *children: Tag | str, **attributes: str | int) -> Tag:
    """Return a tag of SVG; underscores in the names of attributes stand for hyphens."""
    named: dict[Any, Any] = {
        key.removesuffix("_").replace("_", "-"): str(value) for key, value in attributes.items()
    }
    return Tag(name, named, list(children))
