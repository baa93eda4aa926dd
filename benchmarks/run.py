"""Measure popserv beside its peers: ``make bench``, or ``python benchmarks/run.py``.

See README.rst for what is measured and why in this way.
"""

import argparse
import gc
import os
import platform
import shlex
import shutil
import signal
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from resource import RLIMIT_NOFILE, getrlimit, setrlimit

import report
from mail import Mail
from peers import KINDS, SERVERS, Absent, Failed, Popserv
from workloads import Load, stored, workloads

import twisted

HERE = Path(__file__).resolve().parent


class Bench:
    """What workloads need: mail, the load, and what the command line said."""

    def __init__(self, arguments, directory):
        self.mail = Mail(directory)
        self.seconds = 0.05 if arguments.tiny else arguments.seconds
        self.opened = set()
        self.files = _most_files()
        self._program = arguments.load

    def fill(self, peer, user, kind, messages, sources=None):
        """Make a user and a maildrop, unless they are there; of so many sources at most."""
        maildir = peer.maildir(user)
        if not maildir.exists():
            self.mail.fill(maildir, kind, messages, peer.owner, sources=sources)

    def count(self, peer, user):
        """Return how many messages a maildrop has."""
        return stored(peer.root / user)

    def load(self, peer, *arguments):
        """Return the load, a context."""
        return Load(self._program, peer, *arguments)

    def poll(self, peer, user):
        """Have one session, with UIDL and LIST; return what the load says."""
        messages = self.count(peer, user)
        with self.load(peer, "poll", user, "--calls", 1, "--messages", messages) as load:
            return load.ask()


def _most_files():
    """Raise the limit of open files, and return how many that leaves for connections."""
    _, hard = getrlimit(RLIMIT_NOFILE)
    limit = max(hard, 4 * 10_000 + 200)
    try:
        # Only root may go beyond the hard one.
        setrlimit(RLIMIT_NOFILE, (limit, limit))
    except (ValueError, OSError):
        limit = hard
        setrlimit(RLIMIT_NOFILE, (limit, limit))
    return limit - 200


class Progress:
    """Says on stderr what is running and how long it will take."""

    def __init__(self, steps, seconds):
        self._steps = steps
        self._seconds = seconds
        self._took = {}
        self._guessed = self._spent = 1.0

    def _guess(self, workload):
        return workload.estimate + self._seconds

    def _left(self, done):
        # What has been seen of the same is better than a guess, set right by all guesses.
        factor = self._spent / self._guessed
        return sum(
            self._took.get((workload.name, peer.name), self._guess(workload) * factor)
            for workload, _, peer in self._steps[done:]
        )

    def __iter__(self):
        for done, (workload, number, peer) in enumerate(self._steps):
            minutes, seconds = divmod(round(self._left(done)), 60)
            say(
                f"[{done + 1}/{len(self._steps)}, {minutes}:{seconds:02} left] "
                f"{workload.name}, round {number}: {peer.name}"
            )
            began = time.monotonic()
            yield workload, number, peer
            took = time.monotonic() - began
            self._took[workload.name, peer.name] = took
            self._guessed += self._guess(workload)
            self._spent += took


def say(text):
    """Tell a person who waits."""
    print(text, file=sys.stderr, flush=True)


def calibrate():
    """Return the CPU and wall seconds of the same work each time."""
    wall, cpu = time.perf_counter(), time.thread_time()
    total = 0
    for number in range(400_000):
        total += number * number % 7
    return time.thread_time() - cpu, time.perf_counter() - wall


def in_order(chosen, peers, rounds):
    """Return who is to do what when, as (workload, number of the round, peer)."""
    return [
        (workload, number, peer)
        for workload in chosen
        for number in range(1, min(rounds, workload.rounds or rounds) + 1)
        # Who comes first changes, so that nobody always follows the same peer.
        for peer in (peers * 2)[(number - 1) % len(peers) :][: len(peers)]
    ]


def measure(bench, steps):
    """Run everything; return for each workload the runs or the failure of each peer, and noise."""
    results, noise, before = {}, [calibrate()], None
    for workload, number, peer in Progress(steps, bench.seconds):
        if before not in (None, (workload, number)):
            noise.append(calibrate())
        before = workload, number
        found = results.setdefault(workload.name, {})
        runs = found.setdefault(peer.name, [])
        if isinstance(runs, str):
            continue
        try:
            peer.start()
            runs.append(workload.measure(bench, peer))
        except Failed as error:
            say(f"  {peer.name} fails: {error}")
            found[peer.name] = str(error)
            peer.stop()
    noise.append(calibrate())
    return results, noise


