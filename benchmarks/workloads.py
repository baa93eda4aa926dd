"""What is measured: one class for each way to measure, one line for each workload.

A workload first has its mail made, for every peer; then ``measure`` is called for one
peer after the other, round by round.  It returns a Run.
"""

import json
import os
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass

from mail import forget
from peers import Failed


@dataclass
class Run:
    """What one run found."""

    value: float
    """Seconds of the server's CPU for one operation, or octets for one connection."""

    rate: float = 0.0
    """Operations a second of the clock on the wall."""

    client: float = 0.0
    """The load's CPU for one operation; should be well below a second divided by ``rate``."""

    slowest: float = 0.0
    """Seconds that the slowest operation took: a stall shows here and nowhere else."""

    points: tuple = ()
    """Of memory: pairs of connections and octets."""


class Load:
    """The program of load.c, started and ready."""

    def __init__(self, program, peer, kind, user, *options):
        command = [program, kind, "--port", peer.port, "--user", user, *options]
        if peer.bare:
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
        self._line()
        return self

    def __exit__(self, *exception):
        if exception[0] is not None:
            self._process.kill()
        # communicate() closes its input, at which it ends its sessions.
        _, errors = self._process.communicate(timeout=120)
        if exception[0] is None and self._process.returncode:
            raise Failed(errors.strip())

    def _line(self):
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise Failed(self._process.stderr.read().strip() or f"the load ended with {code}")
        return line

    def ask(self, word=""):
        """Tell it to go on; return what it found."""
        with suppress(BrokenPipeError):  # why it has ended is read below
            self._process.stdin.write(f"{word}\n")
        return json.loads(self._line())


@dataclass
class Workload:
    """What all have; ``target`` is the ratio to the tuned Dovecot that popserv must reach."""

    name: str
    title: str
    target: float | None = None
    rounds: int | None = None
    """How many rounds at most; None: as many as there are."""

    estimate = 1.5
    """Seconds that a run takes beside that, until it has been seen."""

    unit = "s"

    def prepare(self, bench, peer):
        """Make the mail."""
        raise NotImplementedError

    def measure(self, bench, peer):
        """Return a Run."""
        raise NotImplementedError


@dataclass
class Steady(Workload):
    """The same again and again, for about a second, from everything warm."""

    kind: str = ""
    mail: str = "small"
    messages: int = 10
    clients: int = 1
    depth: int = 1
    warm: int = 1
    sources: int | None = None
    estimate = 0.6

    @property
    def _user(self):
        return f"{self.mail}{self.messages}-#"

    def prepare(self, bench, peer):
        """See Workload."""
        for number in range(self.clients):
            user = self._user.replace("#", str(number))
            bench.fill(peer, user, self.mail, self.messages, self.sources)

    def measure(self, bench, peer):
        """See Workload."""
        messages = bench.count(peer, self._user.replace("#", "0"))
        options = ["--clients", self.clients, "--depth", self.depth, "--messages", messages]
        options += ["--seconds", bench.seconds, "--warm", self.warm]
        with bench.load(peer, self.kind, self._user, *options) as load:
            found, cpu = peer.cpu_of(load.ask)
        return run_of([found], cpu)


def run_of(founds, cpu):
    """Return the Run of one or more answers of the load."""
    operations = sum(found["operations"] for found in founds)
    return Run(
        cpu / operations,
        operations / sum(found["seconds"] for found in founds),
        sum(found["client"] for found in founds) / operations,
        max(found["slowest"] for found in founds),
    )


@dataclass
class First(Workload):
    """The first session in a maildrop after the server was started.

    ``forgotten`` says whether the server's own files are removed before.
    """

    messages: int = 0
    forgotten: bool = True
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
        if not self.forgotten and (self.name, peer.name) not in bench.opened:
            bench.opened.add((self.name, peer.name))
            for user in self._users:
                bench.poll(peer, user)
        peer.stop()
        if self.forgotten:
            for user in self._users:
                forget(peer.root / user)
        peer.start()
        # What a server does once, at anybody's first login, is no matter of the maildrop.
        bench.poll(peer, "starter")
        founds, cpu = peer.cpu_of(lambda: [bench.poll(peer, user) for user in self._users])
        return run_of(founds, cpu)


