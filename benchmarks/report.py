"""Write the results of run.py as tables and plots; the other commands share the tools."""

import csv
import json
from dataclasses import asdict
from statistics import median

BASELINE = "dovecot, tuned"
"""The peer that the ratios are relative to."""

COLOURS = {
    "popserv": "tab:blue",
    BASELINE: "tab:red",
    "dovecot": "tab:orange",
    "twisted.mail": "tab:green",
}
_EXTRA_COLOURS = ("tab:purple", "tab:cyan", "tab:olive", "tab:brown", "tab:pink")
"""For popserv with additional arguments."""


def write(arguments, selected, peers, results, noise, about, print_status):
    """Write latest.md, latest.json and the plots; return the text to print."""
    folder = arguments.results
    folder.mkdir(parents=True, exist_ok=True)
    values = _ratios(selected, peers, results, "value", with_targets=True)
    rates = _ratios(selected, peers, results, "rate")
    text = "\n\n".join(
        (
            "# Results",
            _describe(about, noise),
            "## CPU time per operation or memory per connection, relative to the tuned Dovecot",
            table(*values),
            "## Operations per second, relative to the tuned Dovecot",
            table(*rates),
        )
    )
    if arguments.docs:
        plain = _ratios(selected, peers, results, "value", with_targets=False)
        write_csv(arguments.docs / "results-cpu.csv", *plain)
        write_csv(arguments.docs / "results-rate.csv", *rates)
        (arguments.docs / "results-about.txt").write_text(f"{_describe(about, noise)}\n")
    whole = f"{text}\n\n## All figures\n\n{_details(selected, peers, results)}\n"
    (folder / "latest.md").write_text(whole)
    (folder / "latest.json").write_text(
        json.dumps(
            {
                "about": about,
                "noise": noise,
                "targets": {each.name: each.target for each in selected},
                "results": {
                    workload: {
                        peer: runs if isinstance(runs, str) else [asdict(run) for run in runs]
                        for peer, runs in by_peer.items()
                    }
                    for workload, by_peer in results.items()
                },
            },
            indent=1,
        )
        + "\n"
    )
    if has_matplotlib(print_status):
        _plot_ratios(folder / "ratios.png", selected, peers, results)
        _plot_polls(folder / "poll.png", selected, peers, results)
        _plot_memory(folder / "memory.png", peers, results)
    print_status(f"results written to {folder}")
    return whole if len(selected) == 1 else text


def _median(runs, field="value"):
    """Return the median of a field of the runs, or None if there are no runs."""
    if isinstance(runs, str) or not runs:
        return None
    return median(getattr(run, field) for run in runs)


def _spread(runs):
    """Return half the difference between maximum and minimum, relative to the median."""
    values = [run.value for run in runs]
    return (max(values) - min(values)) / 2 / median(values) if median(values) else 0.0


def format_quantity(value, unit="s"):
    """Return a number of seconds or octets with three digits and a suitable unit."""
    scales = ((1e9, "GB"), (1e6, "MB"), (1e3, "KB"), (1, "B"))
    if unit == "s":
        scales = ((1, "s"), (1e-3, "ms"), (1e-6, "us"))
    scale, name = next((each for each in scales if abs(value) >= each[0]), scales[-1])
    return f"{_digits(value / scale)} {name}"


def _digits(value):
    for limit, digits in ((100, 0), (10, 1), (1, 2), (0.1, 3)):
        if abs(value) >= limit:
            return f"{value:,.{digits}f}"
    return f"{value:.4f}"


def _describe(about, noise):
    cpu = [seconds for seconds, _ in noise]
    waiting = [wall / seconds - 1 for seconds, wall in noise]
    lines = [
        f"Python {about['python']}, Twisted {about['twisted']}, Linux {about['kernel']}, "
        f"{about['cores']} cores; {about['minutes']} minutes, {about['rounds']} rounds, medians.",
        "",
        f"Machine noise: the CPU time of a fixed loop between the rounds deviated from its median "
        f"by {min(cpu) / median(cpu) - 1:+.0%} to {max(cpu) / median(cpu) - 1:+.0%}; the loop "
        f"waited for a core for {median(waiting):.0%} of that time (at most {max(waiting):.0%}).",
    ]
    if about["tiny"]:
        lines += ["", "Run with --tiny, which only tests the code: the figures are meaningless."]
    for reason in about["left_out"]:
        lines += ["", f"Not measured: {reason}."]
    return "\n".join(lines)


def _ratios(selected, peers, results, field, *, with_targets=False):
    """Return the header and the rows of the table of one field of the runs."""
    others = [peer for peer in peers if peer != BASELINE]
    header = ["workload", BASELINE]
    for peer in others:
        header.append(peer)
        if with_targets and peer.startswith("popserv"):
            header.append("target")
    rows = []
    for workload in selected:
        by_peer = results[workload.name]
        baseline = _median(by_peer.get(BASELINE, []), field)
        if field == "rate" and workload.unit != "s":
            continue
        row = [workload.title, _absolute(by_peer.get(BASELINE, "left out"), field, workload.unit)]
        for peer in others:
            value = _median(by_peer[peer], field)
            if value is None or not baseline:
                row.append(_absolute(by_peer[peer], field, workload.unit))
            else:
                row.append(
                    f"{_digits(value / baseline)} "
                    f"({_absolute(by_peer[peer], field, workload.unit)})"
                )
            if with_targets and peer.startswith("popserv"):
                row.append(_target(workload, value, baseline))
        rows.append(row)
    return header, rows


