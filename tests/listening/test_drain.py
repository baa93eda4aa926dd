"""Stopping without cutting off sessions."""

import signal

from twisted.application.service import IService, Service
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.testing import EventLoggingObserver, MemoryReactorClock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv.listening.drain import STOP_TIMEOUT, Drainer


class SlowService(Service):
    """A service that the test stops."""

    def __init__(self):
        self.stopped = Deferred()

    def stopService(self):
        """Wait for the test."""
        super().stopService()
        return self.stopped


class DrainerTests(SynchronousTestCase):
    """A process closes its ports first, and ends when its connections have ended."""

    def setUp(self):
        """Observe the log, and restore the handlers of signals."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        self.log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        self.reactor = MemoryReactorClock()
        self.reactor.callFromThread = lambda function: self.reactor.callLater(0, function)
        self.connections = {"a", "b"}
        self.calls = []
        self.listeners = SlowService()

    def drainer(self, seconds=30, **options):
        """Return a running drainer."""
        drainer = Drainer(
            self.listeners,
            seconds,
            [(), self.connections],
            leaving=lambda: self.calls.append("leaving"),
            reactor=self.reactor,
            **options,
        )
        self.other = Service()
        self.other.setServiceParent(drainer)
        drainer.startService()
        return drainer

    def test_service(self):
        """It is a service; by default it uses Twisted's reactor."""
        drainer = Drainer(Service(), 0, ())
        verifyObject(IService, drainer)
        self.assertIs(drainer._reactor, reactor)
        drainer._leaving()

    def test_ends(self):
        """The ports are closed at once; the rest stops when the last connection has ended."""
        drainer = self.drainer()
        self.assertFalse(drainer.is_draining)
        stopped = drainer.stopService()
        self.assertTrue(drainer.is_draining)
        self.assertEqual((self.listeners.running, self.other.running), (0, 1))
        self.assertEqual(self.calls, ["leaving"])
        self.listeners.stopped.callback(None)
        self.reactor.advance(10)
        self.connections.remove("a")
        self.reactor.advance(10)
        self.assertNoResult(stopped)
        self.connections.remove("b")
        self.reactor.advance(1)
        self.successResultOf(stopped)
        self.assertEqual(self.other.running, 0)
        self.assertEqual(
            [formatEvent(event) for event in self.log],
            ["no more connections are accepted; sessions have 30 s to end"],
        )

    def test_deadline(self):
        """Connections that have not ended after the seconds are not waited for."""
        stopped = self.drainer().stopService()
        self.listeners.stopped.callback(None)
        self.reactor.pump([1] * 29)
        self.assertNoResult(stopped)
        self.reactor.advance(1)
        self.successResultOf(stopped)

    def test_workers(self):
        """A process whose ports take longer to stop, as those of workers do, waits for them."""
        self.connections.clear()
        stopped = self.drainer().stopService()
        self.reactor.advance(1)
        self.assertNoResult(stopped)
        self.listeners.stopped.callback(None)
        self.successResultOf(stopped)

    def test_no_seconds(self):
        """Without seconds, the process stops at once, and says nothing."""
        self.listeners.stopped.callback(None)
        self.successResultOf(self.drainer(0).stopService())
        self.assertEqual((self.calls, list(self.log)), ([], []))

    def test_allow(self):
        """The seconds can be changed before the ports are closed, and after."""
        drainer = self.drainer(0)
        self.assertEqual(drainer.time_to_stop(), 0)
        self.listeners.stopped.callback(None)
        drainer.allow(20)
        self.assertEqual(drainer.time_to_stop(), 20 + STOP_TIMEOUT)
        stopped = drainer.stopService()
        self.reactor.advance(10)
        self.assertNoResult(stopped)
        drainer.allow(5)
        self.reactor.advance(1)
        self.successResultOf(stopped)

    def test_second_signal(self):
        """A second signal ends the waiting."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self.listeners = SlowService()
            self.listeners.stopped.callback(None)
            drainer = self.drainer(hurry=lambda: self.calls.append("hurry"))
            stopped = drainer.stopService()
            signal.raise_signal(number)
            self.assertNoResult(stopped)
            self.reactor.pump([0, 1])
            self.successResultOf(stopped)
            self.assertEqual(self.calls.pop(), "hurry")

    def test_signals_of_workers(self):
        """A worker, which may get a signal twice, leaves its handlers as they are."""
        before = signal.getsignal(signal.SIGTERM)
        self.drainer().stopService()
        self.assertIs(signal.getsignal(signal.SIGTERM), before)
        self.reactor.advance(30)
