"""Compare popserv with other POP3 servers: ``make bench``, or ``python benchmarks/run.py``.

README.rst describes the workloads and the method.
"""

import argparse
import gc
import os
import platform
import shlex
import shutil
import signal
import sys
import sysconfig
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from resource import RLIMIT_NOFILE, getrlimit, setrlimit

import report
from mail import Mail
from peers import PEERS, MeasurementError, NotInstalled, Popserv
from workloads import Load, count_messages, workloads

import twisted

HERE = Path(__file__).resolve().parent


class Bench:
    """The mail, the load generator and the settings that workloads use."""

    def __init__(self, arguments, directory):
        self.mail = Mail(directory)
        self.seconds = 0.05 if arguments.tiny else arguments.seconds
        self._settling = 0 if arguments.tiny else 2.5
        self.polled = set()
        self.open_files = _raise_open_files_limit()
        self._program = arguments.load

    def fill(self, peer, user, kind, messages, distinct=None):
        """Create a user with a maildrop unless it exists; see Mail.fill for ``distinct``."""
        maildir = peer.maildir(user)
        if not maildir.exists():
            self.mail.fill(maildir, kind, messages, peer.owner, distinct=distinct)

    def count(self, peer, user):
        """Return the number of messages in a maildrop."""
        return count_messages(peer.root / user)

    def load(self, peer, *arguments):
        """Return a load generator, a context manager."""
        return Load(self._program, peer, *arguments)

    def wait_for_mail(self):
        """Wait until the mail is on the disk, and its folders have settled."""
        os.sync()  # so that it is not written during a measurement
        self.settle()

    def settle(self):
        """Wait until every folder is older than two seconds.

        Servers do not trust the time of a folder that was changed a moment ago.
        """
        time.sleep(self._settling)

    def poll(self, peer, user):
        """Run one session with UIDL and LIST; return the load generator's result."""
        messages = self.count(peer, user)
        with self.load(peer, "poll", user, "--calls", 1, "--messages", messages) as load:
            return load.run()


def _raise_open_files_limit():
    """Raise the limit on open files; return the number of them that connections can use."""
    _, hard = getrlimit(RLIMIT_NOFILE)
    limit = max(hard, 4 * 10_000 + 200)
    try:
        # Only root may raise the hard limit.
        setrlimit(RLIMIT_NOFILE, (limit, limit))
    except (ValueError, OSError):
        limit = hard
        setrlimit(RLIMIT_NOFILE, (limit, limit))
    return limit - 200


class Progress:
    """Iterates over the steps and prints each one, with the remaining time, to stderr."""

    def __init__(self, steps, seconds):
        self._steps = steps
        self._seconds = seconds
        self._durations = {}
        self._estimated = self._elapsed = 1.0

    def _estimate(self, workload):
        return workload.estimate + self._seconds

    def _remaining(self, done):
        # Prefer a measured duration; otherwise scale the estimate by the estimates so far.
        factor = self._elapsed / self._estimated
        return sum(
            self._durations.get((workload.name, peer.name), self._estimate(workload) * factor)
            for workload, _, peer in self._steps[done:]
        )

    def __iter__(self):
        for done, (workload, number, peer) in enumerate(self._steps):
            minutes, seconds = divmod(round(self._remaining(done)), 60)
            print_status(
                f"[{done + 1}/{len(self._steps)}, {minutes}:{seconds:02} left] "
                f"{workload.name}, round {number}: {peer.name}"
            )
            start = time.monotonic()
            yield workload, number, peer
            duration = time.monotonic() - start
            self._durations[workload.name, peer.name] = duration
            self._estimated += self._estimate(workload)
            self._elapsed += duration


def print_status(text):
    """Print a line to stderr at once."""
    print(text, file=sys.stderr, flush=True)


def calibrate():
    """Return the CPU time and the wall-clock time, in seconds, of a fixed amount of work."""
    wall, cpu = time.perf_counter(), time.thread_time()
    total = 0
    for number in range(400_000):
        total += number * number % 7
    return time.thread_time() - cpu, time.perf_counter() - wall


def schedule(selected, peers, rounds):
    """Return the steps in order, as tuples of workload, number of the round, and peer."""
    return [
        (workload, number, peer)
        for workload in selected
        for number in range(1, min(rounds, workload.rounds or rounds) + 1)
        for peer in _rotated(measured_peers(workload, peers), number - 1)
    ]


def measured_peers(workload, peers):
    """Return those of the peers that are measured in a workload."""
    return [peer for peer in peers if workload.cores in peer.cores]


def _rotated(peers, number):
    """Each round starts with another peer, so that no peer always follows the same one."""
    start = number % len(peers) if peers else 0
    return peers[start:] + peers[:start]


def measure(bench, steps):
    """Run all steps; return the results and the machine's noise.

    The results map each workload, and then each peer, to a list of Runs, or to the reason for
    the failure.  The noise is a list of results of :func:`calibrate`.
    """
    results, noise, previous = {}, [calibrate()], None
    for workload, number, peer in Progress(steps, bench.seconds):
        if previous not in (None, (workload, number)):
            noise.append(calibrate())
        previous = workload, number
        by_peer = results.setdefault(workload.name, {})
        runs = by_peer.setdefault(peer.name, [])
        if isinstance(runs, str):
            continue
        try:
            peer.start()
            runs.append(workload.measure(bench, peer))
        except MeasurementError as error:
            print_status(f"  {peer.name} failed: {error}")
            by_peer[peer.name] = str(error)
            peer.stop()
    noise.append(calibrate())
    return results, noise


