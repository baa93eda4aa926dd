"""A MariaDB server of a test, in a temporary directory and on a socket there."""

import os
import pwd
import shutil
import subprocess

from tests.live.harness import TIMEOUT, temporary_directory, until

SERVER = "/usr/sbin/mariadbd"
"""Debian keeps it outside the PATH of users."""


class MariaDB:
    """A server; ``url`` is the URL of its database for SQLAlchemy."""

    def __init__(self, test):
        self.directory = temporary_directory(test)
        self._data = self.directory / "data"
        self._socket = self.directory / "socket"
        self._process = None
        # It does not run as root.
        self._user = pwd.getpwuid(os.geteuid()).pw_name
        if os.geteuid() == 0:
            self._user = "nobody"
            shutil.chown(self.directory, self._user)
        subprocess.run(
            [
                *("mariadb-install-db", "--no-defaults", f"--datadir={self._data}"),
                *("--auth-root-authentication-method=normal", "--skip-test-db"),
                f"--user={self._user}",
            ],
            check=True,
            capture_output=True,
            timeout=TIMEOUT,
        )
        self.url = f"mysql+pymysql://root@/mail?unix_socket={self._socket}&charset=utf8mb4"
        test.addCleanup(self.stop)
        self.start()
        self.execute("CREATE DATABASE mail", "mysql")

    def start(self):
        """Start the server, and wait until it answers."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(SERVER, "--no-defaults", f"--datadir={self._data}"),
                    *(f"--socket={self._socket}", "--skip-networking", f"--user={self._user}"),
                    *("--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=8M"),
                ],
                stdout=log,
                stderr=log,
            )

        def answers():
            if self._process.poll() is not None:
                raise AssertionError((self.directory / "log").read_text())
            return self._client("SELECT 1", "mysql").returncode == 0

        until(answers, "MariaDB")

    def stop(self):
        """Stop the server at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(TIMEOUT)
            self._process = None

    def execute(self, statements, database="mail"):
        """Execute SQL statements."""
        done = self._client(statements, database)
        if done.returncode:
            raise AssertionError(done.stderr.decode())

    def _client(self, statements, database):
        command = ["mariadb", "--no-defaults", "--user=root", f"--socket={self._socket}", database]
        return subprocess.run(
            command, input=statements.encode(), capture_output=True, timeout=TIMEOUT, check=False
        )
