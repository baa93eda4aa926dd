"""The workloads of sql.py."""

import socket
import subprocess
import sys
from dataclasses import dataclass

from peers import PASSWORD, TIMEOUT, MeasurementError
from sql_servers import SQLServer
from workloads import FirstSession, Run, Steady, Workload, summarize

DELIVER = """
import io, sys, time
from twisted.internet import task
from twisted.internet.defer import Deferred, gatherResults
from popserv.core.user_settings import NO_SETTINGS
from popserv.maildrops import StoreSettings, make_store

async def main(reactor):
    store = make_store(sys.argv[1], StoreSettings(cache_messages=0))
    message, number = open(sys.argv[2], "rb").read(), int(sys.argv[3])

    users = [b"%b%d" % (sys.argv[4].encode(), at) for at in range(int(sys.argv[5]))]

    async def some(first, count):
        for at in range(first, first + count):
            user = users[at % len(users)]
            await store.deliver_new(user, NO_SETTINGS, io.BytesIO(message))

    await some(0, min(50, len(users)))
    before = time.process_time()
    start = time.perf_counter()
    print("ready", flush=True)
    sys.stdin.readline()
    step = len(users) // 8
    await gatherResults([Deferred.fromCoroutine(some(at * step, number)) for at in range(8)])
    print(time.process_time() - before, time.perf_counter() - start, flush=True)
    sys.stdin.readline()
    if hasattr(store, "stop"):
        await store.stop()

task.react(main)
"""
"""A program that delivers a message to users, eight times at a time.

Its arguments are a store, a file, the deliveries of each of the eight, and the users: the start of
their names, and their number.
"""


def deliver(peer, store, path, number, users):
    """Run the program on a store of a peer; return the Run."""
    command = [sys.executable, "-c", DELIVER, store, path, number, *users]
    with subprocess.Popen(
        [str(part) for part in command],
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
    count = 8 * number
    if isinstance(peer, SQLServer):
        # The server has delivered nothing; another process has.
        peer.front += cpu - used
    return Run(cpu / count, count / seconds)


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
class Logins(Workload):
    """Logins, STAT and QUIT of users in turn, whose maildrops are known from an earlier session."""

    users: int = 1000
    messages: int = 10
    clients: int = 4
    estimate = 2.0

    def prepare(self, bench, peer):
        """See Workload."""
        for number in range(self.users):
            bench.fill(peer, f"turn{number}", "small", self.messages)

    def measure(self, bench, peer):
        """See Workload."""
        calls = self.users // self.clients
        options = ("--clients", self.clients, "--calls", calls, "--messages", self.messages)
        for _ in range(2):
            with bench.load(peer, "login", "turn#", *options, "--rotate") as load:
                result, cpu = peer.measure_cpu(load.run)
        return summarize([result], cpu)


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
        store = f"sql:{peer.file}" if isinstance(peer, SQLServer) else f"maildir:{peer.root}"
        (path,) = bench.mail.messages("usual", 1)
        return deliver(peer, store, path, self.number, ("new", 50))


def workloads(*, tiny=False):
    """Return all workloads in order."""

    def scaled(number):
        return max(3, number // 500) if tiny else number

    many = scaled(100_000)
    usual = {"kind": "retr", "mail": "usual", "messages": scaled(1000)}
    poll = {"kind": "poll", "distinct": 1000}
    return [
        Logins("login", "login, STAT and QUIT", users=4 if tiny else 1000),
        Steady("poll-500", "poll of 500", messages=scaled(500), clients=4, **poll),
        Steady("poll-100000", "poll of 100,000", messages=many, **poll),
        FirstSession("first-100000", "first session of 100,000", messages=many),
        Steady("retr", "RETR, 2-10 KB", **usual),
        Steady("retr-4", "RETR, 2-10 KB, 4 clients", clients=4, **usual),
        Delivery("delivery", "delivery, 2-10 KB", number=3 if tiny else 400),
        Removal("quit", "QUIT with 1,000 removals", messages=scaled(1000)),
    ]
