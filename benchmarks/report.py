"""What was found, as tables and as pictures."""

import csv
import json
from dataclasses import asdict
from statistics import median

STANDARD = "dovecot, tuned"
"""The peer whose figures are 1."""

COLOURS = {
    "popserv": "tab:blue",
    STANDARD: "tab:red",
    "dovecot": "tab:orange",
    "twisted.mail": "tab:green",
}
_MORE = ("tab:purple", "tab:cyan", "tab:olive", "tab:brown", "tab:pink")
"""For popserv with other arguments."""


def write(arguments, chosen, peers, results, noise, about, say):
    """Write latest.md, latest.json and the plots; return the tables."""
    folder = arguments.results
    folder.mkdir(parents=True, exist_ok=True)
    used = _ratios(chosen, peers, results, "value", with_targets=True)
    rates = _ratios(chosen, peers, results, "rate")
    text = "\n\n".join(
        (
            "# Measured",
            _about(about, noise),
            "## CPU time of the server, or memory; the tuned Dovecot's = 1",
            table(*used),
            "## Operations a second; the tuned Dovecot's = 1",
            table(*rates),
        )
    )
    if arguments.docs:
        plain = _ratios(chosen, peers, results, "value", with_targets=False)
        write_csv(arguments.docs / "results-cpu.csv", *plain)
        write_csv(arguments.docs / "results-rate.csv", *rates)
        (arguments.docs / "results-about.txt").write_text(f"{_about(about, noise)}\n")
    whole = f"{text}\n\n## Every figure\n\n{_details(chosen, peers, results)}\n"
    (folder / "latest.md").write_text(whole)
    (folder / "latest.json").write_text(
        json.dumps(
            {
                "about": about,
                "noise": noise,
                "targets": {each.name: each.target for each in chosen},
                "results": {
                    workload: {
                        peer: runs if isinstance(runs, str) else [asdict(run) for run in runs]
                        for peer, runs in found.items()
                    }
                    for workload, found in results.items()
                },
            },
            indent=1,
        )
        + "\n"
    )
    if can_plot(say):
        _plot_ratios(folder / "ratios.png", chosen, peers, results)
        _plot_polls(folder / "poll.png", chosen, peers, results)
        _plot_memory(folder / "memory.png", peers, results)
    say(f"written to {folder}")
    return whole if len(chosen) == 1 else text


def _middle(runs, field="value"):
    """Return the median, or None if there is nothing."""
    if isinstance(runs, str) or not runs:
        return None
    return median(getattr(run, field) for run in runs)


def _spread(runs):
    """Return half of what lies between the least and the most, as a part of the median."""
    values = [run.value for run in runs]
    return (max(values) - min(values)) / 2 / median(values) if median(values) else 0.0


def shown(value, unit="s"):
    """Return a figure with a unit and three digits."""
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


def _about(about, noise):
    cpu = [each for each, _ in noise]
    waited = [wall / each - 1 for each, wall in noise]
    lines = [
        f"Python {about['python']}, Twisted {about['twisted']}, Linux {about['kernel']}, "
        f"{about['cores']} cores; {about['minutes']} minutes, {about['rounds']} rounds, medians.",
        "",
        f"The machine's noise: the same loop, between the rounds, took from "
        f"{min(cpu) / median(cpu) - 1:+.0%} to {max(cpu) / median(cpu) - 1:+.0%} of its median "
        f"in CPU time, and waited for a core {median(waited):.0%} of that "
        f"(at most {max(waited):.0%}).",
    ]
    if about["tiny"]:
        lines += ["", "With --tiny, which only tries the code: the figures mean nothing."]
    for reason in about["absent"]:
        lines += ["", f"Not measured: {reason}."]
    return "\n".join(lines)


def _ratios(chosen, peers, results, field, *, with_targets=False):
    """Return the head and the rows of one figure."""
    others = [peer for peer in peers if peer != STANDARD]
    head = ["workload", STANDARD]
    for peer in others:
        head.append(peer)
        if with_targets and peer.startswith("popserv"):
            head.append("target")
    rows = []
    for workload in chosen:
        found = results[workload.name]
        standard = _middle(found.get(STANDARD, []), field)
        if field == "rate" and workload.unit != "s":
            continue
        row = [workload.title, _absolute(found.get(STANDARD, "absent"), field, workload.unit)]
        for peer in others:
            value = _middle(found[peer], field)
            if value is None or not standard:
                row.append(_absolute(found[peer], field, workload.unit))
            else:
                row.append(
                    f"{_digits(value / standard)} ({_absolute(found[peer], field, workload.unit)})"
                )
            if with_targets and peer.startswith("popserv"):
                row.append(_target(workload, value, standard))
        rows.append(row)
    return head, rows


def _absolute(runs, field, unit):
    value = _middle(runs, field)
    if value is None:
        return "-" if runs == "absent" or not runs else "fails"
    if field == "rate":
        return f"{_digits(value)}/s"
    return f"{shown(value, unit)} ±{_spread(runs):.0%}"


