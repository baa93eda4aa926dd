"""Say where popserv spends its time: ``make profile``, or ``python benchmarks/profiles.py``.

Of each workload it runs the server as it is, for the CPU time of an operation; then with
sampler.py, for who has a share of that; then under strace, for the system calls.
"""

import argparse
import json
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

import report
from peers import PATIENCE, Failed, Popserv
from run import HERE, Bench, about_here, add_common, names_of, parse, say, settle, workplace
from workloads import workloads

CHOSEN = ("connect", "login", "poll-500", "retr", "top", "dele", "noop")
KERNEL = "[kernel]"
SHOWN, SHOWN_OF = 10, ("login", "poll-500", "retr")
"""How many functions the documentation shows, and of which workloads."""

SYSTEM = "system calls"
ROOMS = {
    "reactor and sockets": (
        r"twisted/internet/(?!defer|protocol)",
        r"twisted/python/(util|context|threadpool|threadable)",
        r"twisted/python/log.py:(callWith|ThreadedContext)",
        r"twisted/_threads/",
        r"socket.py:",
    ),
    "Deferreds": (r"twisted/internet/defer",),
    "logging": (r"twisted/(logger/|python/log\.py)",),
    "lines and protocol": (
        r"twisted/(protocols/|internet/protocol)",
        r"popserv/(server|transports|tls)/",
    ),
    "commands": (r"popserv/(commands|core|texts\.py)",),
    "session, portal and checkers": (r"popserv/(auth|runtime)/", r"twisted/cred/"),
    "maildrops": (r"popserv/(maildrops|messages)/",),
    "other": (r"popserv/",),
}
"""Rooms, with what the frames of each are called; the first that fits has it."""

COLOURS = ("#d9b26f", "#b7c38a", "#c9a0c4", "#8fb6cf", "#e2a081", "#95c9b3", "#c5b8a5", "#cccccc")


@dataclass
class Profile:
    """What was found of one workload, in seconds an operation."""

    cpu: float
    samples: int = 0
    collecting: float = 0.0
    """What the garbage collector had of it, in whatever function it came."""

    stacks: dict = field(default_factory=dict)
    """By the frames of a stack, outermost first and parted by semicolons."""

    calls: dict = field(default_factory=dict)
    """How often each system call is made for an operation."""