def _absolute(runs, field, unit):
    value = _median(runs, field)
    if value is None:
        return "-" if runs == "left out" or not runs else "failed"
    if field == "rate":
        return f"{_digits(value)}/s"
    return f"{format_quantity(value, unit)} ±{_spread(runs):.0%}"


def _target(workload, value, baseline):
    if workload.target is None:
        return ""
    target = f"<= {_digits(workload.target)}"
    if value is None or not baseline:
        return target
    return f"{target} {'met' if value <= workload.target * baseline else 'missed'}"


def _details(selected, peers, results):
    header = [
        *("workload", "peer", "median", "minimum", "maximum"),
        *("per second", "client CPU", "slowest"),
    ]
    rows = []
    for workload in selected:
        for peer in peers:
            runs = results[workload.name][peer]
            row = [workload.name, peer]
            if isinstance(runs, str):
                row += [f"failed: {runs}", "", "", "", "", ""]
            else:
                values = [run.value for run in runs]
                row += [
                    format_quantity(each, workload.unit) for each in (median(values), min(values))
                ]
                row += [format_quantity(max(values), workload.unit)]
                if workload.unit == "s":
                    row += [
                        _digits(_median(runs, "rate")),
                        format_quantity(_median(runs, "client")),
                        format_quantity(max(run.slowest for run in runs)),
                    ]
                else:
                    row += ["", "", ""]
            rows.append(row)
    return table(header, rows)


def write_csv(path, header, rows):
    """Write a table as a CSV file, which the documentation includes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def table(header, rows):
    """Return a Markdown table with aligned columns."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(cells):
        return "| " + " | ".join(map(str.ljust, cells, widths)) + " |"

    return "\n".join([line(header), line(["-" * width for width in widths]), *map(line, rows)])


def _colours(peers):
    """Return a colour for each peer; a peer has the same colour in all plots."""
    unnamed = [peer for peer in peers if peer not in COLOURS]
    return COLOURS | {
        peer: _EXTRA_COLOURS[at % len(_EXTRA_COLOURS)] for at, peer in enumerate(unnamed)
    }


def has_matplotlib(print_status):
    """Tell whether matplotlib is installed; print a line if it is not."""
    try:
        import matplotlib
    except ImportError:
        print_status(
            "no plots: matplotlib is missing; run: python -m pip install 'matplotlib>=3.6'"
        )
        return False
    matplotlib.use("Agg")
    return True


def figure(width, height):
    """Return a new figure, with its size in inches, and its axes."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(width, height), layout="constrained")
    return picture, picture.add_subplot()


def _plot_ratios(path, selected, peers, results):
    """Plot the ratios as bars, with the targets."""
    rows = [
        each
        for each in selected
        if _median(results[each.name].get(BASELINE, [])) and each.name != "poll-1000000"
    ]
    if not rows:
        return
    picture, axes = figure(10, 1 + 0.6 * len(rows))
    colours = _colours(peers)
    others = [peer for peer in peers if peer != BASELINE]
    height = 0.8 / max(1, len(others))
    for number, peer in enumerate(others):
        positions, ratios = [], []
        for row, workload in enumerate(rows):
            value = _median(results[workload.name][peer])
            if value is not None:
                positions.append(row + (number + 0.5) * height - 0.4)
                ratios.append(value / _median(results[workload.name][BASELINE]))
        axes.barh(positions, ratios, height, label=peer, color=colours[peer])
    targets = [(row, each.target) for row, each in enumerate(rows) if each.target]
    if targets:
        axes.vlines(
            [target for _, target in targets],
            [row - 0.45 for row, _ in targets],
            [row + 0.45 for row, _ in targets],
            colors="black",
            label="target for popserv",
        )
    axes.axvline(1, color=COLOURS[BASELINE], linestyle=":", label=BASELINE)
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [each.title for each in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("CPU time per operation or memory per connection, relative; lower is better")
    picture.legend(loc="outside upper right", ncols=3)
    picture.savefig(path, dpi=100)


def _plot_polls(path, selected, peers, results):
    """Plot the CPU time of a poll by the number of messages."""
    sizes = [each for each in selected if each.name.startswith("poll-")]
    if len(sizes) < 2:
        return
    picture, axes = figure(8, 5)
    colours = _colours(peers)
    for peer in peers:
        points = [
            (int(each.name.partition("-")[2]), _median(results[each.name][peer])) for each in sizes
        ]
        points = sorted(point for point in points if point[1])
        axes.plot(*zip(*points, strict=True), marker="o", label=peer, color=colours[peer])
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("messages in the maildrop")
    axes.set_ylabel("CPU seconds of the server per poll")
    axes.grid(alpha=0.3)
    axes.legend()
    picture.savefig(path, dpi=100)


def _plot_memory(path, peers, results):
    """Plot the memory by the number of connections."""
    by_peer = results.get("memory")
    if not by_peer:
        return
    picture, axes = figure(8, 5)
    colours = _colours(peers)
    for peer in peers:
        if not isinstance(by_peer[peer], str) and by_peer[peer]:
            points = by_peer[peer][0].points
            axes.plot(
                [connections for connections, _ in points],
                [octets / 1e6 for _, octets in points],
                marker="o",
                label=peer,
                color=colours[peer],
            )
    axes.set_xlabel("logged-in idle connections")
    axes.set_ylabel("memory of the process tree in MB (PSS)")
    axes.grid(alpha=0.3)
    axes.legend()
    picture.savefig(path, dpi=100)
