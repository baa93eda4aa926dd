"""How the process of a worker is started: descriptors, setup, Python."""

import json
import os
import signal
import socket
import sys
from pathlib import Path
from unittest.mock import mock_open, patch

from twisted.internet.protocol import ProcessProtocol
from twisted.trial.unittest import SynchronousTestCase

from popserv.workers.launcher import Launcher
from tests.signals import blocked_signals
from tests.workers.harness import FakeReactor


class LauncherTests(SynchronousTestCase):
    """Launcher, with a reactor that starts no process."""

    def launch(self, sockets=(), reactor=None, environ=b""):
        """Launch a worker; return the process, and the supervisor's ends of its sockets."""
        self.reactor = reactor or FakeReactor()
        with patch("popserv.listening.systemd.open", mock_open(read_data=environ), create=True):
            launcher = Launcher("popserv.tap", ["--maildir", "mail"], self.reactor)
        launched = launcher.launch(ProcessProtocol(), {"number": 2, "count": 3}, sockets)
        process, *ends = launched
        for end in ends:
            self.addCleanup(end.close)
        return process, ends

    def test_setup(self):
        """The first line of the link contains the role, the command line and the sockets."""
        sent = []
        self.patch(socket.socket, "sendall", lambda _, data: sent.append(data))
        process, _ = self.launch([[40, 41], [42]])
        (line,) = sent
        self.assertEqual(
            json.loads(line),
            {
                "service_module": "popserv.tap",
                "arguments": ["--maildir", "mail"],
                "directory": os.getcwd(),
                "reactor": FakeReactor.__module__,
                "number": 2,
                "count": 3,
                "sockets": [[4, 5], [6]],
            },
        )
        self.assertTrue(line.endswith(b"\n"))
        self.assertEqual([process.childFDs[each] for each in (4, 5, 6)], [40, 41, 42])

    def test_descriptors(self):
        """Standard input is /dev/null, output and error are one socket, the link is number 3."""
        inodes = {}

        class InspectingReactor(FakeReactor):
            def spawnProcess(self, *arguments, childFDs, **more):
                for number, descriptor in childFDs.items():
                    inodes[number] = os.fstat(descriptor).st_ino
                return super().spawnProcess(*arguments, childFDs=childFDs, **more)

        process, _ = self.launch(reactor=InspectingReactor())
        self.assertEqual(sorted(inodes), [0, 1, 2, 3])
        self.assertEqual(inodes[0], os.stat(os.devnull).st_ino)
        self.assertEqual(inodes[1], inodes[2])
        self.assertNotEqual(inodes[1], inodes[3])
        self.assertEqual(process.arguments[-len(sys.path) - 1], "3")

    def test_signals(self):
        """A worker starts with SIGHUP and SIGUSR1 blocked, so that they do not end it."""
        blocked = []

        class InspectingReactor(FakeReactor):
            def spawnProcess(self, *arguments, **more):
                blocked.append(blocked_signals())
                return super().spawnProcess(*arguments, **more)

        self.launch(reactor=InspectingReactor())
        self.assertEqual(blocked, [{signal.SIGHUP, signal.SIGUSR1}])
        self.assertEqual(blocked_signals(), set())

    def test_python(self):
        """The worker has the same Python, and the same search path with absolute names."""
        self.patch(sys, "path", ["", "lib", "/usr/lib"])
        process, _ = self.launch()
        self.assertEqual(process.executable, sys.executable)
        here = os.getcwd()
        self.assertEqual(process.arguments[-3:], [here, os.path.join(here, "lib"), "/usr/lib"])
        self.assertEqual(process.env["PATH"], os.environ["PATH"])

    def test_systemd(self):
        """The worker has the variables of systemd, and an open descriptor for each socket."""
        environ = f"LISTEN_PID={os.getpid()}\0LISTEN_FDS=2\0LISTEN_FDNAMES=a:b\0HOME=/\0"
        process, _ = self.launch([[40]], environ=environ.encode())
        self.assertEqual(sorted(process.childFDs), [0, 1, 2, 3, 4, 5, 6])
        self.assertEqual(process.childFDs[6], 40)
        self.assertEqual((process.env["LISTEN_FDS"], process.env["LISTEN_FDNAMES"]), ("2", "a:b"))

    def test_spawn_fails(self):
        """If the process cannot be started, no descriptor stays open."""

        class FailingReactor(FakeReactor):
            def spawnProcess(self, *arguments, **more):
                raise PermissionError

        before = self.open_descriptors()
        launcher = Launcher("popserv.tap", [], FailingReactor())
        self.assertRaises(PermissionError, launcher.launch, None, {}, [])
        self.assertEqual(self.open_descriptors(), before)

    def open_descriptors(self):
        """Return how many descriptors are open."""
        if not Path("/proc/self/fd").exists():
            self.skipTest("no /proc here")
        return len(list(Path("/proc/self/fd").iterdir()))

    def test_exits_immediately(self):
        """A process that exits before it has read its setup raises no error."""
        process, ends = self.launch()
        self.assertEqual(len(ends), 2)
        self.assertEqual(len(self.reactor.spawned), 1)
        self.assertIs(process, self.reactor.spawned[0])
