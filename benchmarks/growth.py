"""Measure how costs grow: ``make bench-growth``, or ``python benchmarks/growth.py``.

There are two parts: the CPU time of a poll of an unchanged maildrop by the number of its
messages, and the server's memory by the number of logged-in idle connections.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from statistics import median

import report
from peers import PEERS, Popserv
from run import (
    Bench,
    add_common_options,
    comma_separated,
    environment,
    exit_code,
    installed_peers,
    measure,
    parse,
    print_status,
    schedule,
    work_directory,
)
from workloads import Memory, Steady

MESSAGES = tuple(10**power for power in range(1, 7))
CONNECTIONS = (0, 1, 10, 100, 1000, 10_000)
PARTS = ("poll", "memory")
DEFAULT_REMEMBER = 500_000
"""popserv's default for --cache-messages."""
DISTINCT = 1000
"""The maximum number of different messages in a maildrop; the rest are links to them."""


def parse_command_line(argv):
    """Return the arguments of a command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--part",
        type=comma_separated(PARTS),
        default=list(PARTS),
        help=f"parts, separated by commas: {', '.join(PARTS)} [default: both]",
    )
    parser.add_argument(
        "--peers",
        type=comma_separated(PEERS),
        default=["popserv", "dovecot-tuned", "twisted"],
        help=f"servers, separated by commas: {', '.join(PEERS)} "
        "[default: popserv,dovecot-tuned,twisted]",
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="number of rounds of polls [default: 3]"
    )
    parser.add_argument(
        "--messages",
        type=int,
        default=1_000_000,
        help="maximum number of messages [default: 1000000]",
    )
    parser.add_argument(
        "--peers-messages",
        type=int,
        default=100_000,
        help="maximum number of messages for the other servers, which take long [default: 100000]",
    )
    parser.add_argument(
        "--connections",
        type=int,
        default=10_000,
        help="maximum number of connections [default: 10000]",
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=1000,
        help="maximum number of connections for Dovecot, which has one process per session "
        "[default: 1000]",
    )
    parser.set_defaults(popserv=[])
    add_common_options(parser)
    return parse(parser, argv)


def fits(directory, messages):
    """Tell whether links for so many messages fit on the disk; print the reason if not."""
    disk = os.statvfs(directory)
    # A name uses about 60 octets of a directory, which is half empty after a block was split.
    octets = 150 * messages
    limit = os.pathconf(directory, "PC_LINK_MAX")
    if disk.f_bavail * disk.f_frsize < octets:
        print_status(f"not measured: {messages:,} messages need {octets >> 20} MB in {directory}")
    elif disk.f_files and disk.f_favail < DISTINCT:
        print_status(f"not measured: {directory} has no free inodes")
    elif messages / DISTINCT > limit:
        print_status(f"not measured: {directory} allows only {limit} links to a file")
    else:
        return True
    return False


def poll_steps(arguments, directory, peers):
    """Return the steps of the polls, and the popserv with a larger --cache-messages or None."""
    sizes = (3, 30) if arguments.tiny else MESSAGES
    rounds = 1 if arguments.tiny else arguments.rounds
    steps, large = [], None
    for size in sizes:
        polled = peers if size <= arguments.peers_messages else peers[:0]
        if size > arguments.messages or not fits(directory, size * max(1, len(polled))):
            break
        if size > DEFAULT_REMEMBER and any(isinstance(peer, Popserv) for peer in peers):
            large = large or Popserv(directory, ("--cache-messages", f"{size + 1000}"))
            polled = [*polled, large]
        elif not polled:
            polled = [peer for peer in peers if isinstance(peer, Popserv)]
        workload = Steady(
            f"poll-{size}",
            f"poll of {size:,} messages",
            kind="poll",
            messages=size,
            distinct=DISTINCT,
        )
        steps += schedule([workload], polled, rounds)
    return steps, large


def memory_steps(arguments, peers):
    """Return the steps of the memory measurement."""
    sizes = (0, 1, 5) if arguments.tiny else CONNECTIONS
    sizes = tuple(size for size in sizes if size <= arguments.connections)
    for peer in peers:
        if peer.max_connections is not None:
            peer.max_connections = arguments.processes
        if isinstance(peer, Popserv):
            peer.connection_limit = arguments.connections + 1
    return schedule([Memory("memory", "memory", rounds=1, connections=sizes)], peers, 1)


def prepare_mail(bench, steps):
    """Generate the mail of all steps."""
    done = set()
    for workload, _, peer in steps:
        if (workload.name, peer.name) not in done:
            done.add((workload.name, peer.name))
            print_status(f"generating mail: {workload.title}, {peer.name}")
            workload.prepare(bench, peer)


def poll_points(results):
    """Return for each peer its seconds, or the reason for a failure, by number of messages."""
    points = {}
    for workload, by_peer in results.items():
        if workload == "memory":
            continue
        size = int(workload.partition("-")[2])
        for peer, runs in by_peer.items():
            name = "popserv" if peer.startswith("popserv") else peer
            value = runs if isinstance(runs, str) else median(run.value for run in runs)
            points.setdefault(name, {})[size] = value
    return points


def memory_points(results):
    """Return for each peer its octets by number of connections, or the reason for a failure."""
    return {
        peer: runs if isinstance(runs, str) else dict(runs[0].points)
        for peer, runs in results.get("memory", {}).items()
    }


def points_table(size_name, points, unit):
    """Return the header and the rows of a table with one row for each size."""
    curves = {peer: curve for peer, curve in points.items() if not isinstance(curve, str)}
    sizes = sorted({size for curve in curves.values() for size in curve})

    def cell(curve, size):
        if size not in curve:
            return "not measured"
        value = curve[size]
        return f"failed: {value}" if isinstance(value, str) else report.format_quantity(value, unit)

    rows = [[f"{size:,}", *(cell(curve, size) for curve in curves.values())] for size in sizes]
    return [size_name, *curves], rows


def memory_table(points):
    """Return the header and the rows of the memory; the last row is per connection."""
    header, rows = points_table("connections", points, "B")
    last = ["per connection"]
    for peer in header[1:]:
        curve = points[peer]
        largest = max(curve)
        value = (curve[largest] - curve[min(curve)]) / largest if largest else 0
        last.append(report.format_quantity(value, "B"))
    return header, [*rows, last]


def plot(path, points, labels, unit):
    """Plot the points on logarithmic axes, in a size for the documentation."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    curves = {
        peer: sorted((x, y) for x, y in curve.items() if not isinstance(y, str))
        for peer, curve in points.items()
        if not isinstance(curve, str)
    }
    picture, axes = report.figure(6.4, 4)
    for peer, pairs in curves.items():
        if pairs:
            colour = report.COLOURS.get(peer)
            axes.plot(*zip(*pairs, strict=True), marker="o", label=peer, color=colour)
    if any(x == 0 for pairs in curves.values() for x, _ in pairs):
        # A logarithmic axis has no 0.
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlim(left=0)
    else:
        axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value, unit)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.grid(alpha=0.3)
    axes.legend()
    picture.savefig(path, dpi=80)


