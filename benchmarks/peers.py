"""The servers that are measured: where their mail is, how they start, what they use.

Every peer has a directory of its own with Maildirs, a users file and a log, listens on a
free port of 127.0.0.1, and is started, asked and ended by its own pid.
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
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
PASSWORD = "secret"
USERS = 2000
"""How many are in the users file at least, whatever is measured: what a server does for each
would else be seen in one workload because another one was asked for, too."""
PATIENCE = 60
"""Seconds that a server may take to start or to end."""

_TICKS = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """Something that was to be measured cannot be; the message says why."""


class Absent(Exception):
    """A peer is not installed; the message says what is missing."""


def _tree(pid):
    """Return the fields of /proc/PID/stat, behind the name, of a process and all below it."""
    stats = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as file:
                    # The name stands in parentheses and may hold anything.
                    stats[int(entry)] = file.read().rpartition(")")[2].split()
            except OSError:
                pass
    children = {}
    for each, fields in stats.items():
        children.setdefault(int(fields[1]), []).append(each)
    tree, todo = {}, [pid]
    while todo:
        each = todo.pop()
        if each in stats:
            tree[each] = stats[each]
            todo += children.get(each, ())
    return tree


def _nanoseconds(pid):
    """Return what the threads of a process have used, finer than in ticks; 0 if not told."""
    total = 0
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
                total += int(file.read().split()[0])
    except (OSError, IndexError):
        return 0
    return total


class Peer:
    """A server."""

    name = ""
    """What the tables call it."""

    bare = False
    """Whether LIST tells the sizes of files that have bare LF."""

    most_connections = None
    """How many connections at most memory is measured with; None: any number."""

    files = 1
    """How many a process has open for a session, its socket among them."""

    stalls = False
    """Whether it waits some 40 ms for every message that is not asked for in a pipeline."""

    owner = None
    """The uid and gid that must own the Maildirs; None: this process's."""

    def __init__(self, directory):
        self.directory = Path(directory, re.sub(r"\W+", "-", self.name))
        self.root = self.directory / "mail"
        self.root.mkdir(parents=True)
        self.process = None
        self.port = None
        self._log = self.directory / "log"
        self._users = set()

    @classmethod
    def check(cls):
        """Raise Absent if the peer is not installed."""

    def maildir(self, user):
        """Return where a user's mail is; from the next start on the user may log in."""
        self._users.add(user)
        return self.root / user

    def command(self):
        """Return the command line that serves on ``port`` and stays in the foreground."""
        raise NotImplementedError

    def start(self):
        """Start, unless it runs, and wait for the greeting."""
        if self.process is not None:
            return
        everybody = self._users.union(f"idle{number}" for number in range(USERS))
        lines = [f"{user}:{{PLAIN}}{PASSWORD}\n" for user in sorted(everybody)]
        users = self.root / ".users"
        if not users.exists() or users.read_text() != "".join(lines):
            users.write_text("".join(lines))
            users.chmod(0o600)  # popserv takes no other
            if self.owner is not None:
                os.chown(users, *self.owner)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [str(part) for part in self.command()]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                **({} if self.owner is None else self._as_owner()),
            )
        deadline = time.monotonic() + PATIENCE
        while not self._greets():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise Failed(f"{self.name} does not start: {self.last_words()}")
            time.sleep(0.02)
        self.settled_cpu()

    def _as_owner(self):
        uid, gid = self.owner
        return {"user": uid, "group": gid, "extra_groups": []}

    def _greets(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as connection:
                return connection.recv(512).startswith(b"+OK")
        except OSError:
            return False

    def last_words(self):
        """Return the end of what the server has printed."""
        return self._log.read_text(errors="backslashreplace")[-500:].strip()

    def stop(self):
        """End the server and wait for it."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def restart(self):
        """End and start."""
        self.stop()
        self.start()

    def pids(self):
        """Return the processes of the whole tree."""
        return list(_tree(self.process.pid))

    def cpu(self):
        """Return the seconds that the whole tree has used, with all who have ended in it."""
        total = 0.0
        for pid, fields in _tree(self.process.pid).items():
            user, system, ended_user, ended_system = map(int, fields[11:15])
            # Both say the same, but for threads that have ended and for what is cut off.
            total += max((user + system) / _TICKS, _nanoseconds(pid) / 1e9)
            total += (ended_user + ended_system) / _TICKS
        return total

    def cpu_of(self, work):
        """Return what ``work()`` returns, and the seconds that the whole tree used for it."""
        before = self.settled_cpu()
        found = work()
        return found, self.settled_cpu() - before

    def settled_cpu(self):
        """Return the same when nothing more is added: servers tidy up behind a reply."""
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
        """Return the octets that the whole tree uses, shared ones in proportion (PSS)."""
        total = 0
        for pid in self.pids():
            try:
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue  # ended in between
            total += int(re.search(r"^Pss:\s+(\d+)", rollup, re.M)[1]) << 10
        return total


class Popserv(Peer):
    """popserv, as twistd runs it, with more arguments if such are to be compared."""

    files = 2
    takes = None
    """Connections at a time; None: as many as it takes by itself, whatever they do."""

    twistd = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()")

    def __init__(self, directory, arguments=()):
        self._arguments = arguments
        self.name = " ".join(("popserv", *arguments))
        super().__init__(directory)

    def command(self):
        """See Peer."""
        listen = f"tcp:{self.port}:backlog=1024:interface=127.0.0.1"
        options = ["--maildir", self.root, "--listen", listen, *self._arguments]
        if self.takes is not None:
            options += ["--max-connections", self.takes]
        return (*self.twistd, "--nodaemon", "--pidfile=", "pop3", *options)


class TwistedMail(Peer):
    """The server of twisted.mail, see twisted_mail.py."""

    name = "twisted.mail"
    bare = True
    stalls = True

    @classmethod
    def check(cls):
        """See Peer."""
        if find_spec("twisted.mail") is None:
            raise Absent("twisted.mail is missing: it is a part of Twisted's distribution")

    def command(self):
        """See Peer."""
        return (sys.executable, HERE / "twisted_mail.py", self.port, self.root)


class Floor(Peer):
    """What Twisted and the kernel take for themselves, see floor.py."""

    name = "floor"

    def command(self):
        """See Peer."""
        return (sys.executable, HERE / "floor.py", self.port, self.root)


_DOVECOT = """\
base_dir = {run}
state_dir = {run}
log_path = {directory}/dovecot.log
protocols = pop3
listen = 127.0.0.1
ssl = no
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
    port = 0
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
    """Dovecot with its default settings, in an instance of its own.

    It runs as an ordinary user in any case, root's run as nobody: so that the same
    is measured whoever measures.
    """

    name = "dovecot"
    most_connections = 500
    tuning = ""

    def __init__(self, directory):
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self.owner = (nobody.pw_uid, nobody.pw_gid)
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
            raise Absent("dovecot is missing: Debian's dovecot-core and dovecot-pop3d")
        version = subprocess.run(
            [program, "--version"], capture_output=True, text=True, check=False
        ).stdout
        if not version.startswith("2.3."):
            raise Absent(f"dovecot is {version.strip()}; the settings here are those of 2.3")
        places = ("/usr/lib/dovecot", "/usr/libexec/dovecot", "/usr/local/libexec/dovecot")
        if not any(os.path.exists(f"{place}/pop3") for place in places):
            raise Absent("dovecot has no pop3: Debian's dovecot-pop3d")

    def command(self):
        """See Peer."""
        uid, gid = self.owner or (os.getuid(), os.getgid())
        settings = _DOVECOT.format(
            run=self._run,
            root=self.root,
            directory=self.directory,
            port=self.port,
            user=pwd.getpwuid(uid).pw_name,
            group=grp.getgrgid(gid).gr_name,
        )
        path = self.directory / "dovecot.conf"
        path.write_text(settings + self.tuning)
        return (self._program("dovecot"), "-F", "-c", path)

    def last_words(self):
        """See Peer."""
        log = self.directory / "dovecot.log"
        return super().last_words() + (log.read_text()[-500:].strip() if log.exists() else "")


class TunedDovecot(Dovecot):
    """Dovecot with what its manual has for speed; the others are compared with this."""

    name = "dovecot, tuned"
    tuning = _TUNED


KINDS = {
    "popserv": Popserv,
    "dovecot-tuned": TunedDovecot,
    "dovecot": Dovecot,
    "twisted": TwistedMail,
    "floor": Floor,
}
"""By the names that --peers takes."""

SERVERS = [name for name in KINDS if name != "floor"]
"""Those that somebody could use."""
