"""What happens to a cluster: parts of it are killed, suspended, cut off and replaced."""

import contextlib
import os
import signal
import time
from pathlib import Path

from examples.cluster.cluster import Cluster
from examples.cluster.parts import FrontEnd, haproxy
from examples.cluster.postgresql import PostgreSQL
from examples.cluster.processes import HOST, PROGRAMS, Process, free_port, run
from tests.live.harness import until

LEASE = 4
"""Seconds for which a front end has a maildrop without renewing that."""

GRACE = 2
"""Seconds for which objects of removed messages are kept."""

LAG = 1
"""Seconds for which a standby receives nothing."""

LOST = 20
"""Messages that are acknowledged before a primary dies whose standby lags behind."""


class Link(Process):
    """An HAProxy between a front end and the databases, so that the front end can be cut off."""

    def __init__(self, directory, name, databases):
        self.ports = {free_port(): each.port for each in databases}
        super().__init__(directory, name, next(iter(self.ports)))

    def command(self):
        """Write the configuration, and return the command."""
        lines = [
            "defaults",
            *("mode tcp", "retries 0"),
            *("timeout connect 2s", "timeout client 1h", "timeout server 1h"),
        ]
        for own, port in self.ports.items():
            lines += [f"listen {own}", f"bind {HOST}:{own}", f"server database {HOST}:{port}"]
        file = self.directory / f"{self.name}.cfg"
        file.write_text("\n".join([*lines, ""]))
        return [haproxy(), "-db", "-f", file]


class LinkedFrontEnd(FrontEnd):
    """A front end that reaches the databases through a link."""

    def __init__(self, directory, name, file, link):
        super().__init__(directory, name, file)
        self.link = link

    def launch(self):
        """Start the link as well, unless it runs."""
        if self.link.ended:
            self.link.start()
        super().launch()

    def stop(self, number=signal.SIGTERM):
        """Stop both."""
        super().stop(number)
        self.link.stop()


class ChaosCluster(Cluster):
    """A cluster with short leases, and with front ends that can be cut off.

    ``patience`` is for how many seconds statements are tried.
    """

    def __init__(self, directory, *, patience=10, **options):
        settings = f"lease = {LEASE}\ngrace = {GRACE}\npatience = {patience}"
        super().__init__(directory, settings=settings, **options)

    def make_front_end(self, name):
        """See Cluster."""
        link = Link(self.directory, f"link-of-{name}", self.databases)
        return LinkedFrontEnd(self.directory, name, self.directory / f"{name}.toml", link)

    def prepare(self):
        """See Cluster."""
        super().prepare()
        for each in self.front_ends:
            self.write_file(self.directory / f"{each.name}.toml", each.link.ports)


class Faults:
    """What can happen to a cluster; each method returns when it is over.

    ``record`` is what clients were told, ``generator`` a random.Random.
    """

    def __init__(self, cluster, record, generator, *, is_synchronous=True):
        self.cluster, self.record, self.random = cluster, record, generator
        self._is_synchronous = is_synchronous
        self._standbys = 0

    def all(self):
        """Return all faults."""
        return [
            self.kill_front_end,
            self.suspend_front_end,
            self.cut_front_end,
            self.restart_database,
            self.suspend_database,
            self.fail_over,
            self.lag,
            self.restart_objects,
            self.collect,
        ]

    def kill_front_end(self):
        """A front end dies, and is started again."""
        front_end = self._choose_front_end()
        front_end.kill()
        time.sleep(self.random.uniform(0, 1))
        front_end.start()

    def suspend_front_end(self):
        """A front end is suspended for longer than its leases."""
        with suspended(self._choose_front_end().pid):
            time.sleep(LEASE + self.random.uniform(0, 2))

    def cut_front_end(self):
        """A front end does not reach the database for longer than its leases."""
        link = self._choose_front_end().link
        with suspended(link.pid):
            time.sleep(LEASE + self.random.uniform(0, 2))
        if self.random.random() < 0.5:
            # The connections break, instead of going on.
            link.kill()
            link.start()

    def restart_database(self):
        """The primary is restarted."""
        primary = self.cluster.databases[0]
        primary.stop()
        primary.start()

    def suspend_database(self):
        """No process of the primary runs for a time."""
        with suspended(*with_children(self.cluster.databases[0].pid)):
            time.sleep(self.random.uniform(0.5, 3))

    def fail_over(self):
        """The primary dies, the standby takes over, and gets a standby of its own."""
        primary, standby = self.cluster.databases
        if self._is_synchronous:
            primary.kill()
        else:
            # What is committed while nothing is sent to the standby is lost.
            self._kill_while_lagging()
        standby.promote()
        self.cluster.databases = [standby, self._new_standby(standby, primary.port)]

    def lag(self):
        """The standby receives nothing for a time."""
        with suspended(*self._senders()):
            time.sleep(LAG)

    def restart_objects(self):
        """The object store is away for a time."""
        self.cluster.objects.kill()
        time.sleep(self.random.uniform(0, 2))
        self.cluster.objects.start()

    def collect(self):
        """The objects of messages that were removed are collected; this is no fault."""
        run([PROGRAMS / "popserv", "collect", "--store", f"sql:{self.cluster.file}"])

    def _choose_front_end(self):
        return self.random.choice(self.cluster.front_ends)

    def _senders(self):
        """Return the processes of the primary that send to standbys."""
        rows = self.cluster.databases[0].execute("SELECT pid FROM pg_stat_replication")
        return [int(pid) for pid in rows.split()]

    def _kill_while_lagging(self):
        # A standby that connected only now would receive everything.
        senders = until(self._senders, "the standby")
        wanted = len(self.record.acknowledged) + LOST
        with suspended(*senders):
            until(lambda: len(self.record.acknowledged) >= wanted, "deliveries")
            self.cluster.databases[0].kill()
            for pid in senders:
                _signal(pid, signal.SIGKILL)

    def _new_standby(self, primary, port):
        self._standbys += 1
        name = f"standby_{self._standbys}"
        standby = PostgreSQL(self.cluster.directory, name, port=port, primary=primary)
        self.cluster.add(standby)
        if self._is_synchronous:
            primary.set("synchronous_standby_names", name)
        return standby


@contextlib.contextmanager
def suspended(*pids):
    """Suspend processes in a ``with`` block."""
    for pid in pids:
        _signal(pid, signal.SIGSTOP)
    try:
        # The other threads of a process go on until one of them has received the signal.
        until(lambda: all(map(_is_suspended, pids)), "processes to be suspended")
        yield
    finally:
        for pid in pids:
            _signal(pid, signal.SIGCONT)


def _signal(pid, number):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _is_suspended(pid):
    """Return whether all threads of a process are stopped, or it has ended."""
    states = set()
    for file in Path("/proc").glob(f"{pid}/task/*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            states.add(file.read_text().rpartition(")")[2].split()[0])
    return states <= {"T", "Z", "X"}


def with_children(pid):
    """Return the IDs of a process and of its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]