class Profiled(Popserv):
    """popserv under sampler.py, which does nothing until it is told to."""

    def __init__(self, directory, arguments=()):
        super().__init__(directory, arguments)
        self._found = self.directory / "samples.json"
        self._counted = self.directory / "calls.txt"
        self.twistd = (sys.executable, HERE / "sampler.py", self._found)
        self.samples = None
        self.calls = None

    def _toggle(self):
        self.process.send_signal(signal.SIGUSR2)

    def _sampled(self, work):
        self._found.unlink(missing_ok=True)
        self._toggle()
        found = work()
        self._toggle()
        deadline = time.monotonic() + PATIENCE
        while not self._found.exists():
            if time.monotonic() > deadline:
                raise Failed("the sampler does not answer")
            time.sleep(0.01)
        self.samples.append((found, json.loads(self._found.read_text())))
        return found

    def _traced(self, work):
        command = ["strace", "-c", "-f", "-o", self._counted]
        for pid in self.pids():
            command += ["-p", str(pid)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
            said = strace.stderr.readline()
            if "attached" not in said:
                raise Failed(said.strip())
            try:
                found = work()
                self.settled_cpu()
            finally:
                strace.send_signal(signal.SIGINT)
                strace.communicate()
        self.calls.append((found, calls_of(self._counted.read_text())))
        return found

    def cpu_of(self, work):
        """See Peer; sample or count if ``samples`` or ``calls`` is a list."""
        watched = work
        if self.samples is not None:
            watched = lambda: self._sampled(work)  # noqa: E731
        if self.calls is not None:
            watched = lambda: self._traced(work)  # noqa: E731
        return super().cpu_of(watched)


def calls_of(table):
    """Return the calls of strace's table, by name."""
    found = re.findall(r"^ *[\d.]+ +[\d.]+ +\d+ +(\d+) .*?(\w+)$", table, re.M)
    return {name: int(calls) for calls, name in found if name != "total"}


def operations(found):
    """Return how many there were, in one answer of the load or several."""
    founds = found if isinstance(found, list) else [found]
    return sum(each["operations"] for each in founds)


def short(frame):
    """Return a frame's name without what depends on where things are installed."""
    for mark in (r".*/(?:site|dist)-packages/", r".*/lib/python3[\d.]*/", f"{HERE.parent}/"):
        frame = re.sub(f"^{mark}", "", frame)
    return frame


def telling(frames):
    """Return the frames without those that say nothing: what started the server, and retries."""
    frames = [each for each in map(short, frames) if not each.endswith(":untilConcludes")]
    return frames[next((at for at, each in enumerate(frames) if "mainLoop" in each), 0) :]


def profile(bench, peer, workload, samples):
    """Return the Profile of a workload."""
    runs = [workload.measure(bench, peer).value for _ in range(3)]
    found = Profile(median(runs))
    peer.samples = []
    deadline = time.monotonic() + PATIENCE
    while True:
        workload.measure(bench, peer)
        found.samples = sum(each["samples"] for _, each in peer.samples)
        if found.samples >= samples or time.monotonic() > deadline:
            break
    stacks, done = Counter(), 0
    for answer, each in peer.samples:
        stacks.update(each["stacks"])
        done += operations(answer)
    if not stacks:
        raise Failed("no time to sample")
    # Shares of what the undisturbed server needs.
    factor = found.cpu / stacks.total()
    found.collecting = factor * sum(each["collecting"] for _, each in peer.samples)
    for stack, seconds in stacks.items():
        key = ";".join(telling(stack.split(";")))
        found.stacks[key] = found.stacks.get(key, 0.0) + seconds * factor
    peer.samples = None
    return found


def count_calls(bench, peer, workload):
    """Return how often each system call is made for an operation."""
    peer.calls = []
    seconds, bench.seconds = bench.seconds, min(bench.seconds, 0.5)
    try:
        workload.measure(bench, peer)
        ((found, calls),) = peer.calls
        done = operations(found)
    finally:
        bench.seconds = seconds
        peer.calls = None
    return {name: number / done for name, number in sorted(calls.items())}


def room_of(frames):
    """Return whose time it is: that of the innermost frame that belongs to any room."""
    if frames[-1] == KERNEL:
        return SYSTEM
    for frame in reversed(frames):
        for room, patterns in ROOMS.items():
            if any(re.match(pattern, frame) for pattern in patterns):
                return room
    return "other"


def by_room(found):
    """Return the seconds of each room."""
    rooms = Counter(dict.fromkeys([*ROOMS, SYSTEM], 0.0))
    for stack, seconds in found.stacks.items():
        rooms[room_of(stack.split(";"))] += seconds
    return rooms


def by_function(found):
    """Return (function, its own seconds, those in the kernel, those with all it calls)."""
    own, kernel, whole = Counter(), Counter(), Counter()
    for stack, seconds in found.stacks.items():
        frames = stack.split(";")
        if frames[-1] == KERNEL:
            kernel[frames[-2 if len(frames) > 1 else -1]] += seconds
            del frames[-1]
        elif frames:
            own[frames[-1]] += seconds
        for frame in set(frames):
            whole[frame] += seconds
    functions = {*own, *kernel}
    ordered = sorted(functions, key=lambda each: own[each] + kernel[each], reverse=True)
    return [(each, own[each], kernel[each], whole[each]) for each in ordered]


def micro(seconds):
    """Return microseconds for a table."""
    return f"{seconds * 1e6:.1f}" if seconds < 1e-4 else f"{seconds * 1e6:,.0f}"


def share(part, whole):
    """Return a share for a table."""
    return f"{part / whole:.1%}" if whole else "-"


def rooms_table(profiles):
    """Return the head and rows of what each room has of each workload."""
    head = ["room", *(f"{name}, us" for name in profiles)]
    rooms = {name: by_room(found) for name, found in profiles.items()}
    rows = []
    for room in [*ROOMS, SYSTEM]:
        cells = [
            f"{micro(rooms[name][room])} ({rooms[name][room] / found.cpu:.0%})"
            if rooms[name][room]
            else "-"
            for name, found in profiles.items()
        ]
        if set(cells) != {"-"}:
            rows.append([room, *cells])
    rows.append(["all", *(micro(found.cpu) for found in profiles.values())])
    rows.append(
        ["of which garbage collector", *(micro(each.collecting) for each in profiles.values())]
    )
    return head, rows


def calls_table(profiles):
    """Return the head and rows of the system calls for an operation."""
    totals = Counter()
    for found in profiles.values():
        totals.update(found.calls)
    # One in a thousand is none of the operation's.
    names = [name for name, number in totals.most_common() if number > 0.005]
    rows = [
        [name, *(_number(found.calls.get(name, 0)) for found in profiles.values())]
        for name in names
    ]
    rows.append(["all", *(_number(sum(found.calls.values())) for found in profiles.values())])
    return ["system call", *profiles], rows


def _number(number):
    return f"{number:.2f}".rstrip("0").rstrip(".") if number >= 0.005 else "-"


def functions_table(found, most):
    """Return the head and rows of the functions that have most."""
    head = ["function", "Python, us", "kernel, us", "share", "with all it calls, us"]
    rows = [
        [name, micro(own), micro(kernel), share(own + kernel, found.cpu), micro(whole)]
        for name, own, kernel, whole in by_function(found)[:most]
    ]
    return head, rows


def flame(path, found, title):
    """Write a flame graph, as SVG: a frame is as wide as its share."""
    width, row = 1200, 17
    tree = {}
    for stack, seconds in sorted(found.stacks.items()):
        below = tree
        for frame in stack.split(";"):
            entry = below.setdefault(frame, [0.0, {}])
            entry[0] += seconds
            below = entry[1]
    colours = dict(zip(ROOMS, COLOURS, strict=True)) | {SYSTEM: "#e8746a"}
    out, deepest = [], 0

    def draw(below, left, depth, frames):
        nonlocal deepest
        for frame, (seconds, above) in below.items():
            wide = seconds / found.cpu * width
            stack = [*frames, frame]
            if wide >= 0.4:
                deepest = max(deepest, depth)
                label = frame.rpartition(":")[2] if wide > 30 else ""
                said = f"{frame}: {micro(seconds)} us, {share(seconds, found.cpu)}"
                out.append(
                    f'<g transform="translate({left:.1f},{depth * row + 24})">'
                    f"<title>{escape(said)}</title>"
                    f'<rect width="{wide:.1f}" height="{row - 1}"'
                    f' fill="{colours[room_of(stack)]}"/>'
                    f'<text x="2" y="12">{escape(label[: int(wide / 6.6)])}</text></g>'
                )
                draw(above, left, depth + 1, stack)
            left += wide

    draw(tree, 0.0, 0, [])
    height = (deepest + 2) * row + 24
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        ' font-family="monospace" font-size="11">'
        f'<text x="4" y="14">{escape(title)}</text>{"".join(out)}</svg>\n'
    )


