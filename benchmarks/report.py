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
    parts = [_describe(about, noise)]
    for title, header, rows in _tables(selected, peers, results, with_targets=True).values():
        parts += [f"## {title}, relative to the tuned Dovecot", table(header, rows)]
    text = "\n\n".join(["# Results", *parts])
    if arguments.docs:
        plain = _tables(selected, peers, results, with_targets=False)
        for name, (_, header, rows) in plain.items():
            write_csv(arguments.docs / f"results-{name}.csv", header, rows)
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
    if not _is_measured(runs):
        return None
    return median(getattr(run, field) for run in runs)


def ratio(runs, baseline, field="value"):
    """Return the median and the spread of a field's ratio to the baseline's, or None.

    The ratio is formed in each round, because the servers of a round are measured one after
    the other: what slows the machine down for longer than that cancels out.
    """
    if not (_is_measured(runs) and _is_measured(baseline)):
        return None
    pairs = zip(runs, baseline, strict=True)
    return _median_and_spread([getattr(run, field) / getattr(base, field) for run, base in pairs])


def _is_measured(runs):
    return bool(runs) and not isinstance(runs, str)


def _median_and_spread(values):
    """Return the median, and half the difference of maximum and minimum relative to it.

    The spread is None if there is one value, or the median is 0.
    """
    middle = median(values)
    if len(values) == 1 or not middle:
        return middle, None
    return middle, (max(values) - min(values)) / 2 / middle


def _with_spread(text, spread):
    return text if spread is None else f"{text} ±{spread:.0%}"


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
        f"{about['cores']} cores; {about['minutes']} minutes, medians of {about['rounds']} rounds.",
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


def _tables(selected, peers, results, *, with_targets):
    """Return the title, the header and the rows of each table, by its name.

    A table without workloads is left out.
    """
    one_core = [each for each in selected if not each.cores]
    cost = [each for each in one_core if each.figure != "wait"]
    rate = [each for each in cost if each.figure == "cpu"]
    wait = [each for each in one_core if each.figure == "wait"]
    cores = [each for each in selected if each.cores]
    tables = {
        "cpu": ("CPU time per operation, or memory per connection", cost, _cost, _cost_target),
        "rate": ("Operations per second", rate, _rate, _rate_target),
        "cores": (
            "Operations per second on all cores, and CPU time per operation",
            cores,
            _rate_and_cpu,
            _rate_target,
        ),
        "wait": (
            "Duration of an operation beside others, and their number per second",
            wait,
            _wait_and_rate,
            None,
        ),
    }
    return {
        name: (title, *_table(those, peers, results, cell, target if with_targets else None))
        for name, (title, those, cell, target) in tables.items()
        if those
    }


def _table(selected, peers, results, cell, target):
    """Return the header and the rows of a table.

    ``cell`` returns the ratio and the text of a cell.  ``target`` returns the text of popserv's
    target for a ratio; None leaves the column out.
    """
    shown = [name for name in peers if any(name in results[each.name] for each in selected)]
    others = [peer for peer in shown if peer != BASELINE]
    header = ["workload", BASELINE]
    for peer in others:
        header.append(peer)
        if target and peer.startswith("popserv"):
            header.append("target")
    rows = []
    for workload in selected:
        by_peer = results[workload.name]
        baseline = by_peer.get(BASELINE)
        row = [workload.title, _cell(workload, cell, baseline, None)[1]]
        for peer in others:
            value, text = _cell(workload, cell, by_peer.get(peer), baseline)
            row.append(text)
            if target and peer.startswith("popserv"):
                row.append(target(workload, value))
        rows.append(row)
    return header, rows


def _cell(workload, cell, runs, baseline):
    """Return the median ratio, or None if there is none, and the text of a cell."""
    if not _is_measured(runs):
        return None, "failed" if runs else "-"
    return cell(workload, runs, baseline)


def _relative(text, runs, baseline, field):
    """Return the ratio and the text of a cell; ``text`` is the absolute figure."""
    found = ratio(runs, baseline, field)
    if found is None:
        spread = _median_and_spread([getattr(run, field) for run in runs])[1]
        return None, _with_spread(text, spread)
    return found[0], f"{_with_spread(_digits(found[0]), found[1])} ({text})"


def _cost(workload, runs, baseline):
    return _relative(format_quantity(_median(runs), workload.unit), runs, baseline, "value")


def _wait_and_rate(workload, runs, baseline):
    text = f"{format_quantity(_median(runs))}; {_digits(_median(runs, 'rate'))}/s"
    return _relative(text, runs, baseline, "value")


def _rate(workload, runs, baseline):
    return _relative(f"{_digits(_median(runs, 'rate'))}/s", runs, baseline, "rate")


def _rate_and_cpu(workload, runs, baseline):
    text = f"{_digits(_median(runs, 'rate'))}/s; {format_quantity(_median(runs))}"
    return _relative(text, runs, baseline, "rate")


def _cost_target(workload, value):
    return _target("<=", workload.target, value, value is not None and value <= workload.target)


def _rate_target(workload, value):
    target = workload.rate_target
    return _target(">", target, value, None not in (value, target) and value > target)


def _target(sign, target, value, met):
    if target is None:
        return ""
    return f"{sign} {target:g}" + ("" if value is None else " met" if met else " missed")


def _details(selected, peers, results):
    header = [
        *("workload", "peer", "median", "minimum", "maximum"),
        *("per second", "client CPU", "99 %", "slowest"),
    ]
    rows = []
    for workload in selected:
        for peer in peers:
            runs = results[workload.name].get(peer)
            if runs is None:
                continue
            row = [workload.name, peer]
            if isinstance(runs, str):
                row += [f"failed: {runs}", "", "", "", "", "", ""]
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
                        format_quantity(_median(runs, "p99")),
                        format_quantity(max(run.slowest for run in runs)),
                    ]
                else:
                    row += ["", "", "", ""]
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
        if each.figure != "wait"
        and not each.cores
        and _is_measured(results[each.name].get(BASELINE))
        and each.name != "poll-1000000"
    ]
    if not rows:
        return
    picture, axes = figure(10, 1 + 0.6 * len(rows))
    colours = _colours(peers)
    measured = {peer for each in rows for peer in results[each.name]}
    others = [peer for peer in peers if peer in measured and peer != BASELINE]
    height = 0.8 / max(1, len(others))
    for number, peer in enumerate(others):
        positions, ratios = [], []
        for row, workload in enumerate(rows):
            found = ratio(results[workload.name].get(peer), results[workload.name][BASELINE])
            if found is not None:
                positions.append(row + (number + 0.5) * height - 0.4)
                ratios.append(found[0])
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
            (int(each.name.partition("-")[2]), _median(results[each.name].get(peer)))
            for each in sizes
        ]
        points = sorted(point for point in points if point[1])
        if not points:
            continue
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
        if _is_measured(by_peer.get(peer)):
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
