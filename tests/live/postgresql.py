"""A PostgreSQL server of a test, in a temporary directory and on a socket there."""

import atexit
import contextlib
import os
import pwd
import shutil
import signal
import subprocess
from functools import cache
from itertools import count
from pathlib import Path

import psycopg

from examples.cluster.processes import free_port
from tests.certificates import issue, make_authority
from tests.live.harness import TIMEOUT, temporary_directory, until


def program(name):
    """Return the path of a program of PostgreSQL, which Debian keeps outside the PATH.

    One in the directory that is named by ``POSTGRESQL`` in the environment comes first.
    """
    chosen = os.environ.get("POSTGRESQL")
    if chosen and Path(chosen, name).exists():
        return str(Path(chosen, name))
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else shutil.which(name)


class AtExit:
    """Cleans up at the end of the process, in place of a test case."""

    addCleanup = staticmethod(atexit.register)


@cache
def shared_server():
    """Return the server that all tests of this process share; it is for databases of their own."""
    return PostgreSQL(AtExit())


@cache
def tls_server():
    """Return a server with TLS, likewise, and the connection parameters that are its address."""
    authority = make_authority()
    trusted = temporary_directory() / "authority"
    trusted.write_bytes(authority.certificate_pem())
    server = PostgreSQL(AtExit(), issue("localhost", issuer=authority).pem())
    return server, {
        "host": "localhost",
        "port": str(server.port),
        "sslmode": "verify-full",
        "sslrootcert": str(trusted),
    }


_numbers = count(1)


def create_database(server=None):
    """Create a database, in the shared server unless another is given; return its name."""
    name = f"test{next(_numbers)}"
    (server or shared_server()).execute(f"CREATE DATABASE {name}")
    return name


class PostgreSQL:
    """A cluster; ``url`` is the URL of its database for SQLAlchemy.

    With a certificate (PEM, with its key) it also listens on ``port`` of 127.0.0.1, with TLS.
    ``copy_of`` is another cluster, of which it is a base backup.
    """

    def __init__(self, test, certificate=None, copy_of=None):
        self.directory = temporary_directory(test)
        self.port = free_port() if certificate else 5432
        self._settings = ["--listen_addresses="]
        self._data = self.directory / "data"
        self._process = None
        self._address = ["--host", str(self.directory), "--port", str(self.port)]
        # It does not run as root.
        self._as_user = {}
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self.directory, user.pw_uid, user.pw_gid)
            self._as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        if certificate:
            path = self.directory / "certificate"
            path.touch(0o600)
            path.write_bytes(certificate)
            os.chown(path, self._as_user.get("user", -1), self._as_user.get("group", -1))
            self._settings = ["--listen_addresses=127.0.0.1", "--ssl=on"]
            self._settings += [f"--ssl_cert_file={path}", f"--ssl_key_file={path}"]
        command = [
            *(program("initdb"), "--auth=trust", "--username=mail", "--no-sync"),
            *("--encoding=UTF8", "--locale=C", "--pgdata", str(self._data)),
        ]
        if copy_of is not None:
            command = [
                *(program("pg_basebackup"), "--checkpoint=fast", "--no-sync", "--username=mail"),
                *("--host", str(copy_of.directory), "--pgdata", str(self._data)),
            ]
        subprocess.run(
            command,
            check=True,
            capture_output=True,
            cwd=self.directory,
            timeout=TIMEOUT,
            **self._as_user,
        )
        self.conninfo = f"host={self.directory} port={self.port} user=mail dbname=postgres"
        self.url = f"postgresql+psycopg://mail@/postgres?host={self.directory}"
        test.addCleanup(self.stop)
        self.start()

    def start(self):
        """Start the server, and wait until it answers."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(program("postgres"), "-D", str(self._data), "-k", str(self.directory)),
                    *("--fsync=off", f"--port={self.port}", *self._settings),
                ],
                stdout=log,
                stderr=log,
                cwd=self.directory,
                **self._as_user,
            )
        ready = [program("pg_isready"), "--quiet", *self._address]
        until(lambda: subprocess.run(ready, check=False).returncode == 0, "PostgreSQL")

    def stop(self):
        """Stop the server at once, with its connections."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(TIMEOUT)
            self._process = None

    @contextlib.contextmanager
    def without_standby(self):
        """Let commits wait for a standby, which there is not, in a ``with`` block."""
        self.execute("ALTER SYSTEM SET synchronous_standby_names = 'x'; SELECT pg_reload_conf()")
        try:
            # The processes of the server learn of it one by one.
            with contextlib.closing(psycopg.connect(self.conninfo)) as trial:
                while not self.waiting():
                    trial.pgconn.consume_input()
                    if not trial.pgconn.is_busy():
                        while trial.pgconn.get_result():
                            pass
                        trial.pgconn.send_query(b"CREATE TEMPORARY TABLE t () ON COMMIT DROP")
                self.end_waits()
            yield
        finally:
            self.execute(
                "SET synchronous_commit = off; ALTER SYSTEM RESET synchronous_standby_names;"
                "SELECT pg_reload_conf()"
            )

    def waiting(self):
        """Return the process IDs of the sessions whose commits wait for a standby."""
        return self._waiting("pid")

    def end_waits(self, function="pg_cancel_backend"):
        """Let these commits succeed with a warning, or terminate the sessions."""
        self._waiting(f"{function}(pid)")

    def _waiting(self, column):
        command = f"SELECT {column} FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        with psycopg.connect(self.conninfo) as connection:
            return [value for (value,) in connection.execute(command)]

    def execute(self, statements):
        """Execute SQL statements."""
        command = [program("psql"), "-q", "-v", "ON_ERROR_STOP=1", *self._address]
        subprocess.run(
            [*command, "-U", "mail", "-d", "postgres"],
            input=statements.encode(),
            check=True,
            capture_output=True,
            timeout=TIMEOUT,
        )
