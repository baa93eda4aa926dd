"""The workloads: one class for each method of measurement, one entry for each workload.

``prepare`` generates the mail of a workload for every peer.  ``measure`` then returns a Run;
it is called for each peer in turn, once per round.
"""

import json
import os
import subprocess
from contextlib import suppress
from dataclasses import dataclass, replace

from mail import remove_server_files
from peers import MeasurementError


@dataclass
class Run:
    """The result of one run."""

    value: float
    """The server's CPU time in seconds per operation, or what the workload measures instead."""

    rate: float = 0.0
    """Operations per second of wall-clock time."""

    client: float = 0.0
    """The load generator's CPU seconds per operation; should be well below 1 / ``rate``."""

    p99: float = 0.0
    """The duration in seconds that 99 % of the operations did not exceed."""

    slowest: float = 0.0
    """The duration of the slowest operation in seconds; only this figure shows a stall."""

    resumed: float = 0.0
    """The share of the TLS sessions offered by clients that the server has resumed."""

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
    target: float | None = 1.0
    rounds: int | None = None
    """The maximum number of rounds; None: no limit."""

    cores: bool = False
    """Whether the rate of servers that use several cores is compared, see Peer.cores."""

    estimate = 1.5
    """The expected duration of a run in seconds, without the measured time itself."""

    figure = "cpu"
    """What is measured: "cpu", "memory", or "wait", the duration of an operation."""

    @property
    def unit(self):
        """The unit of the figure: seconds or octets."""
        return "B" if self.figure == "memory" else "s"

    @property
    def rate_target(self):
        """The ratio of popserv's rate to that of the tuned Dovecot that it must exceed."""
        return 1.0

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
    tls: bool = False
    resume: bool = False
    """Whether each client resumes its last TLS session; otherwise handshakes are full."""

    estimate = 0.6

    @property
    def rate_target(self):
        """See Workload; with pipelining the rate is that of one client that does not wait."""
        return 1.0 if self.depth == 1 else None

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
        if self.tls:
            options += ["--port", peer.tls_port, "--tls", peer.certificate]
        if self.resume:
            options.append("--resume")
        with bench.load(peer, self.kind, self._user, *options) as load:
            result, cpu = peer.measure_cpu(load.run)
        return summarize([result], cpu)


class Beside(Steady):
    """The duration of a NOOP of one client while another pipelines RETR; its 99th percentile.

    The rate is that of RETR.
    """

    figure = "wait"

    def measure(self, bench, peer):
        """See Workload."""
        run = super().measure(bench, peer)
        return replace(run, value=run.p99)


