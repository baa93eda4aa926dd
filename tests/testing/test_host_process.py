"""Tests of popserv.testing.host_process, with real processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from popserv.testing import ServerError, host_process, running_server
from popserv.testing.host_process import HostProcess, get_process
from tests.docs.harness import ROOT
from tests.live.harness import until

WAIT = 60

PROGRAM = """
import os, sys
from popserv.testing import running_server
from popserv.testing.host_process import get_process
server = running_server({"ann": "secret"}).start()
print(get_process()._process.pid, flush=True)
exec(sys.argv[1])
"""
"""A program that starts a server and tells the process of it."""

FORK = """
import signal
read, write = os.pipe()
if os.fork() == 0:
    print(os.getpid(), flush=True)
    os.closerange(1, 3)
    os.close(write)
    signal.pause()
os.close(write)
os.read(read, 1)
"""
"""Forks a process that waits, and goes on when it does."""


class HostProcessTests(SynchronousTestCase):
    """The process of the servers."""

    def process(self):
        """Return a process of this test's own."""
        process = HostProcess()
        self.addCleanup(process.close)
        return process

    def test_shared(self):
        """All servers of a process run in one other process."""
        process = get_process()
        with running_server({"ann": "secret"}), running_server({"ann": "secret"}):
            self.assertIs(get_process(), process)

    def test_ended(self):
        """A request to a process that has ended is an error with all that it has printed."""
        process = self.process()
        self.assertTrue(process.is_usable)
        with patch.object(host_process, "_PROGRAM", "raise SystemExit('no room')"):
            failed = self.process()
        error = self.assertRaises(ServerError, failed.request, "state", 1)
        self.assertIn("the process of the server has ended, 1:\nno room", str(error))
        self.assertFalse(failed.is_usable)
        os.kill(process._process.pid, signal.SIGKILL)
        error = self.assertRaises(ServerError, process.request, "state", 1)
        self.assertIn("the process of the server has ended, -9", str(error))

    def test_failed_request(self):
        """A request that has failed is an error, and the process goes on."""
        process = self.process()
        error = self.assertRaises(ServerError, process.request, "state", 5)
        self.assertIn("KeyError: 5", str(error))
        self.assertTrue(process.is_usable)

    def test_interrupted(self):
        """After an interrupted request, no answer is taken for that to another request."""
        process = self.process()
        with patch.object(process, "_connection", wraps=process._connection) as connection:
            connection.recv.side_effect = KeyboardInterrupt
            self.assertRaises(KeyboardInterrupt, process.request, "state", 5)
        self.assertFalse(process.is_usable)
        self.assertRaises(ServerError, process.request, "state", 5)

    def test_started_again(self):
        """Another server gets another process if the first one has ended."""
        self.patch(host_process, "_host_process", None)
        self.addCleanup(lambda: host_process._close_process())
        first = get_process()
        os.kill(first._process.pid, signal.SIGKILL)
        first._process.wait()
        with running_server({"ann": "secret"}) as server:
            self.assertEqual(server.commands(), [])
        self.assertIsNot(get_process(), first)

    def test_forked(self):
        """A process that has forked uses a process of its own, and leaves the other one alone."""
        self.patch(host_process, "_host_process", None)
        self.addCleanup(lambda: host_process._close_process())
        first = get_process()
        running = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        with patch("os.getpid", return_value=-1):
            self.assertFalse(first.is_usable)
            with patch.object(first, "_process", running):
                # It must not wait for the process of its parent.
                first.close()
        self.assertIsNone(running.poll())
        running.communicate(b"\n")
        first._process.wait(WAIT)

    def run_program(self, end):
        """Run the program to its end; return its exit code, after the process has ended as well."""
        with subprocess.Popen(
            [sys.executable, "-bb", "-W", "error", "-c", PROGRAM, end],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as program:
            output, errors = program.communicate()
        pid, *others = map(int, output.split())
        until(lambda: not Path(f"/proc/{pid}/fd/0").exists(), "the end of the process")
        return program.returncode, errors, *others

    def test_never_left_behind(self):
        """The process ends when the program ends, in any way, and without any output."""
        for end, code in (
            ("pass", 0),
            ("os._exit(4)", 4),
            ("os.kill(os.getpid(), 9)", -9),
        ):
            self.assertEqual(self.run_program(end), (code, b""), end)

    def test_forked_program(self):
        """The process ends with the program, even if the program has forked another one."""
        for end, expected in (("pass", 0), ("os.kill(os.getpid(), 9)", -9)):
            code, errors, forked = self.run_program(FORK + end)
            os.kill(forked, signal.SIGKILL)
            self.assertEqual((code, errors), (expected, b""))
