"""Profile the CPU time of popserv: ``make profile``, or ``python benchmarks/profiles.py``.

Each workload is measured in three ways: without a profiler, for the CPU time per operation;
with sampler.py, for the distribution of that time; and under strace, for the system calls.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from html import escape
from statistics import median
from typing import NamedTuple

import report
from peers import TIMEOUT, MeasurementError, Popserv
from run import (
    HERE,
    Bench,
    add_common_options,
    comma_separated,
    environment,
    parse,
    print_status,
    work_directory,
)
from workloads import workloads

DEFAULT_WORKLOADS = ("connect", "login", "poll-500", "life", "retr", "top", "dele", "noop")
KERNEL = "[kernel]"
DOCS_WORKLOADS = ("login", "poll-500", "retr")
"""The workloads whose functions the documentation lists."""
DOCS_FUNCTIONS = 10
"""The number of functions that the documentation lists for each of them."""


class Group(NamedTuple):
    """A part of the code whose CPU time is reported together.

    ``patterns`` are regular expressions that match the start of a frame's name.
    """

    name: str
    colour: str
    patterns: tuple[str, ...]


def _package(name, colour):
    return Group(f"popserv.{name}", colour, (f"popserv/{name}/",))


GROUPS = (
    Group(
        "Twisted: reactor and sockets",
        "#d9b26f",
        (
            r"twisted/internet/(?!defer|protocol)",
            r"twisted/python/(util|context|threadpool|threadable)",
            r"twisted/python/log.py:(callWith|ThreadedContext)",
            r"twisted/_threads/",
            r"socket.py:",
        ),
    ),
    Group("Twisted: Deferreds", "#b7c38a", (r"twisted/internet/defer",)),
    Group("Twisted: logging", "#c9a0c4", (r"twisted/(logger/|python/log\.py)",)),
    Group("Twisted: protocols", "#e3cf9a", (r"twisted/(protocols/|internet/protocol)",)),
    Group("Twisted: cred", "#d0d6a8", (r"twisted/cred/",)),
    _package("server", "#8fb6cf"),
    _package("transports", "#b4d0e0"),
    _package("tls", "#6f9fbd"),
    _package("commands", "#e2a081"),
    _package("core", "#ecc0a9"),
    _package("messages", "#d6b3a0"),
    _package("auth", "#95c9b3"),
    _package("maildrops", "#c5b8a5"),
    _package("runtime", "#a9a4cf"),
    Group("other", "#cccccc", (r"popserv/",)),
)
"""A frame belongs to the first group that matches its name."""

SYSTEM_CALLS = Group("system calls", "#e8746a", ())
"""The group of all CPU time in the kernel."""


@dataclass
class Profile:
    """The profile of one workload, in seconds per operation."""

    cpu: float
    samples: int = 0
    gc: float = 0.0
    """The garbage collector's part of ``cpu``, whichever function it interrupted."""

    stacks: dict = field(default_factory=dict)
    """Seconds by stack: the names of its frames, outermost first, separated by semicolons."""

    calls: dict = field(default_factory=dict)
    """The number of system calls per operation, by name."""