def summarize(results, cpu):
    """Return the Run of one or more results of the load generator."""
    operations = sum(result["operations"] for result in results)
    return Run(
        cpu / operations,
        operations / sum(result["seconds"] for result in results),
        sum(result["client"] for result in results) / operations,
        max(result["p99"] for result in results),
        max(result["slowest"] for result in results),
        resumed=min(result["resumed"] for result in results),
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
class RemoveAll(Workload):
    """Sessions that retrieve and delete every message, each by another user.

    One operation is a session if ``kind`` is life, and a message if it is dele.  Before a run
    every user polls, so that the server knows the user: before the delivery, or, if the
    messages are ``seen``, after it.
    """

    kind: str = "life"
    messages: int = 10
    maildrops: int = 1
    clients: int = 1
    seen: bool = False
    estimate = 6.0

    def _maildirs(self, peer):
        number = self.maildrops
        if peer.stalls_without_pipelining:
            number = max(self.clients, number // 5)
        return [peer.root / f"{self.name}-{each}" for each in range(number)]

    def _load(self, bench, peer, kind, messages, clients=1):
        calls = len(self._maildirs(peer)) // clients
        options = ("--clients", clients, "--calls", calls, "--messages", messages, "--rotate")
        return bench.load(peer, kind, f"{self.name}-#", *options)

    def prepare(self, bench, peer):
        """See Workload."""
        for maildir in self._maildirs(peer):
            bench.fill(peer, maildir.name, "usual", 0)

    def measure(self, bench, peer):
        """See Workload."""
        messages = min(self.messages, 200) if peer.stalls_without_pipelining else self.messages
        if not self.seen:
            with self._load(bench, peer, "poll", 0) as load:
                load.run()
        for number, maildir in enumerate(self._maildirs(peer)):
            first = number * messages % 1000
            bench.mail.deliver(maildir, "usual", messages, first=first, seen=self.seen)
        # Not synced: the removal of a file that is on the disk would measure the disk, which
        # may even discard the blocks of each file at once.
        bench.settle()
        if self.seen:
            with self._load(bench, peer, "poll", messages) as load:
                load.run()
        with self._load(bench, peer, self.kind, messages, self.clients) as load:
            result, cpu = peer.measure_cpu(load.run)
        for maildir in self._maildirs(peer):
            if left := count_messages(maildir):
                raise MeasurementError(f"QUIT left {left} messages of {messages}")
        return summarize([result], cpu)


@dataclass
class Memory(Workload):
    """The server's memory per logged-in idle connection."""

    connections: tuple = ()
    estimate = 7.0
    figure = "memory"

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


def over_tls(messages, large):
    """Return the workloads over TLS 1.3, with these numbers of usual and of large messages."""

    def login(name, title, target, **options):
        options |= {"kind": "login", "clients": 4, "warm_up": 3}
        return Steady(name, f"login over TLS 1.3, {title}", target, tls=True, **options)

    def retr(name, title, target, **options):
        options = {"mail": "usual", "messages": messages} | options
        title = f"RETR over TLS 1.3, {title}"
        return Steady(name, title, target, kind="retr", tls=True, **options)

    return [
        login("login-tls", "full handshake", 1.0),
        login("login-tls-resumed", "resumed session", 1.0, resume=True),
        retr("retr-tls", "2-10 KB messages", 1.0),
        retr("retr-tls-16", "2-10 KB messages, 16 pipelined", 1.0, depth=16),
        retr("retr-tls-large", "1-5 MB messages", 1.0, mail="large", messages=large),
    ]


def workloads(*, tiny=False, million=False, connections=2000):
    """Return all workloads in order; ``tiny`` ones are only large enough to test the code."""

    def scaled(number):
        return max(3, number // 500) if tiny else number

    def poll(number, target=1.0, **options):
        title = f"poll of an unchanged maildrop with {number:,} messages"
        return Steady(
            f"poll-{number}", title, target, kind="poll", messages=scaled(number), **options
        )

    def retr(name, title, target, **options):
        options = {"kind": "retr", "mail": "usual", "messages": scaled(1000)} | options
        return Steady(name, title, target, **options)

    k10, k100 = scaled(10_000), scaled(100_000)
    steps = [step for step in (0, 100, 250, 500, 1000, 2000, 5000, 10_000) if step <= connections]
    login = {"kind": "login", "warm_up": 3}
    return [
        Steady("connect", "connection and greeting", 1.05, kind="connect", clients=4, warm_up=3),
        Steady("login", "login: USER, PASS, STAT, QUIT", 0.3, clients=4, **login),
        poll(10),
        poll(100),
        poll(500, 0.16, clients=4),
        poll(1000),
        poll(10_000, 0.04),
        FirstSession(
            "first-10000",
            "first session with 10,000 messages, nothing cached",
            0.5,
            messages=k10,
            maildrops=3,
        ),
        FirstSession(
            "first-100000",
            "first session with 100,000 messages, nothing cached",
            0.5,
            messages=k100,
        ),
        FirstSession(
            "restart-100000",
            "first session with 100,000 messages after a server restart",
            0.5,
            messages=k100,
            clear=False,
        ),
        poll(100_000, 0.02),
        AfterDelivery(
            "delivery-100000", "session after a delivery into 100,000 messages", 0.3, messages=k100
        ),
        *([poll(1_000_000, rounds=1)] if million else []),
        RemoveAll(
            "life",
            "life: login, RETR and DELE of 10 new messages, QUIT",
            0.5,
            maildrops=8 if tiny else 200,
            clients=4,
        ),
        retr("retr", "RETR, 2-10 KB messages", 0.75),
        retr(
            "retr-dots",
            "RETR, 2-10 KB messages with lines that begin with a dot",
            0.75,
            mail="dotted",
        ),
        retr("retr-16", "RETR, 2-10 KB messages, 16 pipelined", 0.7, depth=16),
        retr("retr-large", "RETR, 1-5 MB messages", 0.36, mail="large", messages=3 if tiny else 12),
        Steady("top", "TOP n 0", 0.82, kind="top", mail="usual", messages=scaled(1000)),
        RemoveAll(
            "dele",
            "RETR and DELE of every message, QUIT (per message)",
            0.75,
            kind="dele",
            messages=15 if tiny else 1000,
            maildrops=5,
            seen=True,
        ),
        *over_tls(scaled(1000), 3 if tiny else 12),
        Memory(
            "memory",
            "memory of a logged-in idle connection",
            0.01,
            rounds=1,
            connections=(0, 5, 10) if tiny else tuple(steps),
        ),
        Steady("noop", "NOOP, pipelined", 2.5, kind="noop", depth=500),
        Beside(
            "noop-beside-retr",
            "NOOP beside 1,000 pipelined RETRs, 99th percentile",
            None,
            kind="beside",
            mail="usual",
            messages=scaled(1000),
            clients=2,
            depth=1000,
        ),
        Steady("cores-login", "login, 8 clients", None, cores=True, clients=8, **login),
        Steady(
            "cores-poll-500",
            "poll of 500 messages, 8 clients",
            None,
            cores=True,
            kind="poll",
            messages=scaled(500),
            clients=8,
        ),
        retr("cores-retr", "RETR, 2-10 KB messages, 8 clients", None, cores=True, clients=8),
    ]


def count_messages(maildir):
    """Return the number of messages in a Maildir."""
    return sum(len(os.listdir(maildir / folder)) for folder in ("new", "cur"))
