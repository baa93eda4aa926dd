"""Show how costs grow: ``make bench-growth``, or ``python benchmarks/growth.py``.

Two parts: the CPU time of a poll that finds nothing new, over the messages in the maildrop;
and the server's memory, over the connections that are logged in and do nothing.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from statistics import median

import report
from peers import KINDS, Popserv
from run import (
    Bench,
    about_here,
    add_common,
    exit_code,
    find_peers,
    in_order,
    measure,
    names_of,
    parse,
    say,
    settle,
    workplace,
)
from workloads import Memory, Steady

MESSAGES = tuple(10**power for power in range(1, 7))
CONNECTIONS = (0, 1, 10, 100, 1000, 10_000)
PARTS = ("poll", "memory")
REMEMBERED = 500_000
"""Messages that popserv remembers without --cache-messages."""
SOURCES = 1000
"""How many different messages there are in a maildrop, at most; the rest are links to them."""


def arguments_of(given):
    """Return what the command line says."""
    known = ", ".join(KINDS)
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--part", type=names_of(PARTS), default=list(PARTS), help=f"{', '.join(PARTS)} [both]"
    )
    parser.add_argument(
        "--peers",
        type=names_of(KINDS),
        default=["popserv", "dovecot-tuned", "twisted"],
        help=f"{known} [default: popserv,dovecot-tuned,twisted]",
    )
    parser.add_argument("--rounds", type=int, default=3, help="of polls [default: 3]")
    parser.add_argument(
        "--messages", type=int, default=1_000_000, help="at most [default: 1000000]"
    )
    parser.add_argument(
        "--peers-messages",
        type=int,
        default=100_000,
        help="at most with others than popserv, which take long [default: 100000]",
    )
    parser.add_argument("--connections", type=int, default=10_000, help="at most [default: 10000]")
    parser.add_argument(
        "--processes",
        type=int,
        default=1000,
        help="connections at most with Dovecot, which has a process for each [default: 1000]",
    )
    parser.set_defaults(popserv=[])
    add_common(parser)
    return parse(parser, given)


def fits(directory, maildrops):
    """Tell whether links for so many messages fit on the disk; say it if they do not."""
    disk = os.statvfs(directory)
    # A name takes some 60 octets of a directory, which is half empty when it has been split.
    octets = 150 * maildrops
    limit = os.pathconf(directory, "PC_LINK_MAX")
    if disk.f_bavail * disk.f_frsize < octets:
        say(f"not measured: {maildrops:,} messages need {octets >> 20} MB in {directory}")
    elif disk.f_files and disk.f_favail < SOURCES:
        say(f"not measured: {directory} has no inodes left")
    elif maildrops / SOURCES > limit:
        say(f"not measured: {directory} takes {limit} links to a file")
    else:
        return True
    return False


def polls(arguments, directory, peers):
    """Return the steps of the first part, and the popserv that remembers more, if any."""
    sizes = (3, 30) if arguments.tiny else MESSAGES
    rounds = 1 if arguments.tiny else arguments.rounds
    steps, large = [], None
    for size in sizes:
        who = peers if size <= arguments.peers_messages else peers[:0]
        if size > arguments.messages or not fits(directory, size * max(1, len(who))):
            break
        if size > REMEMBERED and any(isinstance(peer, Popserv) for peer in peers):
            large = large or Popserv(directory, ("--cache-messages", f"{size + 1000}"))
            who = [*who, large]
        elif not who:
            who = [peer for peer in peers if isinstance(peer, Popserv)]
        workload = Steady(
            f"poll-{size}",
            f"poll of {size:,} messages",
            kind="poll",
            messages=size,
            sources=SOURCES,
        )
        steps += in_order([workload], who, rounds)
    return steps, large


def idle(arguments, peers):
    """Return the steps of the second part."""
    sizes = (0, 1, 5) if arguments.tiny else CONNECTIONS
    sizes = tuple(size for size in sizes if size <= arguments.connections)
    for peer in peers:
        if peer.most_connections is not None:
            peer.most_connections = arguments.processes
        if isinstance(peer, Popserv):
            peer.takes = arguments.connections + 1
    return in_order([Memory("memory", "memory", rounds=1, connections=sizes)], peers, 1)


def prepared(bench, steps):
    """Make the mail of all steps."""
    done = set()
    for workload, _, peer in steps:
        if (workload.name, peer.name) not in done:
            done.add((workload.name, peer.name))
            say(f"making mail: {workload.title}, {peer.name}")
            workload.prepare(bench, peer)


def poll_points(results):
    """Return for each peer the pairs of messages and seconds, or what is wrong."""
    points = {}
    for workload, found in results.items():
        if workload == "memory":
            continue
        size = int(workload.partition("-")[2])
        for peer, runs in found.items():
            name = "popserv" if peer.startswith("popserv") else peer
            value = runs if isinstance(runs, str) else median(run.value for run in runs)
            points.setdefault(name, {})[size] = value
    return points


def memory_points(results):
    """Return for each peer the pairs of connections and octets, or what is wrong."""
    return {
        peer: runs if isinstance(runs, str) else dict(runs[0].points)
        for peer, runs in results.get("memory", {}).items()
    }


def table_of(what, points, unit):
    """Return the head and rows of points."""
    points = {peer: found for peer, found in points.items() if not isinstance(found, str)}
    sizes = sorted({size for found in points.values() for size in found})

    def cell(found, size):
        value = found.get(size, "not tried")
        return f"fails: {value}" if isinstance(value, str) and size in found else _shown(value)

    def _shown(value):
        return value if isinstance(value, str) else report.shown(value, unit)

    rows = [[f"{size:,}", *(cell(found, size) for found in points.values())] for size in sizes]
    return [what, *points], rows


def memory_rows(points):
    """Return the table of memory, with what a connection takes of the largest number."""
    head, rows = table_of("connections", points, "B")
    last = ["a connection"]
    for peer in head[1:]:
        most = max(points[peer])
        value = (points[peer][most] - points[peer][min(points[peer])]) / most if most else 0
        last.append(report.shown(value, "B"))
    return head, [*rows, last]


def plot(path, points, labels, unit):
    """Draw curves on logarithmic axes, small enough for the documentation."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    curves = {
        peer: sorted((x, y) for x, y in found.items() if not isinstance(y, str))
        for peer, found in points.items()
        if not isinstance(found, str)
    }
    picture, axes = report.figure(6.4, 4)
    for peer, pairs in curves.items():
        if pairs:
            colour = report.COLOURS[peer]
            axes.plot(*zip(*pairs, strict=True), marker="o", label=peer, color=colour)
    if any(x == 0 for pairs in curves.values() for x, _ in pairs):
        # 0 has its place, too.
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
    number, _, name = report.shown(value, unit).partition(" ")
    return f"{float(number.replace(',', '')):g} {name}"