@dataclass
class Delivery(Workload):
    """A session after one message has come, a few times over."""

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
        founds, cpu = [], 0.0
        for _ in range(self.times):
            bench.mail.deliver(peer.root / self._user)
            found, used = peer.cpu_of(lambda: bench.poll(peer, self._user))
            founds.append(found)
            cpu += used
        return run_of(founds, cpu)


@dataclass
class Emptying(Workload):
    """RETR and DELE of every message and QUIT, which must leave none; by the message."""

    messages: int = 0
    estimate = 1.5

    def prepare(self, bench, peer):
        """See Workload."""
        bench.fill(peer, "emptied", "usual", 0)

    def measure(self, bench, peer):
        """See Workload."""
        maildir = peer.root / "emptied"
        messages = self.messages // 5 if peer.stalls else self.messages
        bench.mail.fill(maildir, "usual", messages, peer.owner, shutil.copyfile)
        os.sync()  # what has never reached the disk is removed more cheaply, too
        options = ("--calls", 1, "--messages", messages)
        with bench.load(peer, "dele", "emptied", *options) as load:
            found, cpu = peer.cpu_of(load.ask)
        if left := bench.count(peer, "emptied"):
            raise Failed(f"QUIT left {left} messages of {messages}")
        return run_of([found], cpu)


@dataclass
class Memory(Workload):
    """What a session that does nothing holds, by the connection."""

    connections: tuple = ()
    estimate = 7.0
    unit = "B"

    def _steps(self, bench, peer):
        most = bench.files // peer.files
        if peer.most_connections is not None:
            most = min(most, peer.most_connections)
        steps = {step for step in self.connections if step <= most}
        if most < max(self.connections):
            steps.add(most // 100 * 100)
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
                found = load.ask(step)
                if found["connections"] != step:
                    raise Failed(f"{found['connections']} connections, not {step}")
                peer.settled_cpu()
                points.append((step, peer.memory()))
        peer.restart()
        (_, empty), (most, full) = points[0], points[-1]
        return Run((full - empty) / most, points=tuple(points))


def workloads(*, tiny=False, million=False, connections=2000):
    """Return all workloads in order; with ``tiny`` no larger than what tries the code."""

    def scaled(number):
        return max(3, number // 500) if tiny else number

    def poll(number, target=None, **more):
        title = f"poll, nothing new: login UIDL LIST QUIT on {number:,} messages"
        return Steady(f"poll-{number}", title, target, kind="poll", messages=scaled(number), **more)

    k10, k100 = scaled(10_000), scaled(100_000)
    steps = [step for step in (0, 100, 250, 500, 1000, 2000, 5000, 10_000) if step <= connections]
    return [
        Steady("connect", "connect, greeting", 55 / 40, kind="connect", clients=4, warm=3),
        Steady("login", "login: USER PASS STAT QUIT", 0.2, kind="login", clients=4, warm=3),
        poll(10, rounds=1),
        poll(100, rounds=1),
        poll(500, 0.09, clients=4),
        poll(1000, rounds=1),
        poll(10_000, 0.7 / 37),
        First(
            "first-10000",
            "first open of 10,000 messages, nothing cached",
            0.45,
            messages=k10,
            maildrops=3,
        ),
        First("first-100000", "the same of 100,000", 0.45, messages=k100),
        First(
            "restart-100000",
            "first open after a restart of the server, 100,000 messages",
            0.5,
            messages=k100,
            forgotten=False,
        ),
        poll(100_000, 2.5 / 333),
        Delivery("delivery-100000", "after one delivery into 100,000", 0.3, messages=k100),
        *([poll(1_000_000, rounds=1)] if million else []),
        Steady(
            "retr", "RETR, 2-10 KB messages", 0.7, kind="retr", mail="usual", messages=scaled(1000)
        ),
        Steady(
            "retr-16",
            "the same, 16 in flight",
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
        Emptying(
            "dele", "RETR + DELE of everything, QUIT; a message", 0.4, messages=15 if tiny else 1000
        ),
        Memory(
            "memory",
            "memory per logged-in idle connection",
            6 / 568,
            rounds=1,
            connections=(0, 5, 10) if tiny else tuple(steps),
        ),
        Steady("noop", "NOOP, pipelined", 2.5, kind="noop", depth=500),
    ]


def stored(maildir):
    """Return how many messages there are."""
    return sum(len(os.listdir(maildir / folder)) for folder in ("new", "cur"))
