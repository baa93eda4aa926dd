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
    """An HAProxy before some servers, so that its clients can be cut off from them.

    ``ports`` are those on which it listens, with those of the servers.
    """

    def __init__(self, directory, name, servers):
        self.ports = {free_port(): each.port for each in servers}
        self._reached = set(self.ports.values())
        super().__init__(directory, name, next(iter(self.ports)))

    def reach(self, *servers):
        """Pass connections to these servers only; the connections that there are break."""
        self._reached = {each.port for each in servers}
        self.kill()
        self.start()

    def command(self):
        """Write the configuration, and return the command."""
        lines = [
            "defaults",
            *("mode tcp", "retries 0"),
            *("timeout connect 2s", "timeout client 1h", "timeout server 1h"),
        ]
        for own, port in self.ports.items():
            state = "" if port in self._reached else " disabled"
            lines += [f"listen {own}", f"bind {HOST}:{own}", f"server one {HOST}:{port}{state}"]
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
    """A cluster with short leases, and with front ends and an object store that can be cut off.

    ``patience`` is for how many seconds statements are tried.
    """

    def __init__(self, directory, *, patience=10, **options):
        settings = f"lease = {LEASE}\ngrace = {GRACE}\npatience = {patience}"
        super().__init__(directory, settings=settings, **options)

    def make_parts(self):
        """See Cluster."""
        super().make_parts()
        self.link_of_objects = Link(self.directory, "link-of-objects", [self.objects])
        endpoint = f"http://{HOST}:{self.link_of_objects.port}"
        self.object_settings = {**self.objects.settings, "endpoint": endpoint}

    def make_front_end(self, name):
        """See Cluster."""
        link = Link(self.directory, f"link-of-{name}", self.databases)
        return LinkedFrontEnd(self.directory, name, self.directory / f"{name}.toml", link)

    def prepare(self):
        """See Cluster."""
        self.add(self.link_of_objects)
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

    def all(self):
        """Return all faults."""
        return [
            self.kill_front_end,
            self.suspend_front_end,
            self.cut_front_end,
            self.restart_database,
            self.crash_database,
            self.suspend_database,
            self.fail_over,
            self.lag,
            self.restart_objects,
            self.suspend_objects,
            self.cut_objects,
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

    def crash_database(self):
        """All processes of the primary are killed at once, and it is started again."""
        primary = self.cluster.databases[0]
        # It starts no other process then.
        with suspended(primary.pid):
            processes = with_children(primary.pid)
            for pid in processes:
                _signal(pid, signal.SIGKILL)
        primary.kill()
        until(lambda: all(map(_has_ended, processes)), "the end of the primary")
        primary.start()

    def suspend_database(self):
        """No process of the primary runs for a time."""
        with suspended(*with_children(self.cluster.databases[0].pid)):
            time.sleep(self.random.uniform(0.5, 3))

    def fail_over(self):
        """The primary dies, the standby takes over, and gets a standby of its own."""
        if self._is_synchronous:
            self.cluster.databases[0].kill()
            self._promote_standby()
            return
        wanted = len(self.record.acknowledged) + LOST
        with self.losing_commits():
            until(lambda: len(self.record.acknowledged) >= wanted, "deliveries")

    @contextlib.contextmanager
    def losing_commits(self):
        """Fail over at the end of a ``with`` block; what was committed in it is lost.

        The primary must not wait for its standby.
        """
        # A standby that connected only now would receive everything.
        senders = until(self._senders, "the standby")
        with suspended(*senders):
            yield
            self.cluster.databases[0].kill()
            for pid in senders:
                _signal(pid, signal.SIGKILL)
        self._promote_standby()

    @contextlib.contextmanager
    def two_primaries(self, front_end):
        """Fail over at the start of a ``with`` block, while one front end keeps the old primary.

        The others reach the new one only.  At the end, the old one dies.
        """
        primary, standby = self.cluster.databases
        for each in self.cluster.front_ends:
            each.link.reach(primary if each is front_end else standby)
        standby.promote()
        try:
            yield
        finally:
            primary.kill()
            self._replace_primary()
            for each in self.cluster.front_ends:
                each.link.reach(*self.cluster.databases)

    def lag(self):
        """The standby receives nothing for a time."""
        with suspended(*self._senders()):
            time.sleep(LAG)

    def restart_objects(self):
        """The object store is away for a time."""
        self.cluster.objects.kill()
        time.sleep(self.random.uniform(0, 2))
        self.cluster.objects.start()

    def suspend_objects(self):
        """The object store does not answer for a time."""
        with suspended(self.cluster.objects.pid):
            time.sleep(self.random.uniform(0.5, 3))

    def cut_objects(self):
        """No front end reaches the object store for a time, and connections break."""
        link = self.cluster.link_of_objects
        with suspended(link.pid):
            time.sleep(self.random.uniform(0.5, 3))
        link.kill()
        link.start()

    def collect(self):
        """The objects of messages that were removed are collected; this is no fault."""
        run([PROGRAMS / "popserv", "collect", "--store", f"sql:{self.cluster.file}"])

    def _choose_front_end(self):
        return self.random.choice(self.cluster.front_ends)

    def _senders(self):
        """Return the processes of the primary that send to standbys."""
        rows = self.cluster.databases[0].execute("SELECT pid FROM pg_stat_replication")
        return [int(pid) for pid in rows.split()]

    def _promote_standby(self):
        self.cluster.databases[1].promote()
        self._replace_primary()

    def _replace_primary(self):
        primary, standby = self.cluster.databases
        self.cluster.databases = [standby, self._new_standby(standby, primary.port)]

    def _new_standby(self, primary, port):
        name = f"standby_{len(self.cluster.processes)}"
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
    return _states(pid) <= {"T", "Z", "X"}


def _has_ended(pid):
    return _states(pid) <= {"Z", "X"}


def _states(pid):
    """Return the states of the threads of a process, as /proc tells them."""
    states = set()
    for file in Path("/proc").glob(f"{pid}/task/*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            states.add(file.read_text().rpartition(")")[2].split()[0])
    return states


def with_children(pid):
    """Return the IDs of a process and of its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]