def about(arguments, results, absent, minutes):
    """Return what a reader must know."""
    here = about_here()
    lines = [
        f"Python {here['python']}, Twisted {here['twisted']}, Linux {here['kernel']}, "
        f"{here['cores']} cores; {minutes} minutes."
    ]
    remembering = {
        peer for found in results.values() for peer in found if peer.startswith("popserv -")
    }
    lines += [
        f"Above {REMEMBERED:,} messages popserv runs with {peer.partition(' ')[2]}."
        for peer in sorted(remembering)
    ]
    if arguments.tiny:
        lines.append("With --tiny, which only tries the code: the figures mean nothing.")
    return "\n\n".join(lines + [f"Not measured: {reason}." for reason in absent])


def write(arguments, results, text):
    """Write tables and plots; return what to print."""
    folders = [each for each in (arguments.results, arguments.docs) if each]
    parts = ["# Growth", text]
    found = {"poll": poll_points(results), "memory": memory_points(results)}
    tables = {}
    if found["poll"]:
        tables["poll"] = table_of("messages", found["poll"], "s")
        parts += ["## CPU time of a poll, nothing new", report.table(*tables["poll"])]
    if found["memory"]:
        tables["memory"] = memory_rows(found["memory"])
        parts += ["## Memory of the whole process tree (PSS)", report.table(*tables["memory"])]
    plots = report.can_plot(say)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        for name, each in tables.items():
            report.write_csv(folder / f"growth-{name}.csv", *each)
        (folder / "growth-about.txt").write_text(f"{text}\n")
        if plots and "poll" in tables:
            labels = ("messages in the maildrop", "CPU time of a poll")
            plot(folder / "growth-poll.png", found["poll"], labels, "s")
        if plots and "memory" in tables:
            labels = ("logged-in idle connections", "memory of the whole process tree")
            plot(folder / "growth-memory.png", found["memory"], labels, "B")
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
    say(f"written to {', '.join(str(folder) for folder in folders)}")
    return whole


def main(given=None):
    """Return the exit code: 1 if popserv failed anywhere."""
    arguments = arguments_of(given)
    began = time.monotonic()
    with workplace(arguments) as (directory, peers):
        bench = Bench(arguments, directory)
        found, absent = find_peers(arguments, directory)
        peers += found
        steps = []
        if "poll" in arguments.part:
            steps, large = polls(arguments, directory, found)
            peers += [large] if large else []
        if "memory" in arguments.part:
            steps += idle(arguments, found)
            for peer in found:
                most = bench.files // peer.files
                if most < arguments.connections:
                    absent.append(
                        f"{peer.name} with more than {most:,} connections, each of which takes "
                        f"{peer.files} of the {bench.files:,} files that may be open"
                    )
        prepared(bench, steps)
        settle(arguments)
        results, _ = measure(bench, steps)
    minutes = round((time.monotonic() - began) / 60, 1)
    print(write(arguments, results, about(arguments, results, absent, minutes)))
    return exit_code(results)


if __name__ == "__main__":
    sys.exit(main())
