"""A cluster: its processes, their files, and deliveries."""

import json
import smtplib
from contextlib import ExitStack

from examples.cluster.parts import Balancer, FrontEnd, ObjectStore
from examples.cluster.postgresql import PostgreSQL
from examples.cluster.processes import HOST, PROGRAMS, TIMEOUT, ClusterError, accepts, run

PASSWORD = "secret"
USERS = ("ann", "bob", "joe")


class Cluster:
    """A primary with a standby, an object store, three front ends, and a balancer.

    ``directory`` is a new one.  ``port`` and ``lmtp_port`` are those of ``entry``, to which clients
    connect; the default are free ones.  ``settings`` are lines for the file of the store.  The
    primary waits for the standby if ``is_synchronous``.  ``show`` is called with what happens.

    :raises ClusterError: a program is not installed.
    """

    def __init__(
        self,
        directory,
        *,
        port=None,
        lmtp_port=None,
        settings="",
        is_synchronous=True,
        show=lambda text: None,
    ):
        self.directory = directory
        self.file = directory / "cluster.toml"
        self.processes = []
        self._settings, self._is_synchronous, self._show = settings, is_synchronous, show
        self._ports = {"port": port, "lmtp_port": lmtp_port}
        self._stopping = ExitStack()
        self.make_parts()

    def make_parts(self):
        """Make the processes, and look for their programs; nothing is started."""
        primary = PostgreSQL(self.directory, "primary")
        self.databases = [primary, PostgreSQL(self.directory, "standby", primary=primary)]
        self.objects = ObjectStore(self.directory)
        self.object_settings = self.objects.settings
        self.front_ends = [self.make_front_end(f"front-end-{number}") for number in (1, 2, 3)]
        self.entry = Balancer(self.directory, self.front_ends, **self._ports)

    def make_front_end(self, name, **ports):
        """Return a front end."""
        return FrontEnd(self.directory, name, self.file, **ports)

    def start(self):
        """Start all processes.

        :raises ClusterError: one of them cannot be started; the others are stopped.
        """
        for port in filter(None, self._ports.values()):
            if accepts(port):
                raise ClusterError(
                    f"port {port} is in use: name others, "
                    "as in make cluster CLUSTER='--port 2110 --lmtp-port 2424'"
                )
        self.directory.mkdir(mode=0o755)
        try:
            self.start_parts()
        except BaseException:
            self.stop()
            raise

    def start_parts(self):
        """Start the processes in order."""
        primary, standby = self.databases
        self.add(primary)
        self.add(standby)
        if self._is_synchronous:
            primary.set("synchronous_standby_names", standby.name)
        self.add(self.objects)
        self.prepare()
        self.add(*self.front_ends)
        self.add(self.entry)

    def prepare(self):
        """Write the file of the store, create the tables, and add the users."""
        self._show("creating tables and users")
        self.write_file(self.file, [each.port for each in self.databases])
        popserv, store = PROGRAMS / "popserv", f"sql:{self.file}"
        run([popserv, "schema", "create", "--store", store])
        for user in USERS:
            run([popserv, "user", "add", user, "--store", store], text=PASSWORD)

    def write_file(self, file, ports):
        """Write a file for ``--store sql:FILE``, with databases on these ports of this machine."""
        hosts = ",".join(HOST for _ in ports)
        conninfo = f"host={hosts} port={','.join(map(str, ports))} user=popserv dbname=postgres"
        lines = [f'conninfo = "{conninfo}"', self._settings, "[objects]"]
        lines += [f"{name} = {json.dumps(value)}" for name, value in self.object_settings.items()]
        file.touch(mode=0o600)
        file.write_text("\n".join([*lines, ""]))

    def add(self, *processes):
        """Start processes, and wait until they are ready; ``stop()`` ends them."""
        for each in processes:
            self._show(f"starting {each.name}")
            self._stopping.callback(each.stop)
            each.launch()
        for each in processes:
            each.wait()
        self.processes += processes

    def deliver(self, user, messages):
        """Deliver messages by LMTP.

        :raises smtplib.SMTPException: one of them was not accepted.
        """
        with smtplib.LMTP(HOST, self.entry.lmtp_port, timeout=TIMEOUT) as lmtp:
            for message in messages:
                lines = message.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
                lmtp.sendmail("ann@example.org", [user], lines)

    def stop(self):
        """Stop all processes, the last one first."""
        self._stopping.close()


class SmallCluster(Cluster):
    """An embedded database, a directory as object store, and one front end."""

    def make_parts(self):
        """See Cluster."""
        self.databases = [PostgreSQL(self.directory, "postgresql", is_embedded=True)]
        self.object_settings = {"url": f"file://{self.directory / 'objects'}"}
        self.entry = self.make_front_end("popserv", **self._ports)
        self.front_ends = [self.entry]

    def start_parts(self):
        """See Cluster."""
        self.add(*self.databases)
        (self.directory / "objects").mkdir()
        self.prepare()
        self.add(self.entry)
