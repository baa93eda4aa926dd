"""popserv.reloading.reloader: SIGHUP and SIGUSR1."""

import os
import signal
from unittest.mock import Mock

from twisted.application.service import Application, IService, Service
from twisted.internet import reactor
from twisted.internet.task import Clock
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import ILogObserver, eventAsText, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from popserv.interfaces import IReloadable
from popserv.reloading import signals
from popserv.reloading.log_file import LogFile
from popserv.reloading.reloader import Reloader
from tests.signals import blocked_signals, preserve_signals


class FakeReactor(Clock):
    """A reactor that runs calls from threads and signal handlers when it is advanced."""

    def callWhenRunning(self, function, *arguments):
        """Call a function later."""
        self.callLater(0, function, *arguments)

    def callFromThread(self, function, *arguments):
        """Call a function later."""
        self.callLater(0, function, *arguments)


@implementer(IReloadable)
class Recorder:
    """Counts the calls of ``reload``; ``error`` is an exception that it raises."""

    error = None
    calls = 0

    def reload(self):
        """See IReloadable."""
        self.calls += 1
        if self.error:
            raise self.error


class ReloaderTests(SynchronousTestCase):
    """A Reloader with two reloadable objects."""

    def setUp(self):
        """Record the log."""
        preserve_signals(self)
        self.events = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        self.reactor = FakeReactor()
        self.recorders = [Recorder(), Recorder()]

    def start(self, log_file=None, **options):
        """Start a Reloader; it is stopped after the test."""
        self.service = Reloader(self.recorders, log_file, reactor=self.reactor, **options)
        self.service.startService()
        self.addCleanup(self.service.stopService)

    def open_log_file(self):
        """Return a log file, which is closed after the test."""
        log_file = LogFile(self.mktemp())
        self.addCleanup(log_file._file.close)
        return log_file

    def receive(self, *numbers):
        """Receive signals; return the lines that are logged."""
        for number in numbers:
            signal.raise_signal(number)
        before = len(self.events)
        self.reactor.advance(0)
        return [eventAsText(event).partition("] ")[2] for event in list(self.events)[before:]]

    def counts(self):
        """Return how often each object was reloaded."""
        return [recorder.calls for recorder in self.recorders]

    def test_signals(self):
        """Each signal reloads everything, and is logged in one line."""
        verifyObject(IReloadable, self.recorders[0])
        self.start()
        verifyObject(IService, self.service)
        for count, name in enumerate(("SIGHUP", "SIGUSR1"), 1):
            (line,) = self.receive(getattr(signal, name))
            self.assertEqual(line, f"{name}: files that have changed are read again")
            self.assertEqual(self.counts(), [count, count])

    def test_by_name(self):
        """Other code can ask for the same, under another name."""
        self.start()
        before = len(self.events)
        self.service.reload("popserv reload")
        self.assertIn("popserv reload: files that have", eventAsText(self.events[before]))
        self.assertEqual(self.counts(), [1, 1])

    def test_pending(self):
        """Signals that arrive before the first of them is handled are one, for each number."""
        self.start()
        self.assertEqual(len(self.receive(*[signal.SIGHUP, signal.SIGUSR1] * 3)), 2)
        self.assertEqual(len(self.receive(signal.SIGHUP)), 1)
        self.assertEqual(self.counts(), [3, 3])

    def test_not_logged(self):
        """A worker logs no line: the supervisor has logged it."""
        self.start(logs_signals=False)
        self.assertEqual(self.receive(signal.SIGHUP), [])
        self.assertEqual(self.counts(), [1, 1])

    def test_service_manager(self):
        """The service manager learns when the process is ready, reads files again, and stops."""
        manager, calls = Mock(), []
        manager.ready.side_effect = lambda *arguments: calls.append(("ready", *arguments))
        manager.reloading.side_effect = lambda: calls.append(self.counts())
        self.start(manager=manager, status="serving", time_to_stop=lambda: 90)
        self.assertEqual(calls, [])
        self.receive()
        self.assertEqual(calls, [("ready", self.reactor, "serving")])
        self.receive(signal.SIGHUP)
        self.assertEqual(calls[1:], [[0, 0], ("ready", self.reactor, "serving")])
        manager.stopping.assert_not_called()
        signal.raise_signal(signal.SIGHUP)
        self.successResultOf(self.service.stopService())
        manager.stopping.assert_called_once_with(90)
        self.receive()
        self.assertEqual(self.counts(), [2, 2])
        self.assertEqual(len(calls), 3)

    def test_inherited(self):
        """A signal that was ignored at the start is handled: nohup, too, protects from its end."""
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self.start()
        self.receive(signal.SIGHUP)
        self.assertEqual(self.counts(), [1, 1])

    def test_early(self):
        """A signal that arrives before the start is handled after it, before the children start."""
        signals.block()
        signal.raise_signal(signal.SIGHUP)
        blocked = []
        child = Service()
        child.startService = lambda: blocked.append(blocked_signals())
        self.service = Reloader(self.recorders, reactor=self.reactor)
        child.setServiceParent(self.service)
        self.service.startService()
        self.assertEqual(blocked, [set()])
        self.receive()
        self.assertEqual(self.counts(), [1, 1])

    def test_stop(self):
        """From its end on, signals are held back; one that has arrived before is handled."""
        self.start()
        signal.raise_signal(signal.SIGHUP)
        self.successResultOf(self.service.stopService())
        self.assertEqual(len(self.receive(signal.SIGHUP, signal.SIGUSR1)), 1)
        self.assertEqual(self.counts(), [1, 1])

    def test_error(self):
        """An unexpected error is logged, and the other objects are reloaded."""
        self.recorders[0].error = ZeroDivisionError("x")
        self.start()
        lines = self.receive(signal.SIGHUP)
        self.assertIn("unexpected error while files were read again", lines[1])
        self.assertEqual(self.counts(), [1, 1])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_reactor(self):
        """The default reactor is that of Twisted."""
        calls = []
        self.patch(reactor, "callFromThread", lambda *call: calls.append(call))
        self.patch(reactor, "callWhenRunning", lambda *call: calls.append(call))
        self.reactor = None
        self.start()
        signal.raise_signal(signal.SIGHUP)
        self.assertEqual(calls[0], (signals.allow_full_pipe,))
        self.assertEqual(calls[2][1], "SIGHUP")

    def test_log_file(self):
        """The log file is reopened, and the line is in the new file."""
        log_file = self.open_log_file()
        path = log_file.path
        self.start(log_file)
        os.rename(path, path + ".1")
        (line,) = self.receive(signal.SIGHUP)
        self.assertEqual(
            line, f"SIGHUP: log file {path} reopened, files that have changed are read again"
        )
        self.assertTrue(os.path.exists(path))

    def test_cannot_reopen(self):
        """If the log file cannot be reopened, one line says so, and everything is reloaded."""
        log_file = self.open_log_file()
        path = log_file.path
        self.start(log_file)
        os.rename(path, path + ".1")
        os.mkdir(path)
        (line,) = self.receive(signal.SIGHUP)
        self.assertIn(f"the log file {path} cannot be reopened: Is a directory", line)
        self.assertEqual(self.counts(), [1, 1])

    def test_application(self):
        """The observer is the log of twistd's application; without one, twistd opens the log."""
        for observer in (None, EventLoggingObserver()):
            application = Application("popserv")
            Reloader([], observer=observer).setServiceParent(application)
            self.assertIs(application.getComponent(ILogObserver, None), observer)
            self.assertEqual(len(list(IService(application))), 1)