def _target(workload, value, standard):
    if workload.target is None:
        return ""
    target = f"<= {_digits(workload.target)}"
    if value is None or not standard:
        return target
    return f"{target} {'met' if value <= workload.target * standard else 'missed'}"


def _details(chosen, peers, results):
    head = ["workload", "peer", "median", "least", "most", "a second", "load's CPU", "slowest"]
    rows = []
    for workload in chosen:
        for peer in peers:
            runs = results[workload.name][peer]
            row = [workload.name, peer]
            if isinstance(runs, str):
                row += [f"fails: {runs}", "", "", "", "", ""]
            else:
                values = [run.value for run in runs]
                row += [shown(each, workload.unit) for each in (median(values), min(values))]
                row += [shown(max(values), workload.unit)]
                if workload.unit == "s":
                    row += [
                        _digits(_middle(runs, "rate")),
                        shown(_middle(runs, "client")),
                        shown(max(run.slowest for run in runs)),
                    ]
                else:
                    row += ["", "", ""]
            rows.append(row)
    return table(head, rows)


def write_csv(path, head, rows):
    """Write a table for the documentation, which includes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([head, *rows])


def table(head, rows):
    """Return a table that people can read as it is, and Markdown too."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]

    def line(cells):
        return "| " + " | ".join(map(str.ljust, cells, widths)) + " |"

    return "\n".join([line(head), line(["-" * width for width in widths]), *map(line, rows)])


def _colours(peers):
    """Return a colour for each peer, the same in all plots."""
    unnamed = [peer for peer in peers if peer not in COLOURS]
    return COLOURS | {peer: _MORE[at % len(_MORE)] for at, peer in enumerate(unnamed)}


def can_plot(say):
    """Tell whether there is what draws; say it if there is not."""
    try:
        import matplotlib
    except ImportError:
        say("no plots: matplotlib is missing (pip install 'popserv[bench]')")
        return False
    matplotlib.use("Agg")
    return True


def figure(width, height):
    """Return a figure of so many inches, and its axes."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(width, height), layout="constrained")
    return picture, picture.add_subplot()


def _plot_ratios(path, chosen, peers, results):
    """Bars of the ratios, with the targets."""
    rows = [
        each
        for each in chosen
        if _middle(results[each.name].get(STANDARD, [])) and each.name != "poll-1000000"
    ]
    if not rows:
        return
    picture, axes = figure(10, 1 + 0.6 * len(rows))
    colours = _colours(peers)
    others = [peer for peer in peers if peer != STANDARD]
    height = 0.8 / max(1, len(others))
    for number, peer in enumerate(others):
        places, ratios = [], []
        for row, workload in enumerate(rows):
            value = _middle(results[workload.name][peer])
            if value is not None:
                places.append(row + (number + 0.5) * height - 0.4)
                ratios.append(value / _middle(results[workload.name][STANDARD]))
        axes.barh(places, ratios, height, label=peer, color=colours[peer])
    targets = [(row, each.target) for row, each in enumerate(rows) if each.target]
    if targets:
        axes.vlines(
            [target for _, target in targets],
            [row - 0.45 for row, _ in targets],
            [row + 0.45 for row, _ in targets],
            colors="black",
            label="target of popserv",
        )
    axes.axvline(1, color=COLOURS[STANDARD], linestyle=":", label=STANDARD)
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [each.title for each in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("CPU time of the server, or memory; less is better")
    picture.legend(loc="outside upper right", ncols=3)
    picture.savefig(path, dpi=100)


def _plot_polls(path, chosen, peers, results):
    """CPU time of a poll over the number of messages."""
    sizes = [each for each in chosen if each.name.startswith("poll-")]
    if len(sizes) < 2:
        return
    picture, axes = figure(8, 5)
    colours = _colours(peers)
    for peer in peers:
        points = [
            (int(each.name.partition("-")[2]), _middle(results[each.name][peer])) for each in sizes
        ]
        points = sorted(point for point in points if point[1])
        axes.plot(*zip(*points, strict=True), marker="o", label=peer, color=colours[peer])
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("messages in the maildrop")
    axes.set_ylabel("CPU seconds of the server for login UIDL LIST QUIT")
    axes.grid(alpha=0.3)
    axes.legend()
    picture.savefig(path, dpi=100)


def _plot_memory(path, peers, results):
    """Memory over connections."""
    found = results.get("memory")
    if not found:
        return
    picture, axes = figure(8, 5)
    colours = _colours(peers)
    for peer in peers:
        if not isinstance(found[peer], str) and found[peer]:
            points = found[peer][0].points
            axes.plot(
                [connections for connections, _ in points],
                [octets / 1e6 for _, octets in points],
                marker="o",
                label=peer,
                color=colours[peer],
            )
    axes.set_xlabel("logged-in idle connections")
    axes.set_ylabel("MB of the whole process tree (PSS)")
    axes.grid(alpha=0.3)
    axes.legend()
    picture.savefig(path, dpi=100)
