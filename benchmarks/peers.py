"""The servers to measure: how to start and stop them, and their CPU time and memory.

Each peer has its own directory with Maildirs, a users file and a log.  It listens on two
free ports of 127.0.0.1, one of them for TLS, and is started, measured and stopped by its
process ID.
"""

import grp
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from importlib.util import find_spec
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

HERE = Path(__file__).resolve().parent
PASSWORD = "secret"
USERS = 2000
"""The minimum number of users in the users file.  It does not depend on the workloads: a cost
per user would otherwise change the figures of one workload when another one is selected too."""
TIMEOUT = 60
"""Seconds that a server may take to start or to stop."""


def _unprivileged(program):
    """Return the uid and gid of nobody if this process is root's and nobody can run a program.

    Servers do not run as root, so that the figures do not depend on who runs the benchmark.
    """
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    owner = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    try:
        subprocess.run([program, "--version"], check=True, capture_output=True, **owner)
    except (OSError, subprocess.CalledProcessError):
        return None
    return nobody.pw_uid, nobody.pw_gid


_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class MeasurementError(Exception):
    """A workload cannot be measured; the message gives the reason."""


class NotInstalled(Exception):
    """A peer is not installed; the message names the missing package."""


def _process_tree(pid):
    """Return the /proc/PID/stat fields after the name, by PID, of a process and its descendants."""
    stats = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as file:
                    # The name is in parentheses and may contain any character.
                    stats[int(entry)] = file.read().rpartition(")")[2].split()
            except OSError:
                pass
    children = {}
    for child, fields in stats.items():
        children.setdefault(int(fields[1]), []).append(child)
    tree, pending = {}, [pid]
    while pending:
        current = pending.pop()
        if current in stats:
            tree[current] = stats[current]
            pending += children.get(current, ())
    return tree


