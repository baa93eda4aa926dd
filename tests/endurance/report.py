"""The tables and the plot of a long run."""

import csv
import os
import platform

import twisted
from tests.endurance.trends import BOUNDS

TITLES = {
    "sessions": "sessions",
    "seconds": "seconds",
    "rate": "a second",
    "p50": "p50 ms",
    "p99": "p99 ms",
    "cpu": "CPU ms",
    "memory": "memory MiB",
    "descriptors": "files",
    "threads": "threads",
    "kills": "kills",
    "broken": "broken off",
}
"""The titles of columns by the fields of a sample."""

FORMATS = {"seconds": "{:.0f}", "rate": "{:.0f}", "p50": "{:.2f}", "p99": "{:.2f}"}
FORMATS |= {"cpu": "{:.3f}", "memory": "{:.2f}"}

PANELS = {
    "memory": "resident memory, MiB",
    "descriptors": "open files",
    "threads": "threads",
    "p50": "half of the polls, ms",
    "p99": "99 % of the polls, ms",
    "cpu": "CPU time of a session, ms",
}
"""The titles of the panels of the plot."""


def cells(values):
    """Return values of fields, given by name, as texts."""
    return [
        FORMATS.get(name, "{:g}" if name != "sessions" else "{}").format(value)
        for name, value in values
    ]


def header():
    """Return the titles above the lines of samples."""
    return " ".join(title.rjust(10) for title in TITLES.values())


def line(sample):
    """Return a line about a sample."""
    return " ".join(cell.rjust(10) for cell in cells(sample._asdict().items()))


def trend_rows(found):
    """Return a row for each trend: the figure, before, after, and the bound."""
    return [
        [
            BOUNDS[each.name].title,
            *cells([(each.name, each.before), (each.name, each.after)]),
            str(BOUNDS[each.name]),
        ]
        for each in found
    ]


def about(samples):
    """Return a line about a run."""
    lasts = [of_server[-1] for of_server in samples.values()]
    return (
        f"{lasts[0].sessions:,} sessions of each server in {len(samples[next(iter(samples))])} "
        f"rounds, {sum(last.seconds for last in lasts) / 60 / len(lasts):.0f} minutes, "
        f"{max(last.kills for last in lasts)} workers killed, "
        f"{max(last.broken for last in lasts)} sessions broken off by that; "
        f"Python {platform.python_version()}, Twisted {twisted.__version__}, "
        f"Linux {platform.release()}, {os.cpu_count()} cores."
    )


def write(folder, samples, found):
    """Write the tables, and the plot if matplotlib is installed.

    ``samples`` and ``found`` have the samples and the trends of each server by its name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "endurance-about.txt").write_text(f"{about(samples)}\n")
    rows = [
        [name, *cells(sample._asdict().items())]
        for name, of_server in samples.items()
        for sample in of_server
    ]
    _write_csv(folder / "endurance.csv", [["server", *TITLES.values()], *rows])
    rows = [[name, *row] for name, of_server in found.items() for row in trend_rows(of_server)]
    titles = ["server", "figure", "at the start", "at the end", "bound"]
    _write_csv(folder / "endurance-trends.csv", [titles, *rows])
    _plot(folder / "endurance.png", samples)


def _write_csv(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def _plot(path, samples):
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no plot: matplotlib is missing; run: python -m pip install 'matplotlib>=3.6'")
        return
    picture = Figure(figsize=(9, 8), layout="constrained")
    for axes, (name, title) in zip(picture.subplots(3, 2).flat, PANELS.items(), strict=True):
        for server, of_server in samples.items():
            x = [sample.sessions for sample in of_server]
            axes.plot(x, [getattr(sample, name) for sample in of_server], label=server)
        axes.set_title(title, fontsize="medium")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    picture.axes[0].legend()
    picture.supxlabel("sessions")
    picture.savefig(path, dpi=80)
