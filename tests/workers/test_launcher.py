"""How a worker's process is started: its descriptors, its first line, its Python."""

import json
import os
import socket
import sys
from pathlib import Path
from unittest.mock import mock_open, patch

from twisted.internet.protocol import ProcessProtocol
from twisted.trial.unittest import SynchronousTestCase

from popserv.workers import launcher
from popserv.workers.launcher import Launcher
from tests.workers.harness import Reactor


class LaunchTests(SynchronousTestCase):
    """Launcher, with a reactor that starts nothing."""

    def launch(self, sockets=(), reactor=None, environ=b""):
        """Launch one; return the process, its setup, and our ends."""
        self.reactor = reactor or Reactor()
        with patch("popserv.workers.launcher.open", mock_open(read_data=environ), create=True):
            launcher = Launcher("popserv.tap", ["--maildir", "mail"], self.reactor)
        found = launcher.launch(ProcessProtocol(), {"number": 2, "of": 3}, sockets)
        process, *ends = found
        for end in ends:
            self.addCleanup(end.close)
        return process, ends

    def test_setup(self):
        """The first line says who it is, what to parse, where, and what to listen on."""
        sent = []
        self.patch(socket.socket, "sendall", lambda _, data: sent.append(data))
        process, _ = self.launch([(40, 50), (41, None)])
        (line,) = sent
        self.assertEqual(
            json.loads(line),
            {
                "maker": "popserv.tap",
                "arguments": ["--maildir", "mail"],
                "directory": os.getcwd(),
                "reactor": Reactor.__module__,
                "number": 2,
                "of": 3,
                "sockets": [[4, 50], [5, None]],
            },
        )
        self.assertTrue(line.endswith(b"\n"))
        self.assertEqual(process.childFDs[4], 40)
        self.assertEqual(process.childFDs[5], 41)

    def test_descriptors(self):
        """Its input is nothing, its output comes to us, and so does its link, as number 3."""
        seen = {}

        class Looking(Reactor):
            def spawnProcess(self, *arguments, childFDs, **more):
                for number, descriptor in childFDs.items():
                    seen[number] = os.fstat(descriptor).st_ino
                return super().spawnProcess(*arguments, childFDs=childFDs, **more)

        process, _ = self.launch(reactor=Looking())
        self.assertEqual(sorted(seen), [0, 1, 2, 3])
        self.assertEqual(seen[0], os.stat(os.devnull).st_ino)
        self.assertEqual(seen[1], seen[2])
        self.assertNotEqual(seen[1], seen[3])
        self.assertEqual(process.arguments[-len(sys.path) - 1], "3")

    def test_python(self):
        """It is the same Python, with the same options and the same path, all absolute."""
        self.patch(sys, "path", ["", "lib", "/usr/lib"])
        process, _ = self.launch()
        self.assertEqual(process.executable, sys.executable)
        here = os.getcwd()
        self.assertEqual(process.arguments[-3:], [here, os.path.join(here, "lib"), "/usr/lib"])
        self.assertEqual(process.env["PATH"], os.environ["PATH"])

    def test_systemd(self):
        """What systemd has told is told again, and its descriptors are there to be closed."""
        told = f"LISTEN_PID={os.getpid()}\0LISTEN_FDS=2\0LISTEN_FDNAMES=a:b\0HOME=/\0"
        process, _ = self.launch([(40, None)], environ=told.encode())
        self.assertEqual(sorted(process.childFDs), [0, 1, 2, 3, 4, 5, 6])
        self.assertEqual(process.childFDs[6], 40)
        self.assertEqual((process.env["LISTEN_FDS"], process.env["LISTEN_FDNAMES"]), ("2", "a:b"))

    def test_not_systemd(self):
        """What systemd has told another process is nobody's."""
        process, _ = self.launch(environ=b"LISTEN_PID=1\0LISTEN_FDS=2\0")
        self.assertEqual(sorted(process.childFDs), [0, 1, 2, 3])

    def test_no_proc(self):
        """Where there is no /proc, there is no systemd."""
        with patch("popserv.workers.launcher.open", side_effect=FileNotFoundError, create=True):
            self.assertEqual(launcher._of_systemd(), {})

    def test_cannot(self):
        """If no process can be started, no descriptor stays open."""

        class Refusing(Reactor):
            def spawnProcess(self, *arguments, **more):
                raise PermissionError

        before = self.descriptors()
        launcher = Launcher("popserv.tap", [], Refusing())
        self.assertRaises(PermissionError, launcher.launch, None, {}, [])
        self.assertEqual(self.descriptors(), before)

    def descriptors(self):
        """Return how many are open."""
        if not Path("/proc/self/fd").exists():
            self.skipTest("no /proc here")
        return len(list(Path("/proc/self/fd").iterdir()))

    def test_gone_at_once(self):
        """A process that has ended before it was refused with anything is no error here."""
        process, ends = self.launch()
        self.assertEqual(len(ends), 2)
        self.assertEqual(len(self.reactor.spawned), 1)
        self.assertIs(process, self.reactor.spawned[0])
