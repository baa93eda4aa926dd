"""PostgreSQL, and popserv with the SQL store, as servers to measure."""

import os
import pwd
import shutil
import subprocess
import sys
import time
from pathlib import Path

from peers import TIMEOUT, MeasurementError, Peer, Popserv

INLINE = 1 << 20
"""The inline threshold of the store without objects."""


def program(name):
    """Return the path of a program of PostgreSQL, which Debian keeps outside the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else shutil.which(name)


class Database(Peer):
    """A PostgreSQL of its own; it is no server of mail, and listens on a socket."""

    name = "postgresql"

    def __init__(self, directory):
        super().__init__(directory)
        self._as_user = {}
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self.root, user.pw_uid, user.pw_gid)
            self._as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        options = ("--auth=trust", "--username=mail", "--no-sync", "--locale=C", "--encoding=UTF8")
        self._run("initdb", *options, "--pgdata", self.root / "data")

    def _run(self, name, *arguments):
        done = subprocess.run(
            [program(name), *arguments], cwd=self.root, capture_output=True, **self._as_user
        )
        if done.returncode:
            raise MeasurementError(f"{name}: {done.stderr.decode(errors='replace').strip()}")

    def start(self):
        """Start it, and wait until it answers."""
        options = ("-c", "listen_addresses=", "-c", "jit=off", "-c", "shared_buffers=256MB")
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [program("postgres"), "-D", self.root / "data", "-k", self.root, *options],
                stdout=log,
                stderr=log,
                cwd=self.root,
                **self._as_user,
            )
        deadline = time.monotonic() + TIMEOUT
        while subprocess.run([program("pg_isready"), "-q", "-h", self.root]).returncode:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise MeasurementError(f"PostgreSQL did not start: {self.last_output()}")
            time.sleep(0.05)

    def create(self, name):
        """Create a database; return its conninfo."""
        self._run("createdb", "-h", self.root, "-U", "mail", name)
        return f"host={self.root} user=mail dbname={name}"

    def vacuum(self, name):
        """Do what PostgreSQL does some time after messages were added."""
        self._run("vacuumdb", "-h", self.root, "-U", "mail", "--analyze", "-q", name)


class SQLServer(Popserv):
    """popserv with the SQL store that a file describes.

    ``front`` and ``behind`` are the CPU seconds of it and of the database that were measured.
    """

    def __init__(self, directory, name, database, file):
        self._arguments = ()
        self.name = name
        # That of Popserv makes a name of the arguments.
        Peer.__init__(self, directory)
        self.database = database
        self.file = file
        self.front = self.behind = 0.0

    def command(self):
        """See Peer."""
        command = list(super().command())
        at = command.index("--maildir")
        users = f"passwd-file:{self.root}/.users"
        command[at : at + 2] = ["--store", f"sql:{self.file}", "--auth", users]
        return command

    def measure_cpu(self, work):
        """See Peer; what PostgreSQL has used is added up in ``behind``."""
        before = self.database.cpu_when_idle()
        result, used = super().measure_cpu(work)
        self.front += used
        self.behind += self.database.cpu_when_idle() - before
        return result, used


class SQLPopserv(SQLServer):
    """The same, with a store of its own into which the Maildirs of its users are copied first.

    Messages of more than ``inline`` octets are objects in a directory.
    """

    label = "sql"
    inline = INLINE

    def __init__(self, directory, database):
        super().__init__(directory, self.label, database, directory / f"{self.label}.toml")
        (self.directory / "objects").mkdir()
        make_store(self.file, database.create(self.label), self.inline, self.directory)
        self._copied = set()

    def start(self):
        """See Peer."""
        new = self._users - self._copied
        if new and self.process is None:
            users = [f"--user={user}" for user in sorted(new)]
            popserv("copy", f"maildir:{self.root}", f"sql:{self.file}", *users)
            self._copied |= new
            self.database.vacuum(self.label)
        super().start()


class SQLObjects(SQLPopserv):
    """The same, with all messages as objects."""

    label = "objects"
    inline = 0


def make_store(file, conninfo, inline=INLINE, objects=None):
    """Write a file for the store in an empty database, and create its schema.

    Large messages are in the directory ``objects`` of a directory, if there is one.
    """
    file.touch(0o600)
    lines = f'conninfo = "{conninfo}"\ninline = {inline}\n'
    if objects is not None:
        lines += f'[objects]\nurl = "file://{objects}/objects"\n'
    file.write_text(lines)
    popserv("schema", "create", "--store", f"sql:{file}")


def popserv(*arguments):
    """Run a command of popserv."""
    code = "from popserv.commandline.main import main; main()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True)
    if done.returncode:
        raise MeasurementError(f"popserv {arguments[0]}: {done.stderr.decode()}")
