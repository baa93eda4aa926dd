"""The workloads: one class for each method of measurement, one entry for each workload.

``prepare`` generates the mail of a workload for every peer.  ``measure`` then returns a Run;
it is called for each peer in turn, once per round.
"""

import json
import os
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass

from mail import remove_server_files
from peers import MeasurementError


@dataclass
class Run:
    """The result of one run."""

    value: float
    """The server's CPU time in seconds per operation, or its memory in octets per connection."""

    rate: float = 0.0
    """Operations per second of wall-clock time."""

    client: float = 0.0
    """The load generator's CPU seconds per operation; should be well below 1 / ``rate``."""

    slowest: float = 0.0
    """The duration of the slowest operation in seconds; only this figure shows a stall."""

    points: tuple = ()
    """For memory: pairs of a number of connections and the server's memory in octets."""


class Load:
    """A process of the load generator, load.c, as a context manager."""

    def __init__(self, program, peer, kind, user, *options):
        command = [program, kind, "--port", peer.port, "--user", user, *options]
        if peer.counts_bare_lf:
            command.append("--bare")
        self._process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def __enter__(self):
        self._read_line()
        return self

    def __exit__(self, *exception):
        if exception[0] is not None:
            self._process.kill()
        # communicate() closes its standard input, and the load generator then ends its sessions.
        _, errors = self._process.communicate(timeout=120)
        if exception[0] is None and self._process.returncode:
            raise MeasurementError(errors.strip())

    def _read_line(self):
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise MeasurementError(
                self._process.stderr.read().strip()
                or f"the load generator ended with exit code {code}"
            )
        return line

    def run(self, line=""):
        """Send a line to the load generator; return its result, a dictionary.

        :raises MeasurementError: a reply of the server was wrong.
        """
        with suppress(BrokenPipeError):  # the reason is read below
            self._process.stdin.write(f"{line}\n")
        return json.loads(self._read_line())


@dataclass
class Workload:
    """A workload.

    ``target`` is the maximum ratio of popserv's figure to that of the tuned Dovecot.
    """

    name: str
    title: str
    target: float | None = None
    rounds: int | None = None
    """The maximum number of rounds; None: no limit."""

    estimate = 1.5
    """The expected duration of a run in seconds, without the measured time itself."""

    unit = "s"

    def prepare(self, bench, peer):
        """Generate the mail of a peer."""
        raise NotImplementedError

    def measure(self, bench, peer):
        """Measure a peer once; return a Run.

        :raises MeasurementError: the peer failed.
        """
        raise NotImplementedError


@dataclass
class Steady(Workload):
    """Repeat one operation for about a second, with everything cached."""

    kind: str = ""
    mail: str = "small"
    messages: int = 10
    clients: int = 1
    depth: int = 1
    warm_up: int = 1
    distinct: int | None = None
    estimate = 0.6

    @property
    def _user(self):
        return f"{self.mail}{self.messages}-#"

    def prepare(self, bench, peer):
        """See Workload."""
        for number in range(self.clients):
            user = self._user.replace("#", str(number))
            bench.fill(peer, user, self.mail, self.messages, self.distinct)

    def measure(self, bench, peer):
        """See Workload."""
        messages = bench.count(peer, self._user.replace("#", "0"))
        options = ["--clients", self.clients, "--depth", self.depth, "--messages", messages]
        options += ["--seconds", bench.seconds, "--warm", self.warm_up]
        with bench.load(peer, self.kind, self._user, *options) as load:
            result, cpu = peer.measure_cpu(load.run)
        return summarize([result], cpu)


def summarize(results, cpu):
    """Return the Run of one or more results of the load generator."""
    operations = sum(result["operations"] for result in results)
    return Run(
        cpu / operations,
        operations / sum(result["seconds"] for result in results),
        sum(result["client"] for result in results) / operations,
        max(result["slowest"] for result in results),
    )


@dataclass
class FirstSession(Workload):
    """The first session in a maildrop after a start of the server.

    ``clear`` tells whether the server's own files in the Maildirs are removed before.
    """

    messages: int = 0
    clear: bool = True
    maildrops: int = 1
    estimate = 3.5

    @property
    def _users(self):
        return [f"small{self.messages}-{number}" for number in range(self.maildrops)]

    def prepare(self, bench, peer):
        """See Workload."""
        bench.fill(peer, "starter", "small", 1)
        for user in self._users:
            bench.fill(peer, user, "small", self.messages)

    def measure(self, bench, peer):
        """See Workload."""
        if not self.clear and (self.name, peer.name) not in bench.polled:
            bench.polled.add((self.name, peer.name))
            for user in self._users:
                bench.poll(peer, user)
        peer.stop()
        if self.clear:
            for user in self._users:
                remove_server_files(peer.root / user)
        peer.start()
        # The cost of the first login of any user is not a cost of the maildrop.
        bench.poll(peer, "starter")
        results, cpu = peer.measure_cpu(lambda: [bench.poll(peer, user) for user in self._users])
        return summarize(results, cpu)


@dataclass
class AfterDelivery(Workload):
    """A session after the delivery of one message, repeated ``times`` times."""

    messages: int = 0
    times: int = 3
    estimate = 5.0

    @property
    def _user(self):
        return f"small{self.messages}-0"

    def prepare(self, bench, peer):
        """See Workload."""
        bench.fill(peer, self._user, "small", self.messages)

    def measure(self, bench, peer):
        """See Workload."""
        bench.poll(peer, self._user)
        results, cpu = [], 0.0
        for _ in range(self.times):
            bench.mail.deliver(peer.root / self._user)
            result, used = peer.measure_cpu(lambda: bench.poll(peer, self._user))
            results.append(result)
            cpu += used
        return summarize(results, cpu)