class ProfiledPopserv(Popserv):
    """popserv under sampler.py, which starts sampling on request."""

    def __init__(self, directory, arguments=()):
        super().__init__(directory, arguments)
        self._samples_file = self.directory / "samples.json"
        self._calls_file = self.directory / "calls.txt"
        self.twistd = (sys.executable, HERE / "sampler.py", self._samples_file)
        self.samples = None
        self.calls = None
        if self.owner is not None:
            # The sampler writes there.
            os.chown(self.directory, *self.owner)

    def _toggle_sampler(self):
        self.process.send_signal(signal.SIGUSR2)

    def _run_sampled(self, work):
        self._samples_file.unlink(missing_ok=True)
        self._toggle_sampler()
        result = work()
        self._toggle_sampler()
        deadline = time.monotonic() + TIMEOUT
        while not self._samples_file.exists():
            if time.monotonic() > deadline:
                raise MeasurementError("the sampler has not written its samples")
            time.sleep(0.01)
        self.samples.append((result, json.loads(self._samples_file.read_text())))
        return result

    def _run_traced(self, work):
        command = ["strace", "-c", "-f", "-o", self._calls_file]
        for pid in self.pids():
            command += ["-p", str(pid)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
            line = strace.stderr.readline()
            if "attached" not in line:
                raise MeasurementError(line.strip())
            try:
                result = work()
                self.cpu_when_idle()
            finally:
                strace.send_signal(signal.SIGINT)
                strace.communicate()
        self.calls.append((result, parse_strace(self._calls_file.read_text())))
        return result

    def measure_cpu(self, work):
        """See Peer; also sample if ``samples`` is a list, or trace if ``calls`` is one."""
        run = work
        if self.samples is not None:
            run = lambda: self._run_sampled(work)  # noqa: E731
        if self.calls is not None:
            run = lambda: self._run_traced(work)  # noqa: E731
        return super().measure_cpu(run)


def parse_strace(table):
    """Return the number of calls by name from the table of ``strace -c``."""
    rows = re.findall(r"^ *[\d.]+ +[\d.]+ +\d+ +(\d+) .*?(\w+)$", table, re.M)
    return {name: int(calls) for calls, name in rows if name != "total"}


def count_operations(results):
    """Return the number of operations in a result of the load generator, or in several."""
    results = results if isinstance(results, list) else [results]
    return sum(result["operations"] for result in results)


def shorten(frame):
    """Return a frame's name without the directory in which the code is installed."""
    for prefix in (r".*/(?:site|dist)-packages/", r".*/lib/python3[\d.]*/", f"{HERE.parent}/"):
        frame = re.sub(f"^{prefix}", "", frame)
    return frame


def relevant_frames(frames):
    """Return the frames from the reactor's main loop on, with short names."""
    frames = [frame for frame in map(shorten, frames) if not frame.endswith(":untilConcludes")]
    return frames[next((at for at, frame in enumerate(frames) if "mainLoop" in frame), 0) :]


def make_profile(bench, peer, workload, samples):
    """Return the Profile of a workload from at least so many samples, or those of a minute.

    :raises MeasurementError: the peer failed, or there are no samples.
    """
    runs = [workload.measure(bench, peer).value for _ in range(3)]
    profile = Profile(median(runs))
    peer.samples = []
    deadline = time.monotonic() + TIMEOUT
    while True:
        workload.measure(bench, peer)
        profile.samples = sum(sampled["samples"] for _, sampled in peer.samples)
        if profile.samples >= samples or time.monotonic() > deadline:
            break
    stacks = Counter()
    for _, sampled in peer.samples:
        stacks.update(sampled["stacks"])
    if not stacks:
        raise MeasurementError("no samples")
    # Distribute the CPU time that the server uses without the sampler.
    factor = profile.cpu / stacks.total()
    profile.gc = factor * sum(sampled["gc"] for _, sampled in peer.samples)
    for stack, seconds in stacks.items():
        key = ";".join(relevant_frames(stack.split(";")))
        profile.stacks[key] = profile.stacks.get(key, 0.0) + seconds * factor
    peer.samples = None
    return profile


def count_calls(bench, peer, workload):
    """Return the number of system calls per operation, by name.

    :raises MeasurementError: the peer or strace failed.
    """
    peer.calls = []
    seconds, bench.seconds = bench.seconds, min(bench.seconds, 0.5)
    try:
        workload.measure(bench, peer)
        ((result, calls),) = peer.calls
        operations = count_operations(result)
    finally:
        bench.seconds = seconds
        peer.calls = None
    return {name: number / operations for name, number in sorted(calls.items())}


def group_of(frames):
    """Return the group of the innermost frame that belongs to one."""
    if frames[-1] == KERNEL:
        return SYSTEM_CALLS
    for frame in reversed(frames):
        for group in GROUPS:
            if any(re.match(pattern, frame) for pattern in group.patterns):
                return group
    return GROUPS[-1]


def by_group(profile):
    """Return the seconds of each group."""
    seconds_of = Counter(dict.fromkeys([*GROUPS, SYSTEM_CALLS], 0.0))
    for stack, seconds in profile.stacks.items():
        seconds_of[group_of(stack.split(";"))] += seconds
    return seconds_of


def by_function(profile):
    """Return tuples of a function, its own seconds in Python and in the kernel, and all seconds.

    The last figure includes the functions that it calls.
    """
    own, kernel, total = Counter(), Counter(), Counter()
    for stack, seconds in profile.stacks.items():
        frames = stack.split(";")
        if frames[-1] == KERNEL:
            kernel[frames[-2 if len(frames) > 1 else -1]] += seconds
            del frames[-1]
        elif frames:
            own[frames[-1]] += seconds
        for frame in set(frames):
            total[frame] += seconds
    functions = {*own, *kernel}
    ordered = sorted(functions, key=lambda name: own[name] + kernel[name], reverse=True)
    return [(name, own[name], kernel[name], total[name]) for name in ordered]


def microseconds(seconds):
    """Format seconds as microseconds."""
    return f"{seconds * 1e6:.1f}" if seconds < 1e-4 else f"{seconds * 1e6:,.0f}"


def share(part, whole):
    """Format a share as a percentage."""
    return f"{part / whole:.1%}" if whole else "-"


def groups_table(profiles):
    """Return the header and the rows of the table of groups."""
    header = ["package", *(f"{name}, us" for name in profiles)]
    seconds_of = {name: by_group(profile) for name, profile in profiles.items()}
    rows = []
    for group in (*GROUPS, SYSTEM_CALLS):
        cells = [
            f"{microseconds(seconds_of[name][group])} ({seconds_of[name][group] / profile.cpu:.0%})"
            if seconds_of[name][group]
            else "-"
            for name, profile in profiles.items()
        ]
        if set(cells) != {"-"}:
            rows.append([group.name, *cells])
    rows.append(["total", *(microseconds(profile.cpu) for profile in profiles.values())])
    rows.append(
        [
            "including garbage collection",
            *(microseconds(profile.gc) for profile in profiles.values()),
        ]
    )
    return header, rows


def calls_table(profiles):
    """Return the header and the rows of the table of system calls."""
    totals = Counter()
    for profile in profiles.values():
        totals.update(profile.calls)
    # Rarer calls are not part of the operation.
    names = [name for name, number in totals.most_common() if number > 0.005]
    rows = [
        [name, *(_number(profile.calls.get(name, 0)) for profile in profiles.values())]
        for name in names
    ]
    rows.append(["total", *(_number(sum(profile.calls.values())) for profile in profiles.values())])
    return ["system call", *profiles], rows


def _number(number):
    return f"{number:.2f}".rstrip("0").rstrip(".") if number >= 0.005 else "-"


def functions_table(profile, limit):
    """Return the header and the rows of the table of the functions with the most own time."""
    header = ["function", "Python, us", "kernel, us", "share", "with callees, us"]
    rows = [
        [
            name,
            microseconds(own),
            microseconds(kernel),
            share(own + kernel, profile.cpu),
            microseconds(total),
        ]
        for name, own, kernel, total in by_function(profile)[:limit]
    ]
    return header, rows


def write_flame_graph(path, profile, title):
    """Write a flame graph as SVG: the width of a frame is its share of the CPU time."""
    width, row = 1200, 17
    tree = {}
    for stack, seconds in sorted(profile.stacks.items()):
        children = tree
        for frame in stack.split(";"):
            node = children.setdefault(frame, [0.0, {}])
            node[0] += seconds
            children = node[1]
    elements, max_depth = [], 0

    def draw(children, left, depth, frames):
        nonlocal max_depth
        for frame, (seconds, grandchildren) in children.items():
            frame_width = seconds / profile.cpu * width
            stack = [*frames, frame]
            if frame_width >= 0.4:
                max_depth = max(max_depth, depth)
                label = frame.rpartition(":")[2] if frame_width > 30 else ""
                tooltip = f"{frame}: {microseconds(seconds)} us, {share(seconds, profile.cpu)}"
                elements.append(
                    f'<g transform="translate({left:.1f},{depth * row + 24})">'
                    f"<title>{escape(tooltip)}</title>"
                    f'<rect width="{frame_width:.1f}" height="{row - 1}"'
                    f' fill="{group_of(stack).colour}"/>'
                    f'<text x="2" y="12">{escape(label[: int(frame_width / 6.6)])}</text></g>'
                )
                draw(grandchildren, left, depth + 1, stack)
            left += frame_width

    draw(tree, 0.0, 0, [])
    height = (max_depth + 2) * row + 24
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        ' font-family="monospace" font-size="11">'
        f'<text x="4" y="14">{escape(title)}</text>{"".join(elements)}</svg>\n'
    )