def write(arguments, profiles, about):
    """Write the tables and flame graphs; return what to print."""
    results = arguments.results
    results.mkdir(parents=True, exist_ok=True)
    parts = ["# Where the time goes", about]
    tables = {"rooms": rooms_table(profiles)}
    parts += ["## By room, an operation", report.table(*tables["rooms"])]
    if any(found.calls for found in profiles.values()):
        tables["calls"] = calls_table(profiles)
        parts += ["## System calls of an operation", report.table(*tables["calls"])]
    for name, found in profiles.items():
        tables[f"functions-{name}"] = functions_table(found, arguments.functions)
        parts += [f"## {name}", report.table(*tables[f"functions-{name}"])]
        title = f"{name}: {micro(found.cpu)} us of CPU time an operation, {found.samples} samples"
        flame(results / f"flame-{name}.svg", found, title)
        lines = (f"{stack} {seconds * 1e9:.0f}\n" for stack, seconds in found.stacks.items())
        (results / f"flame-{name}.txt").write_text("".join(sorted(lines)))
    text = "\n\n".join(parts)
    (results / "profile.md").write_text(f"{text}\n")
    if arguments.docs:
        for name, (head, rows) in tables.items():
            if name.startswith("functions-"):
                if name.removeprefix("functions-") not in SHOWN_OF:
                    continue
                # A name that ends with an underscore would be a link.
                rows = [[f"``{name}``", *cells] for name, *cells in rows[:SHOWN]]
            report.write_csv(arguments.docs / f"profile-{name}.csv", head, rows)
        (arguments.docs / "profile-about.txt").write_text(f"{about}\n")
    say(f"written to {results}")
    return text


def arguments_of(given):
    """Return what the command line says."""
    names = [each.name for each in workloads() if each.unit == "s"]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--workload",
        type=names_of(names),
        default=list(CHOSEN),
        help=f"{', '.join(names)} [default: {','.join(CHOSEN)}]",
    )
    parser.add_argument("--samples", type=int, default=2000, help="at least [default: 2000]")
    parser.add_argument("--functions", type=int, default=25, help="in a table [default: 25]")
    parser.add_argument("--popserv", default="", metavar="ARGUMENTS", help="run it with these")
    add_common(parser)
    return parse(parser, given)


def about(arguments, profiles, absent):
    """Return what a reader of the tables must know."""
    here = about_here()
    text = (
        f"Python {here['python']}, Twisted {here['twisted']}, Linux {here['kernel']}, "
        f"{here['cores']} cores; CPU time of the server for one operation, "
        f"parted by {min(found.samples for found in profiles.values()):,} samples or more."
    )
    if arguments.popserv:
        text += f"  popserv runs with {arguments.popserv}."
    if arguments.tiny:
        text += "  With --tiny, which only tries the code: the figures mean nothing."
    return "\n\n".join([text, *(f"Missing: {each}." for each in absent)])


def main(given=None):
    """Return the exit code."""
    arguments = arguments_of(given)
    chosen = [each for each in workloads(tiny=arguments.tiny) if each.name in arguments.workload]
    absent = []
    if shutil.which("strace") is None:
        absent.append("system calls are not counted: strace is missing (Debian's strace)")
    profiles = {}
    with workplace(arguments) as (directory, peers):
        bench = Bench(arguments, directory)
        peer = Profiled(directory, shlex.split(arguments.popserv))
        peers.append(peer)
        for each in chosen:
            each.prepare(bench, peer)
        settle(arguments)
        for number, each in enumerate(chosen, 1):
            say(f"[{number}/{len(chosen)}] {each.name}")
            peer.start()
            try:
                found = profile(bench, peer, each, arguments.samples)
            except Failed as error:
                say(f"  popserv fails: {error}")
                return 1
            profiles[each.name] = found
            if not absent:
                try:
                    found.calls = count_calls(bench, peer, each)
                except Failed as error:
                    absent.append(f"system calls are not counted: {error}")
                    peer.calls = None
                    peer.stop()
    for each in absent:
        say(each)
    print(write(arguments, profiles, about(arguments, profiles, absent)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