def _make_certificate(path):
    """Create a P-256 key and a self-signed certificate in one PEM file, unless it exists."""
    if path.exists():
        return
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now, day = datetime.now(timezone.utc), timedelta(days=1)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + 100 * day)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    path.write_bytes(
        certificate.public_bytes(pem)
        + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


class Peer:
    """A server to measure."""

    name = ""
    """The name in the tables."""

    counts_bare_lf = False
    """Whether LIST returns the size of the file, in which a line ending is one octet."""

    max_connections = None
    """The maximum number of connections for the memory workload; None: no limit."""

    files_per_session = 1
    """The number of open files that one session uses in a process, including its socket."""

    stalls_without_pipelining = False
    """Whether each message that is requested without pipelining takes an extra 40 ms or so."""

    cores = (False,)
    """In which workloads the server is measured: False, those for one core; True, those for
    all cores, on which only servers that use several processes are compared."""

    owner = None
    """The uid and gid of the server and the Maildirs; None: those of this process."""

    def __init__(self, directory):
        self.directory = Path(directory, re.sub(r"\W+", "-", self.name))
        self.root = self.directory / "mail"
        self.root.mkdir(parents=True)
        self.certificate = Path(directory, "certificate.pem")
        """The certificate and key of every peer."""
        self.process = None
        self.port = self.tls_port = None
        self._log = self.directory / "log"
        self._users = set()
        # Nanoseconds of CPU time by process and thread, also of threads that have ended.
        self._threads = {}

    @classmethod
    def check(cls):
        """Check whether the peer is installed.

        :raises NotInstalled: it is not.
        """

    def maildir(self, user):
        """Return a user's Maildir; the user can log in after the next start of the server."""
        self._users.add(user)
        return self.root / user

    def command(self):
        """Return the command line of a server that stays in the foreground.

        It listens on ``port``, and for TLS with ``certificate`` on ``tls_port``.
        """
        raise NotImplementedError

    def start(self):
        """Start the server unless it is running, and wait for its greeting.

        :raises MeasurementError: it did not start.
        """
        if self.process is not None:
            return
        all_users = self._users.union(f"idle{number}" for number in range(USERS))
        lines = [f"{user}:{{PLAIN}}{PASSWORD}\n" for user in sorted(all_users)]
        users = self.root / ".users"
        if not users.exists() or users.read_text() != "".join(lines):
            users.write_text("".join(lines))
            users.chmod(0o600)  # popserv rejects a file that others can read
            if self.owner is not None:
                os.chown(users, *self.owner)
        _make_certificate(self.certificate)
        with socket.socket() as probe, socket.socket() as tls_probe:
            probe.bind(("127.0.0.1", 0))
            tls_probe.bind(("127.0.0.1", 0))
            self.port, self.tls_port = probe.getsockname()[1], tls_probe.getsockname()[1]
        command = [str(part) for part in self.command()]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                **self._user(),
            )
        deadline = time.monotonic() + TIMEOUT
        while not self._is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise MeasurementError(f"{self.name} did not start: {self.last_output()}")
            time.sleep(0.02)
        self.cpu_when_idle()

    def _user(self):
        """Return the arguments of Popen that start the server as the owner of the Maildirs."""
        if self.owner is None:
            return {}
        uid, gid = self.owner
        return {"user": uid, "group": gid, "extra_groups": []}

    def _is_ready(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), TIMEOUT) as connection:
                return connection.recv(512).startswith(b"+OK")
        except OSError:
            return False

    def last_output(self):
        """Return the last 500 octets of the server's output."""
        return self._log.read_text(errors="backslashreplace")[-500:].strip()

    def stop(self):
        """Stop the server and wait until it has ended."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def restart(self):
        """Stop and start the server."""
        self.stop()
        self.start()

    def pids(self):
        """Return the process IDs of the whole process tree."""
        return list(_process_tree(self.process.pid))

    def cpu(self):
        """Return the CPU seconds of the whole process tree, including processes that have ended."""
        total = 0.0
        for pid, fields in _process_tree(self.process.pid).items():
            user, system, ended_user, ended_system = map(int, fields[11:15])
            # Ticks are rounded down; the nanoseconds do not include what a thread has used between
            # the last call and its end.
            total += max((user + system) / _TICKS_PER_SECOND, self._nanoseconds(pid) / 1e9)
            total += (ended_user + ended_system) / _TICKS_PER_SECOND
        return total

    def _nanoseconds(self, pid):
        """Return the CPU time of a process's threads, or 0 if the kernel does not report it."""
        threads = self._threads.setdefault(pid, {})
        # A process or a thread may end meanwhile.
        with suppress(OSError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                with suppress(OSError), open(f"/proc/{pid}/task/{thread}/schedstat") as file:
                    threads[thread] = int(file.read().split()[0])
        return sum(threads.values())

    def measure_cpu(self, work):
        """Return the result of ``work()``, and the CPU seconds that the server used for it."""
        before = self.cpu_when_idle()
        result = work()
        return result, self.cpu_when_idle() - before

    def cpu_when_idle(self):
        """Wait until the server has cleaned up after its last reply; return its CPU seconds."""
        deadline = time.monotonic() + 2
        before = self.cpu()
        while time.monotonic() < deadline:
            time.sleep(0.05)
            after = self.cpu()
            if after - before < 0.0005:
                break
            before = after
        return before

    def memory(self):
        """Return the memory of the process tree in octets, shared pages in proportion (PSS)."""
        total = 0
        for pid in self.pids():
            try:
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue  # has ended since
            total += int(re.search(r"^Pss:\s+(\d+)", rollup, re.M)[1]) << 10
        return total


class Popserv(Peer):
    """popserv under twistd, with additional command line arguments, if any."""

    files_per_session = 2
    connection_limit = None
    """The value of --max-connections; None: the server's default."""

    twistd = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()")

    def __init__(self, directory, arguments=()):
        self._arguments = arguments
        if arguments:
            self.cores = (False, True)
        self.name = " ".join(("popserv", *arguments))
        self.owner = _unprivileged(sys.executable)
        super().__init__(directory)

    def command(self):
        """See Peer."""
        endpoint = "tcp:{}:backlog=1024:interface=127.0.0.1"
        options = ["--maildir", self.root, "--listen", endpoint.format(self.port)]
        options += ["--listen-tls", endpoint.format(self.tls_port)]
        options += ["--certificate", self.certificate, *self._arguments]
        if self.connection_limit is not None:
            options += ["--max-connections", self.connection_limit]
        if self.owner is not None:
            uid, gid = self.owner
            options = ["--uid", uid, "--gid", gid, "pop3", *options]
        else:
            options = ["pop3", *options]
        return (*self.twistd, "--nodaemon", "--pidfile=", *options)

    def _user(self):
        """See Peer: twistd changes its user itself, once it has read popserv and listens."""
        return {}


class PopservWorkers(Popserv):
    """popserv with a process for each of two cores."""

    def __init__(self, directory):
        super().__init__(directory, ("--workers", "2"))
        self.cores = (True,)


class TwistedMail(Peer):
    """The server of twisted.mail; see twisted_mail.py."""

    name = "twisted.mail"
    counts_bare_lf = True
    stalls_without_pipelining = True

    @classmethod
    def check(cls):
        """See Peer."""
        if find_spec("twisted.mail") is None:
            raise NotInstalled("twisted.mail is missing; install Twisted")

    def command(self):
        """See Peer."""
        ports = (self.port, self.tls_port)
        return (sys.executable, HERE / "twisted_mail.py", *ports, self.root, self.certificate)


_DOVECOT = """\
base_dir = {run}
state_dir = {run}
log_path = {directory}/dovecot.log
protocols = pop3
listen = 127.0.0.1
ssl = yes
ssl_cert = <{certificate}
ssl_key = <{certificate}
disable_plaintext_auth = no
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
first_valid_uid = 1
mail_location = maildir:{root}/%u
passdb {{
  driver = passwd-file
  args = scheme=PLAIN username_format=%u {root}/.users
}}
userdb {{
  driver = static
  args = uid={user} gid={group} home={root}/%u
}}
# Only root can chroot.
service anvil {{
  chroot =
}}
service pop3-login {{
  chroot =
  inet_listener pop3 {{
    port = {port}
  }}
  inet_listener pop3s {{
    port = {tls_port}
  }}
}}
"""

_TUNED = """\
auth_cache_size = 16M
mail_fsync = never
pop3_no_flag_updates = yes
default_client_limit = 20000
service pop3-login {
  service_count = 0
  process_min_avail = 2
}
service pop3 {
  service_count = 0
  process_min_avail = 4
  process_limit = 20000
}
"""


class Dovecot(Peer):
    """A private instance of Dovecot with its default settings."""

    name = "dovecot"
    cores = (False, True)
    max_connections = 500
    tuning = ""

    def __init__(self, directory):
        self.owner = _unprivileged(self._program("dovecot"))
        super().__init__(directory)
        self._run = self.directory / "run"
        self._run.mkdir()
        if self.owner is not None:
            for path in (self.directory, self._run):
                os.chown(path, *self.owner)

    @staticmethod
    def _program(name):
        return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")

    @classmethod
    def check(cls):
        """See Peer."""
        program = cls._program("dovecot")
        if program is None:
            raise NotInstalled(
                "dovecot is missing; install Debian's dovecot-core and dovecot-pop3d"
            )
        version = subprocess.run(
            [program, "--version"], capture_output=True, text=True, check=False
        ).stdout
        if not version.startswith("2.3."):
            raise NotInstalled(f"dovecot {version.strip()} is not supported; install Dovecot 2.3")
        directories = ("/usr/lib/dovecot", "/usr/libexec/dovecot", "/usr/local/libexec/dovecot")
        if not any(os.path.exists(f"{directory}/pop3") for directory in directories):
            raise NotInstalled("dovecot has no pop3 program; install Debian's dovecot-pop3d")

    def command(self):
        """See Peer."""
        uid, gid = self.owner or (os.getuid(), os.getgid())
        settings = _DOVECOT.format(
            run=self._run,
            root=self.root,
            directory=self.directory,
            port=self.port,
            tls_port=self.tls_port,
            certificate=self.certificate,
            user=pwd.getpwuid(uid).pw_name,
            group=grp.getgrgid(gid).gr_name,
        )
        path = self.directory / "dovecot.conf"
        path.write_text(settings + self.tuning)
        return (self._program("dovecot"), "-F", "-c", path)

    def last_output(self):
        """See Peer."""
        log = self.directory / "dovecot.log"
        return super().last_output() + (log.read_text()[-500:].strip() if log.exists() else "")


class TunedDovecot(Dovecot):
    """Dovecot with the settings that its manual recommends for speed; the baseline."""

    name = "dovecot, tuned"
    tuning = _TUNED


PEERS = {
    "popserv": Popserv,
    "popserv-workers": PopservWorkers,
    "dovecot-tuned": TunedDovecot,
    "dovecot": Dovecot,
    "twisted": TwistedMail,
}
"""The peers by their names for --peers."""
