"""The server of a run: its configuration, its processes, and what they take."""

import os
import re
import shutil
import signal
import ssl
from pathlib import Path
from typing import NamedTuple

from tests.certificates import issue, make_authority
from tests.live.harness import AUDIT, CHECKOUT, LOOPBACK, Server, until
from tests.live.test_workers import is_running
from tests.tls.client_socket import ClientSocket

CA = make_authority()


class Configuration(NamedTuple):
    """What a server is started with besides its store."""

    dialect: str
    workers: int
    marks_seen: bool = False
    utf8: bool = False
    deleted: str = "remove"
    rhosts: Path | None = None

    @property
    def records(self):
        """Whether QUIT records which messages were retrieved."""
        return self.marks_seen or self.dialect in ("rfc1225", "rfc1460")

    @property
    def options(self):
        """The options of the server."""
        options = ["--dialect", self.dialect, "--workers", str(self.workers)]
        options += ["--mark-seen"] * self.marks_seen + ["--utf8"] * self.utf8
        if self.deleted != "remove":
            options += ["--deleted", self.deleted]
        if self.rhosts:
            options += ["--rhosts", self.rhosts]
        return options


class LoggingServer(Server):
    """A server that writes a log file."""

    def __init__(self, logfile, *options, **keywords):
        self.logfile = logfile
        super().__init__(*options, twistd=("--logfile", logfile), **keywords)

    @property
    def log(self):
        """Its log file, and what it has printed."""
        text = self.logfile.read_text(errors="backslashreplace") if self.logfile.exists() else ""
        return text + self._log.read_text(errors="backslashreplace")


class Process:
    """A server with one configuration at a time, in a directory that it keeps over restarts.

    ``auth`` is the start of the option, to which the path of the users file is added.
    """

    def __init__(self, root, store, auth="passwd-file:"):
        self.root = root
        self.users = root / "users"
        self.certificate = root / "server.pem"
        self._logfile = root / "log"
        self._store = store
        self._auth = auth
        self._server = None
        self.port = self.tls_port = None
        self.configuration = None
        plugins = root / "plugins" / "twisted" / "plugins"
        plugins.mkdir(parents=True)
        shutil.copy(Path(__file__).with_name("store_plugin.py"), plugins / "soak_stores.py")
        self.renew()
        authority = root / "ca.pem"
        authority.write_bytes(CA.certificate_pem())
        self._context = ssl.create_default_context(cafile=authority)
        self._context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # the CA lacks some extensions

    def wrap(self, sock):
        """Start TLS on a socket."""
        return ClientSocket(sock, self._context, "localhost")

    def renew(self):
        """Give the server another certificate; return it."""
        issued = issue("localhost", issuer=CA)
        new = self.certificate.with_suffix(".new")
        new.touch(0o600)
        new.write_bytes(issued.pem())
        new.rename(self.certificate)
        return issued.der()

    @property
    def lmtp(self):
        """The socket for deliveries."""
        return self.root / "lmtp"

    def start(self, configuration=None):
        """Start the server, with another configuration if one is given."""
        self.configuration = configuration or self.configuration
        self._logfile.unlink(missing_ok=True)
        path = [str(AUDIT), str(self.root / "plugins"), str(CHECKOUT)]
        self._server = LoggingServer(
            self._logfile,
            *("--auth", f"{self._auth}{self.users}", *self.configuration.options),
            *("--certificate", self.certificate, "--listen", LOOPBACK, "--listen-tls", LOOPBACK),
            *("--lmtp", f"unix:{self.lmtp}", "--recipient-local-part"),
            store=("--store", self._store),
            root=self.root,
            environment={"PYTHONPATH": os.pathsep.join(path)},
        )
        ports = until(lambda: self._ports(2), "the ports")
        self.port, self.tls_port = ports
        until(self.lmtp.exists, "the LMTP socket")
        if self.configuration.workers > 1:
            until(lambda: len(self.workers()) == self.configuration.workers, "the workers")

    def _ports(self, number):
        ports = list(dict.fromkeys(self._server.ports))
        return ports if len(ports) >= number else None

    def stop(self, number=signal.SIGTERM):
        """Stop the server, by a signal, and wait until none of its processes runs."""
        if self._server is None or self._server.process.poll() is not None:
            return None
        pids = self.pids()
        code = self._server.stop(number)
        until(lambda: not any(map(is_running, pids)), "the workers to end")
        if number == signal.SIGKILL:
            self.lmtp.unlink(missing_ok=True)
        return code

    def pids(self):
        """Return the processes of the server: the first one, and then its workers."""
        return [self._server.process.pid, *self.workers()]

    def workers(self):
        """Return the workers, the one that runs longest first."""
        pid = self._server.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        # The kernel lists children in the order of birth; process IDs begin again at some time.
        return list(map(int, children)) if self.configuration.workers > 1 else []

    def kill_worker(self):
        """Kill a worker, not the one that runs longest; without workers, kill and start again.

        It is gone when this returns.  The supervisor starts another one, but later if that happens
        often; while there is only one worker, nothing is killed.
        """
        if self.configuration.workers == 1:
            self.stop(signal.SIGKILL)
            self.start()
            return
        workers = self.workers()
        if len(workers) > 1:
            os.kill(workers[-1], signal.SIGKILL)
            until(lambda: not is_running(workers[-1]), "the end of a worker")

    def signal(self, number):
        """Send a signal to the server."""
        self._server.process.send_signal(number)

    def rotate(self, number):
        """Rotate the log, as logrotate does, by a signal; return what it has had."""
        old = self._logfile.with_suffix(".1")
        self._logfile.rename(old)
        self.signal(number)
        until(self._logfile.exists, "the new log file")
        return old.read_text(errors="backslashreplace")

    def log(self):
        """Return the log since the last rotation."""
        return self._server.log

    def usage(self, pids=()):
        """Return the number of processes, and their memory in octets, descriptors and threads.

        They are all processes of the server, unless ``pids`` has some of them.
        """
        memory = descriptors = threads = 0
        pids = pids or self.pids()
        for pid in pids:
            status = Path(f"/proc/{pid}/status").read_text()
            memory += int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) << 10
            threads += int(re.search(r"Threads:\s+(\d+)", status)[1])
            descriptors += len(os.listdir(f"/proc/{pid}/fd"))
        return len(pids), memory, descriptors, threads