def _tick(value, unit):
    number, _, name = report.format_quantity(value, unit).partition(" ")
    return f"{float(number.replace(',', '')):g} {name}"


def describe(arguments, results, left_out, minutes):
    """Return the text above the tables: the environment, the options and what is left out."""
    here = environment()
    lines = [
        f"Python {here['python']}, Twisted {here['twisted']}, Linux {here['kernel']}, "
        f"{here['cores']} cores; {minutes} minutes."
    ]
    large = {
        peer for by_peer in results.values() for peer in by_peer if peer.startswith("popserv -")
    }
    lines += [
        f"With more than {DEFAULT_REMEMBER:,} messages popserv runs with {peer.partition(' ')[2]}."
        for peer in sorted(large)
    ]
    if arguments.tiny:
        lines.append("Run with --tiny, which only tests the code: the figures are meaningless.")
    return "\n\n".join(lines + [f"Not measured: {reason}." for reason in left_out])


def write(arguments, results, text):
    """Write the tables and plots; return the text to print."""
    folders = [folder for folder in (arguments.results, arguments.docs) if folder]
    parts = ["# Growth", text]
    polls, memory = poll_points(results), memory_points(results)
    tables = {}
    if polls:
        tables["poll"] = points_table("messages", polls, "s")
        parts += ["## CPU time of a poll of an unchanged maildrop", report.table(*tables["poll"])]
    if memory:
        tables["memory"] = memory_table(memory)
        parts += ["## Memory of the process tree (PSS)", report.table(*tables["memory"])]
    plots = report.has_matplotlib(print_status)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            report.write_csv(folder / f"growth-{name}.csv", *table)
        (folder / "growth-about.txt").write_text(f"{text}\n")
        if plots and "poll" in tables:
            labels = ("messages in the maildrop", "CPU time of a poll")
            plot(folder / "growth-poll.png", polls, labels, "s")
        if plots and "memory" in tables:
            labels = ("logged-in idle connections", "memory of the process tree")
            plot(folder / "growth-memory.png", memory, labels, "B")
    whole = "\n\n".join(parts)
    (arguments.results / "growth.md").write_text(f"{whole}\n")
    detailed = {
        workload: {
            peer: runs if isinstance(runs, str) else [asdict(run) for run in runs]
            for peer, runs in by_peer.items()
        }
        for workload, by_peer in results.items()
    }
    (arguments.results / "growth.json").write_text(json.dumps(detailed, indent=1) + "\n")
    print_status(f"results written to {', '.join(str(folder) for folder in folders)}")
    return whole


def main(argv=None):
    """Run the benchmark; return the exit code."""
    arguments = parse_command_line(argv)
    start = time.monotonic()
    with work_directory(arguments) as (directory, peers):
        bench = Bench(arguments, directory)
        installed, left_out = installed_peers(arguments, directory)
        peers += installed
        steps = []
        if "poll" in arguments.part:
            steps, large = poll_steps(arguments, directory, installed)
            peers += [large] if large else []
        if "memory" in arguments.part:
            steps += memory_steps(arguments, installed)
            for peer in installed:
                limit = bench.open_files // peer.files_per_session
                if limit < arguments.connections:
                    left_out.append(
                        f"{peer.name} with more than {limit:,} connections; each one uses "
                        f"{peer.files_per_session} of at most {bench.open_files:,} open files"
                    )
        prepare_mail(bench, steps)
        bench.wait_for_mail()
        results, _ = measure(bench, steps)
    minutes = round((time.monotonic() - start) / 60, 1)
    print(write(arguments, results, describe(arguments, results, left_out, minutes)))
    return exit_code(results)


if __name__ == "__main__":
    sys.exit(main())