def installed_peers(arguments, directory):
    """Return the selected peers that are installed, and the reasons why others are left out."""
    peers, left_out = [], []
    for name in arguments.peers:
        kind = PEERS[name]
        try:
            kind.check()
            peers.append(kind(directory))
        except NotInstalled as reason:
            if str(reason) not in left_out:
                print_status(f"not measured: {reason}")
                left_out.append(str(reason))
    peers += [Popserv(directory, shlex.split(options)) for options in arguments.popserv]
    return peers, left_out


def comma_separated(known):
    """Return a function that parses known names separated by commas."""

    def parse(text):
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(
                    f"unknown name {name!r}; choose from {', '.join(known)}"
                )
        return names

    return parse


def add_common_options(parser):
    """Add the options that run.py, growth.py and profiles.py share."""
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="duration of a steady run [default: 1]"
    )
    parser.add_argument("--tiny", action="store_true", help="only test the code, with little mail")
    parser.add_argument(
        "--directory", default="/var/tmp", help="directory for the mail [default: /var/tmp]"
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=HERE / "results",
        help="directory for the results [default: benchmarks/results]",
    )
    parser.add_argument(
        "--docs", type=Path, help="also write the tables of the documentation into this directory"
    )
    parser.add_argument(
        "--load",
        type=Path,
        default=HERE.parent / "build" / "load",
        help="the load generator [default: build/load]",
    )


def parse(parser, argv):
    """Return the arguments of a command line; exit if the load generator does not exist."""
    arguments = parser.parse_args(argv)
    if not arguments.load.exists():
        parser.error(f"{arguments.load} does not exist; build it with: make build/load")
    return arguments


def parse_command_line(argv):
    """Return the arguments of a command line."""
    names = [each.name for each in workloads(million=True)]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--workload",
        type=comma_separated(names),
        default=names,
        help=f"workloads, separated by commas: {', '.join(names)} [default: all]",
    )
    parser.add_argument(
        "--peers",
        type=comma_separated(PEERS),
        default=list(PEERS),
        help=f"servers, separated by commas: {', '.join(PEERS)} [default: all]",
    )
    parser.add_argument(
        "--popserv",
        action="append",
        default=[],
        metavar="ARGUMENTS",
        help="also measure popserv with these arguments, for example '--timeout 900'; "
        "may be given more than once",
    )
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds [default: 5]")
    parser.add_argument(
        "--million", action="store_true", help="also poll a maildrop of 1,000,000 messages"
    )
    parser.add_argument(
        "--connections",
        type=int,
        default=2000,
        help="maximum number of connections for memory, at most 10000 [default: 2000]",
    )
    add_common_options(parser)
    return parse(parser, argv)


@contextmanager
def work_directory(arguments):
    """Create a directory for mail, and yield it with an empty list of peers.

    At the end, stop every peer that was added to the list and remove the directory.
    """
    # Stop the servers when this process is terminated, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    os.umask(0o022)
    gc.disable()  # a collection would distort the calibration
    directory = Path(tempfile.mkdtemp(prefix="popserv-bench-", dir=arguments.directory))
    directory.chmod(0o755)
    peers = []
    try:
        yield directory, peers
    finally:
        for peer in peers:
            peer.stop()
        print_status("removing mail")
        shutil.rmtree(directory)


def _build():
    """Tell how the interpreter was built; the figures depend on it by up to a factor of two."""
    if "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or ""):
        return "built with --enable-optimizations"
    # Distributions optimise as well, and do not record it in this way.
    if os.path.realpath(sys.executable).startswith("/usr/bin/"):
        return "the distribution's build"
    return "built without --enable-optimizations"


def environment():
    """Return the versions and the hardware on which the figures depend."""
    return {
        "python": f"{platform.python_version()} ({_build()})",
        "twisted": twisted.__version__,
        "kernel": platform.release(),
        "cores": os.cpu_count(),
    }


def exit_code(results):
    """Return 1 if popserv failed a workload, otherwise 0."""
    return int(
        any(
            name.startswith("popserv") and isinstance(runs, str)
            for by_peer in results.values()
            for name, runs in by_peer.items()
        )
    )


def main(argv=None):
    """Run the benchmark; return the exit code."""
    arguments = parse_command_line(argv)
    selected = [
        workload
        for workload in workloads(
            tiny=arguments.tiny, million=arguments.million, connections=arguments.connections
        )
        if workload.name in arguments.workload
    ]
    start = time.monotonic()
    with work_directory(arguments) as (directory, peers):
        bench = Bench(arguments, directory)
        installed, left_out = installed_peers(arguments, directory)
        peers += installed
        selected = [each for each in selected if measured_peers(each, peers)]
        print_status("generating mail")
        for workload in selected:
            for peer in measured_peers(workload, peers):
                workload.prepare(bench, peer)
        bench.wait_for_mail()
        rounds = 1 if arguments.tiny else arguments.rounds
        results, noise = measure(bench, schedule(selected, peers, rounds))
    about = environment() | {
        "rounds": rounds,
        "tiny": arguments.tiny,
        "seconds": bench.seconds,
        "minutes": round((time.monotonic() - start) / 60, 1),
        "left_out": left_out,
    }
    names = [peer.name for peer in peers]
    print(report.write(arguments, selected, names, results, noise, about, print_status))
    return exit_code(results)


if __name__ == "__main__":
    sys.exit(main())
