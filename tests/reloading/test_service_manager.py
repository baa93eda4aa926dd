"""Tests of popserv.reloading.service_manager."""

import os
import socket
import time

from twisted.internet.task import Clock
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import eventAsText, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from popserv.reloading.service_manager import ServiceManager


class ManagerTests(SynchronousTestCase):
    """ServiceManager, with a socket in the place of systemd's."""

    def setUp(self):
        """Open the socket."""
        self.path = f"{os.path.realpath('/tmp')}/popserv-{os.getpid()}-notify"
        self.log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        self.reactor = Clock()

    def listen(self, address):
        """Open a socket with this address."""
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.socket.close)
        self.socket.bind(address)
        self.socket.setblocking(False)
        if address[0] == "/":
            self.addCleanup(os.unlink, address)

    def manager(self, address, **variables):
        """Return a ServiceManager, and check that it removes the variables."""
        environ = {"NOTIFY_SOCKET": address, "LANG": "C", **variables}
        manager = ServiceManager(environ)
        if manager._socket is not None:
            self.addCleanup(manager._socket.close)
        self.assertEqual(environ, {"LANG": "C"})
        return manager

    def received(self):
        """Return the lines of each message."""
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(1000).decode().split("\n"))
            except BlockingIOError:
                return messages

    def test_states(self):
        """Each state is one message, on a socket with a path and on an abstract one."""
        for address, name in ((self.path, self.path), (f"\0{self.path}", f"@{self.path}")):
            self.listen(address)
            manager = self.manager(name)
            before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            manager.ready(self.reactor, "serving")
            manager.reloading()
            manager.ready(self.reactor, "serving")
            manager.stopping(0)
            first, (word, when, *status), second, last = self.received()
            self.assertEqual(first, ["READY=1", "STATUS=serving"])
            self.assertEqual((word, status), ("RELOADING=1", ["STATUS=reading files again"]))
            name, _, since = when.partition("=")
            self.assertEqual(name, "MONOTONIC_USEC")
            self.assertGreaterEqual(int(since), before)
            self.assertEqual(second, first)
            self.assertEqual(last, ["STOPPING=1", "STATUS=ending sessions"])
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.assertEqual(list(self.log), [])

    def test_time_to_stop(self):
        """The service manager is told how long the server takes to stop, if that is known."""
        self.listen(self.path)
        self.manager(self.path).stopping(90.5)
        self.assertEqual(
            self.received(),
            [["STOPPING=1", "STATUS=ending sessions", "EXTEND_TIMEOUT_USEC=90500000"]],
        )

    def test_watchdog(self):
        """The watchdog is served twice in its interval, as long as the service runs."""
        self.listen(self.path)
        for pid in ({}, {"WATCHDOG_PID": str(os.getpid())}):
            manager = self.manager(self.path, WATCHDOG_USEC="3000000", **pid)
            self.reactor.advance(10)
            self.assertEqual(self.received(), [])
            manager.ready(self.reactor, "serving")
            manager.ready(self.reactor, "serving")
            self.assertEqual(self.received().count(["WATCHDOG=1"]), 1)
            for _ in range(2):
                self.reactor.advance(1.4)
                self.assertEqual(self.received(), [])
                self.reactor.advance(0.1)
                self.assertEqual(self.received(), [["WATCHDOG=1"]])
            manager.stopping(0)
            self.received()
            self.reactor.advance(10)
            self.assertEqual(self.received(), [])

    def test_no_watchdog(self):
        """The watchdog of another process is not served, nor one without a valid interval."""
        self.listen(self.path)
        for variables in (
            {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getppid())},
            {"WATCHDOG_USEC": "0"},
            {"WATCHDOG_USEC": "soon"},
        ):
            manager = self.manager(self.path, **variables)
            manager.ready(self.reactor, "serving")
            self.assertEqual(self.received(), [["READY=1", "STATUS=serving"]])

    def test_none(self):
        """Without a service manager, nothing is sent or scheduled."""
        manager = ServiceManager({"WATCHDOG_USEC": "3000000"})
        manager.ready(self.reactor, "serving")
        manager.reloading()
        manager.stopping(0)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_ended(self):
        """A service manager that has ended, or does not read, does not disturb the server."""
        self.listen(self.path)
        manager = self.manager(self.path)
        for _ in range(2000):
            manager.reloading()
        self.socket.close()
        manager.stopping(0)
        self.assertEqual(list(self.log), [])

    def test_unusable(self):
        """A socket that cannot be used is logged."""
        for address, problem in (
            (self.path, "No such file or directory"),
            ("vsock:2:1234", "it is neither a path nor an abstract socket"),
            ("/" + "x" * 200, "AF_UNIX path too long"),
        ):
            self.manager(address).ready(self.reactor, "serving")
            text = eventAsText(list(self.log)[-1])
            self.assertIn(f"systemd is not notified: NOTIFY_SOCKET={address}: {problem}", text)
