"""A server in a container, where it has the same process ID at each start."""

import os
import re
import subprocess
from pathlib import Path

from twisted.trial.unittest import TestCase

from popserv.auth.passwords.users_file_editing import set_secret
from tests.live.harness import (
    BIN,
    LOOPBACK,
    TIMEOUT,
    Connection,
    require_programs,
    run,
    temporary_directory,
    until,
)


class PidfileTests(TestCase):
    """A pidfile that an earlier run has left in the current directory."""

    def setUp(self):
        """Make a directory with mail and a pidfile."""
        self.directory = temporary_directory(self)
        set_secret(str(self.directory / ".users"), b"joe", b"{PLAIN}secret", new=True)
        self.pidfile = self.directory / "twistd.pid"

    def start(self, *prefix):
        """Start twistd, with its default pidfile; return the process and its log."""
        log = self.directory / "log"
        command = [
            BIN / "twistd",
            "--nodaemon",
            "pop3",
            "--maildir",
            self.directory,
            "-l",
            LOOPBACK,
        ]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*prefix, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
            )
        self.addCleanup(process.wait, TIMEOUT)
        self.addCleanup(process.kill)
        return process, log

    def assert_serves(self, log):
        """Check that the server greets a client."""
        ports = until(lambda: re.findall(r"starting on (\d+)\n", log.read_text()), "a port")
        self.assertEqual(Connection(("127.0.0.1", int(ports[0]))).close()[:3], b"+OK")

    def test_same_process_id(self):
        """The server starts if the pidfile has its own process ID, and removes it at the end."""
        process, log = self.start("/bin/sh", "-c", 'echo $$ >twistd.pid && exec "$0" "$@"')
        self.assert_serves(log)
        self.assertEqual(self.pidfile.read_text(), str(process.pid))
        process.terminate()
        process.wait(TIMEOUT)
        self.assertFalse(self.pidfile.exists())

    def test_other_process(self):
        """The server does not start if another process has the process ID in the pidfile."""
        self.pidfile.write_text(str(os.getpid()))
        process, log = self.start()
        self.assertEqual(process.wait(TIMEOUT), 1)
        self.assertIn(f"Another twistd server is running, PID {os.getpid()}", log.read_text())
        self.assertEqual(self.pidfile.read_text(), str(os.getpid()))

    def test_killed_init(self):
        """A server that is process 1 of a PID namespace starts again after it was killed."""
        require_programs(self, "unshare")
        namespace = ("unshare", "--map-root-user", "--pid", "--fork", "--kill-child")
        if run(*namespace, "true").returncode:
            self.skipTest("PID namespaces are required")
        for _ in range(2):
            process, log = self.start(*namespace)
            self.assert_serves(log)
            self.assertEqual(self.pidfile.read_text(), "1")
            (server,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(int(server), 9)
            process.wait(TIMEOUT)
            self.assertTrue(self.pidfile.exists())
