"""Compare the SQL store with Maildirs: ``make bench-sql``, or ``python benchmarks/sql.py``.

The CPU time of the server and that of PostgreSQL are measured apart.  README.rst has the method.
"""

import argparse
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from statistics import median

import report
from peers import PASSWORD, TIMEOUT, MeasurementError, Popserv
from run import (
    Bench,
    add_common_options,
    comma_separated,
    environment,
    exit_code,
    measure,
    parse,
    print_status,
    schedule,
    work_directory,
)
from sql_servers import Database, SQLObjects, SQLPopserv, program
from workloads import FirstSession, Run, Steady, Workload

DELIVER = """
import io, sys, time
from twisted.internet import task
from twisted.internet.defer import Deferred, gatherResults
from popserv.core.user_settings import NO_SETTINGS
from popserv.maildrops import StoreSettings, make_store

async def main(reactor):
    store = make_store(sys.argv[1], StoreSettings(cache_messages=0))
    message, number = open(sys.argv[2], "rb").read(), int(sys.argv[3])

    async def some(first, count):
        for at in range(first, first + count):
            await store.deliver_new(b"new%d" % (at % 50), NO_SETTINGS, io.BytesIO(message))

    await some(0, 50)
    before = time.process_time()
    start = time.perf_counter()
    print("ready", flush=True)
    sys.stdin.readline()
    await gatherResults([Deferred.fromCoroutine(some(at, number)) for at in range(8)])
    print(time.process_time() - before, time.perf_counter() - start, flush=True)
    sys.stdin.readline()
    if hasattr(store, "stop"):
        await store.stop()

task.react(main)
"""
"""A program that delivers a message to 50 users, eight times at a time."""


class Client:
    """A POP3 session that is logged in."""

    def __init__(self, peer, user):
        self._socket = socket.create_connection(("127.0.0.1", peer.port), TIMEOUT)
        self._file = self._socket.makefile("rb")
        self._file.readline()
        self.ask(f"USER {user}", f"PASS {PASSWORD}")

    def ask(self, *lines):
        """Send lines as one packet, and read a line of reply for each."""
        self._socket.sendall("".join(f"{line}\r\n" for line in lines).encode())
        for line in lines:
            if not self._file.readline().startswith(b"+OK"):
                raise MeasurementError(f"{line} was refused")

    def quit(self):
        """Send QUIT, and wait until the server has closed."""
        self.ask("QUIT")
        self._file.read()
        self._file.close()
        self._socket.close()


@dataclass
class Removal(Workload):
    """QUIT of a session that has marked all messages; each run has another user."""

    messages: int = 1000
    runs: int = 9
    estimate = 3.0

    def __post_init__(self):
        self._next = {}

    def prepare(self, bench, peer):
        """See Workload."""
        for number in range(self.runs):
            maildir = peer.maildir(f"quit{number}")
            if not maildir.exists():
                bench.fill(peer, maildir.name, "small", 0)
                bench.mail.deliver(maildir, number=self.messages, seen=True)

    def measure(self, bench, peer):
        """See Workload."""
        number = self._next[peer.name] = self._next.get(peer.name, -1) + 1
        client = Client(peer, f"quit{number}")
        client.ask(*(f"DELE {each}" for each in range(1, self.messages + 1)))
        _, cpu = peer.measure_cpu(client.quit)
        return Run(cpu)