def find_peers(arguments, directory):
    """Return the peers that are here, and why others are not."""
    peers, absent = [], []
    for name in arguments.peers:
        kind = KINDS[name]
        try:
            kind.check()
            peers.append(kind(directory))
        except Absent as reason:
            if str(reason) not in absent:
                say(f"not measured: {reason}")
                absent.append(str(reason))
    peers += [Popserv(directory, shlex.split(more)) for more in arguments.popserv]
    return peers, absent


def names_of(known):
    """Return a parser of names parted by commas."""

    def parse(text):
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r}: there are {', '.join(known)}")
        return names

    return parse


def add_common(parser):
    """Add the options that all commands here have."""
    parser.add_argument("--seconds", type=float, default=1.0, help="of a steady run [default: 1]")
    parser.add_argument("--tiny", action="store_true", help="try the code, measure nothing")
    parser.add_argument("--directory", help="where the mail is made [default: a temporary one]")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--docs", type=Path, help="where tables for the documentation go, too")
    parser.add_argument("--load", type=Path, default=HERE.parent / "build" / "load")


def parse(parser, given):
    """Return the arguments, if the load is there."""
    arguments = parser.parse_args(given)
    if not arguments.load.exists():
        parser.error(f"{arguments.load} is not there: make build/load")
    return arguments


def arguments_of(given):
    """Return what the command line says."""
    names = [each.name for each in workloads(million=True)]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workload", type=names_of(names), default=names, help=", ".join(names))
    parser.add_argument("--peers", type=names_of(KINDS), default=SERVERS, help=", ".join(KINDS))
    parser.add_argument(
        "--popserv",
        action="append",
        default=[],
        metavar="ARGUMENTS",
        help="measure popserv with these arguments as well, such as '--timeout 900'",
    )
    parser.add_argument("--rounds", type=int, default=3, help="[default: 3]")
    parser.add_argument("--million", action="store_true", help="poll 1,000,000 messages, too")
    parser.add_argument(
        "--connections", type=int, default=2000, help="for memory, up to 10000 [default: 2000]"
    )
    add_common(parser)
    return parse(parser, given)


@contextmanager
def workplace(arguments):
    """Have a directory for mail; yield it and a list of peers, all of which is gone at the end."""
    # No server may outlive this, whatever ends it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    os.umask(0o022)
    gc.disable()  # it would come into the calibration
    directory = Path(tempfile.mkdtemp(prefix="popserv-bench-", dir=arguments.directory))
    directory.chmod(0o755)
    peers = []
    try:
        yield directory, peers
    finally:
        for peer in peers:
            peer.stop()
        say("removing mail")
        shutil.rmtree(directory)


def settle(arguments):
    """Wait until the mail is on the disk, and old enough for any server to trust its times."""
    os.sync()  # or it would be written while something is measured
    if not arguments.tiny:
        time.sleep(2.5)


def about_here():
    """Return what the figures depend on."""
    return {
        "python": platform.python_version(),
        "twisted": twisted.__version__,
        "kernel": platform.release(),
        "cores": os.cpu_count(),
    }


def exit_code(results):
    """Return 1 if popserv itself fails a workload, else 0."""
    return int(
        any(
            name.startswith("popserv") and isinstance(runs, str)
            for found in results.values()
            for name, runs in found.items()
        )
    )


def main(given=None):
    """Return the exit code: 1 if popserv failed anywhere."""
    arguments = arguments_of(given)
    chosen = [
        each
        for each in workloads(
            tiny=arguments.tiny, million=arguments.million, connections=arguments.connections
        )
        if each.name in arguments.workload
    ]
    began = time.monotonic()
    with workplace(arguments) as (directory, peers):
        bench = Bench(arguments, directory)
        found, absent = find_peers(arguments, directory)
        peers += found
        say("making mail")
        for workload in chosen:
            for peer in peers:
                workload.prepare(bench, peer)
        settle(arguments)
        rounds = 1 if arguments.tiny else arguments.rounds
        results, noise = measure(bench, in_order(chosen, peers, rounds))
    about = about_here() | {
        "rounds": rounds,
        "tiny": arguments.tiny,
        "seconds": bench.seconds,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "absent": absent,
    }
    names = [peer.name for peer in peers]
    print(report.write(arguments, chosen, names, results, noise, about, say))
    return exit_code(results)


if __name__ == "__main__":
    sys.exit(main())