def write(arguments, profiles, about):
    """Write the tables and the flame graphs; return the text to print."""
    results = arguments.results
    results.mkdir(parents=True, exist_ok=True)
    parts = ["# CPU time of popserv", about]
    tables = {"packages": groups_table(profiles)}
    parts += ["## CPU time per operation, by package", report.table(*tables["packages"])]
    if any(profile.calls for profile in profiles.values()):
        tables["calls"] = calls_table(profiles)
        parts += ["## System calls per operation", report.table(*tables["calls"])]
    for name, profile in profiles.items():
        tables[f"functions-{name}"] = functions_table(profile, arguments.functions)
        parts += [f"## {name}", report.table(*tables[f"functions-{name}"])]
        title = f"{name}: {microseconds(profile.cpu)} us per operation, {profile.samples} samples"
        write_flame_graph(results / f"flame-{name}.svg", profile, title)
        lines = (f"{stack} {seconds * 1e9:.0f}\n" for stack, seconds in profile.stacks.items())
        (results / f"flame-{name}.txt").write_text("".join(sorted(lines)))
    text = "\n\n".join(parts)
    (results / "profile.md").write_text(f"{text}\n")
    if arguments.docs:
        for name, (header, rows) in tables.items():
            if name.startswith("functions-"):
                if name.removeprefix("functions-") not in DOCS_WORKLOADS:
                    continue
                # As a literal, for a name that ends with an underscore would be a link.
                rows = [[f"``{name}``", *cells] for name, *cells in rows[:DOCS_FUNCTIONS]]
            report.write_csv(arguments.docs / f"profile-{name}.csv", header, rows)
        (arguments.docs / "profile-about.txt").write_text(f"{about}\n")
    print_status(f"results written to {results}")
    return text