@dataclass
class Delivery(Workload):
    """A delivery by the store, in a process of its own: eight at a time, to 50 users."""

    number: int = 400
    estimate = 4.0

    def prepare(self, bench, peer):
        """See Workload."""
        peer.maildir("starter")
        bench.fill(peer, "starter", "small", 1)
        for number in range(50):
            bench.fill(peer, f"new{number}", "small", 0)

    def measure(self, bench, peer):
        """See Workload."""
        store = f"sql:{peer.file}" if isinstance(peer, SQLPopserv) else f"maildir:{peer.root}"
        (path,) = bench.mail.messages("usual", 1)
        with subprocess.Popen(
            [sys.executable, "-c", DELIVER, store, path, str(self.number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:

            def work():
                process.stdin.write("\n")
                process.stdin.flush()
                return process.stdout.readline().split()

            if process.stdout.readline() != "ready\n":
                raise MeasurementError("the deliveries have failed")
            printed, used = peer.measure_cpu(work)
            process.stdin.write("\n")
        if process.returncode or len(printed) != 2:
            raise MeasurementError("the deliveries have failed")
        cpu, seconds = map(float, printed)
        count = 8 * self.number
        if isinstance(peer, SQLPopserv):
            # The server has delivered nothing; another process has.
            peer.front += cpu - used
        return Run(cpu / count, count / seconds)


def workloads(*, tiny=False):
    """Return all workloads in order."""

    def scaled(number):
        return max(3, number // 500) if tiny else number

    many = scaled(100_000)
    usual = {"kind": "retr", "mail": "usual", "messages": scaled(1000)}
    poll = {"kind": "poll", "distinct": 1000}
    return [
        Steady("login", "login, STAT and QUIT", kind="login", clients=4, warm_up=3),
        Steady("poll-500", "poll of 500", messages=scaled(500), clients=4, **poll),
        Steady("poll-100000", "poll of 100,000", messages=many, **poll),
        FirstSession("first-100000", "first session of 100,000", messages=many),
        Steady("retr", "RETR, 2-10 KB", **usual),
        Steady("retr-4", "RETR, 2-10 KB, 4 clients", clients=4, **usual),
        Delivery("delivery", "delivery, 2-10 KB", number=3 if tiny else 400),
        Removal("quit", "QUIT with 1,000 removals", messages=scaled(1000)),
    ]


def parse_command_line(argv):
    """Return the arguments of a command line."""
    names = [each.name for each in workloads()]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--workload",
        type=comma_separated(names),
        default=names,
        help=f"workloads, separated by commas: {', '.join(names)} [default: all]",
    )
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds, 1 to 9")
    add_common_options(parser)
    return parse(parser, argv)


def behind(bench, peers, steps):
    """Measure all steps; return the results, and the database's seconds per operation.

    They are lists by the name of the workload and the name of the peer.
    """
    seconds = {}

    def noted(workload, peer):
        peer.front = peer.behind = 0.0
        run = workload.measure(bench, peer)
        share = run.value * peer.behind / peer.front if peer.front else 0.0
        seconds.setdefault((workload.name, peer.name), []).append(share)
        return run

    results, _ = measure(bench, [(_Noting(each, noted), *rest) for each, *rest in steps])
    return results, seconds


class _Noting:
    """A workload whose measurements are noted."""

    def __init__(self, workload, noted):
        self._workload, self._noted = workload, noted
        self.name, self.title, self.estimate = workload.name, workload.title, workload.estimate

    def measure(self, bench, peer):
        """See Workload."""
        return self._noted(self._workload, peer)


def rows(selected, results, seconds):
    """Yield the cells of each workload: server and database, and the ratio to Maildirs."""
    for workload in selected:
        by_peer = results[workload.name]
        cells = [workload.title]
        base = None
        for name, runs in by_peer.items():
            if isinstance(runs, str):
                cells += [f"failed: {runs}"] if name == "popserv" else [f"failed: {runs}", "", ""]
                continue
            value = median(run.value for run in runs)
            cells.append(report.format_quantity(value, "s"))
            if name == "popserv":
                base = value
                continue
            cells.append(report.format_quantity(median(seconds[workload.name, name]), "s"))
            cells.append(f"{value / base:.2f}" if base else "")
        yield cells


def write(arguments, selected, results, seconds, minutes):
    """Write the table; return the text to print."""
    here = environment()
    lines = [
        f"Python {here['python']}, Twisted {here['twisted']}, Linux {here['kernel']}, "
        f"{here['cores']} cores; median of {1 if arguments.tiny else arguments.rounds} rounds, "
        f"{minutes} minutes."
    ]
    if arguments.tiny:
        lines.append("Run with --tiny, which only tests the code: the figures are meaningless.")
    text = "\n\n".join(lines)
    header = ["operation", "Maildir"]
    for kind in ("inline", "objects"):
        header += [kind, f"{kind}, database", f"{kind} / Maildir"]
    body = list(rows(selected, results, seconds))
    for folder in filter(None, (arguments.results, arguments.docs)):
        folder.mkdir(parents=True, exist_ok=True)
        report.write_csv(folder / "sql.csv", header, body)
        (folder / "sql-about.txt").write_text(f"{text}\n")
    return f"# The SQL store\n\n{text}\n\n{report.table(header, body)}"


def main(argv=None):
    """Run the benchmark; return the exit code."""
    arguments = parse_command_line(argv)
    if program("initdb") is None:
        print_status("PostgreSQL is missing: Debian's package postgresql")
        return 2
    selected = [each for each in workloads(tiny=arguments.tiny) if each.name in arguments.workload]
    start = time.monotonic()
    with work_directory(arguments) as (directory, peers):
        bench = Bench(arguments, directory)
        database = Database(directory)
        # It is stopped last.
        stopped = [database]
        try:
            database.start()
            servers = [Popserv(directory), SQLPopserv(directory, database)]
            servers.append(SQLObjects(directory, database))
            peers += servers
            print_status("generating mail")
            for workload in selected:
                for peer in servers:
                    workload.prepare(bench, peer)
            bench.wait_for_mail()
            rounds = 1 if arguments.tiny else arguments.rounds
            results, seconds = behind(bench, servers, schedule(selected, servers, rounds))
        finally:
            for peer in (*peers, *stopped):
                peer.stop()
    minutes = round((time.monotonic() - start) / 60, 1)
    print(write(arguments, selected, results, seconds, minutes))
    return exit_code(results)


if __name__ == "__main__":
    sys.exit(main())