@dataclass
class DeleteAll(Workload):
    """RETR and DELE of every message and QUIT, per message; no message may be left."""

    messages: int = 0
    estimate = 1.5

    def prepare(self, bench, peer):
        """See Workload."""
        bench.fill(peer, "emptied", "usual", 0)

    def measure(self, bench, peer):
        """See Workload."""
        maildir = peer.root / "emptied"
        messages = self.messages // 5 if peer.stalls_without_pipelining else self.messages
        bench.mail.fill(maildir, "usual", messages, peer.owner, shutil.copyfile)
        os.sync()  # removing a file that was never written to the disk is cheaper
        options = ("--calls", 1, "--messages", messages)
        with bench.load(peer, "dele", "emptied", *options) as load:
            result, cpu = peer.measure_cpu(load.run)
        if left := bench.count(peer, "emptied"):
            raise MeasurementError(f"QUIT left {left} messages of {messages}")
        return summarize([result], cpu)


@dataclass
class Memory(Workload):
    """The server's memory per logged-in idle connection."""

    connections: tuple = ()
    estimate = 7.0
    unit = "B"

    def _steps(self, bench, peer):
        limit = bench.open_files // peer.files_per_session
        if peer.max_connections is not None:
            limit = min(limit, peer.max_connections)
        steps = {step for step in self.connections if step <= limit}
        if limit < max(self.connections):
            steps.add(limit // 100 * 100)
        return sorted(steps)

    def prepare(self, bench, peer):
        """See Workload."""
        for number in range(max(self._steps(bench, peer))):
            bench.fill(peer, f"idle{number}", "small", 1)

    def measure(self, bench, peer):
        """See Workload."""
        peer.restart()
        bench.poll(peer, "idle0")
        points = []
        with bench.load(peer, "idle", "idle#") as load:
            for step in self._steps(bench, peer):
                result = load.run(step)
                if result["connections"] != step:
                    raise MeasurementError(f"{result['connections']} connections, not {step}")
                peer.cpu_when_idle()
                points.append((step, peer.memory()))
        peer.restart()
        (_, empty), (connections, full) = points[0], points[-1]
        return Run((full - empty) / connections, points=tuple(points))


def workloads(*, tiny=False, million=False, connections=2000):
    """Return all workloads in order; ``tiny`` ones are only large enough to test the code."""

    def scaled(number):
        return max(3, number // 500) if tiny else number

    def poll(number, target=None, **options):
        title = f"poll of an unchanged maildrop with {number:,} messages"
        return Steady(
            f"poll-{number}", title, target, kind="poll", messages=scaled(number), **options
        )

    k10, k100 = scaled(10_000), scaled(100_000)
    steps = [step for step in (0, 100, 250, 500, 1000, 2000, 5000, 10_000) if step <= connections]
    return [
        Steady("connect", "connection and greeting", 55 / 40, kind="connect", clients=4, warm_up=3),
        Steady("login", "login: USER, PASS, STAT, QUIT", 0.2, kind="login", clients=4, warm_up=3),
        poll(10, rounds=1),
        poll(100, rounds=1),
        poll(500, 0.09, clients=4),
        poll(1000, rounds=1),
        poll(10_000, 0.7 / 37),
        FirstSession(
            "first-10000",
            "first session with 10,000 messages, nothing cached",
            0.45,
            messages=k10,
            maildrops=3,
        ),
        FirstSession(
            "first-100000",
            "first session with 100,000 messages, nothing cached",
            0.45,
            messages=k100,
        ),
        FirstSession(
            "restart-100000",
            "first session with 100,000 messages after a server restart",
            0.5,
            messages=k100,
            clear=False,
        ),
        poll(100_000, 2.5 / 333),
        AfterDelivery(
            "delivery-100000", "session after a delivery into 100,000 messages", 0.3, messages=k100
        ),
        *([poll(1_000_000, rounds=1)] if million else []),
        Steady(
            "retr", "RETR, 2-10 KB messages", 0.7, kind="retr", mail="usual", messages=scaled(1000)
        ),
        Steady(
            "retr-16",
            "RETR, 2-10 KB messages, 16 pipelined",
            0.5,
            kind="retr",
            mail="usual",
            messages=scaled(1000),
            depth=16,
        ),
        Steady(
            "retr-large",
            "RETR, 1-5 MB messages",
            0.3,
            kind="retr",
            mail="large",
            messages=3 if tiny else 12,
        ),
        Steady("top", "TOP n 0", 30 / 36, kind="top", mail="usual", messages=scaled(1000)),
        DeleteAll(
            "dele",
            "RETR and DELE of every message, QUIT (per message)",
            0.4,
            messages=15 if tiny else 1000,
        ),
        Memory(
            "memory",
            "memory of a logged-in idle connection",
            6 / 568,
            rounds=1,
            connections=(0, 5, 10) if tiny else tuple(steps),
        ),
        Steady("noop", "NOOP, pipelined", 2.5, kind="noop", depth=500),
    ]


def count_messages(maildir):
    """Return the number of messages in a Maildir."""
    return sum(len(os.listdir(maildir / folder)) for folder in ("new", "cur"))