def parse_command_line(argv):
    """Return the arguments of a command line."""
    names = [workload.name for workload in workloads() if workload.figure == "cpu"]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--workload",
        type=comma_separated(names),
        default=list(DEFAULT_WORKLOADS),
        help=f"workloads, separated by commas: {', '.join(names)} "
        f"[default: {','.join(DEFAULT_WORKLOADS)}]",
    )
    parser.add_argument(
        "--samples", type=int, default=2000, help="minimum number of samples [default: 2000]"
    )
    parser.add_argument(
        "--functions", type=int, default=25, help="number of functions per table [default: 25]"
    )
    parser.add_argument(
        "--popserv", default="", metavar="ARGUMENTS", help="run popserv with these arguments"
    )
    add_common_options(parser)
    return parse(parser, argv)


def describe(arguments, profiles, problems):
    """Return the text above the tables: the environment, the options and what is missing."""
    here = environment()
    text = (
        f"Python {here['python']}, Twisted {here['twisted']}, Linux {here['kernel']}, "
        f"{here['cores']} cores; CPU time of the server per operation, "
        f"from at least {min(profile.samples for profile in profiles.values()):,} samples."
    )
    if arguments.popserv:
        text += f"  popserv runs with {arguments.popserv}."
    if arguments.tiny:
        text += "  Run with --tiny, which only tests the code: the figures are meaningless."
    return "\n\n".join([text, *(f"Note: {problem}." for problem in problems)])


def main(argv=None):
    """Profile the selected workloads; return the exit code."""
    arguments = parse_command_line(argv)
    selected = [
        workload
        for workload in workloads(tiny=arguments.tiny)
        if workload.name in arguments.workload
    ]
    problems = []
    if shutil.which("strace") is None:
        problems.append("system calls are not counted: strace is missing; install Debian's strace")
    profiles = {}
    with work_directory(arguments) as (directory, peers):
        bench = Bench(arguments, directory)
        peer = ProfiledPopserv(directory, shlex.split(arguments.popserv))
        peers.append(peer)
        for workload in selected:
            workload.prepare(bench, peer)
        bench.wait_for_mail()
        for number, workload in enumerate(selected, 1):
            print_status(f"[{number}/{len(selected)}] {workload.name}")
            peer.start()
            try:
                profile = make_profile(bench, peer, workload, arguments.samples)
            except MeasurementError as error:
                print_status(f"  popserv failed: {error}")
                return 1
            profiles[workload.name] = profile
            if not problems:
                try:
                    profile.calls = count_calls(bench, peer, workload)
                except MeasurementError as error:
                    problems.append(f"system calls are not counted: {error}")
                    peer.calls = None
                    peer.stop()
    for problem in problems:
        print_status(problem)
    print(write(arguments, profiles, describe(arguments, profiles, problems)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
