"""A PostgreSQL server of a test, in a temporary directory and on a socket there."""

import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

from tests.live.harness import TIMEOUT, temporary_directory, until


def program(name):
    """Return the path of a program of PostgreSQL, which Debian keeps outside the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else shutil.which(name)


class PostgreSQL:
    """A cluster; ``url`` is the URL of its database for SQLAlchemy."""

    def __init__(self, test):
        self.directory = temporary_directory(test)
        self._data = self.directory / "data"
        self._process = None
        # It does not run as root.
        self._as_user = {}
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self.directory, user.pw_uid, user.pw_gid)
            self._as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        subprocess.run(
            [
                *(program("initdb"), "--auth=trust", "--username=mail", "--no-sync"),
                *("--encoding=UTF8", "--locale=C", "--pgdata", str(self._data)),
            ],
            check=True,
            capture_output=True,
            cwd=self.directory,
            timeout=TIMEOUT,
            **self._as_user,
        )
        self.url = f"postgresql+psycopg://mail@/postgres?host={self.directory}"
        test.addCleanup(self.stop)
        self.start()

    def start(self):
        """Start the server, and wait until it answers."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(program("postgres"), "-D", str(self._data), "-k", str(self.directory)),
                    *("-c", "listen_addresses=", "-c", "fsync=off"),
                ],
                stdout=log,
                stderr=log,
                cwd=self.directory,
                **self._as_user,
            )
        ready = [program("pg_isready"), "--quiet", "--host", str(self.directory)]
        until(lambda: subprocess.run(ready, check=False).returncode == 0, "PostgreSQL")

    def stop(self):
        """Stop the server at once, with its connections."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(TIMEOUT)
            self._process = None

    def execute(self, statements):
        """Execute SQL statements."""
        command = [program("psql"), "-q", "-v", "ON_ERROR_STOP=1", "-h", str(self.directory)]
        subprocess.run(
            [*command, "-U", "mail", "-d", "postgres"],
            input=statements.encode(),
            check=True,
            capture_output=True,
            timeout=TIMEOUT,
        )
