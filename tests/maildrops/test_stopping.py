"""popserv.maildrops.stopping: stores that end in the right order."""

from unittest import mock

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from popserv.interfaces import IStoppingStore
from popserv.maildrops.memory import MemoryMaildrops
from popserv.maildrops.stopping import StoreService, stop_with_reactor


@implementer(IStoppingStore)
class Stopping:
    """A store that records when it is stopped."""

    def __init__(self, events):
        self._events = events

    async def stop(self):
        """Record it."""
        self._events.append("store")


@implementer(IStoppingStore)
class Failing:
    """A store that cannot be stopped."""

    async def stop(self):
        """Fail."""
        raise OSError("x")


class StoreServiceTests(SynchronousTestCase):
    """The store stops after the service that uses it."""

    def test_order(self):
        """The store stops when the sessions have ended, which may take time."""
        events, ended = [], Deferred()

        class Sessions(Service):
            def stopService(self):
                return ended.addCallback(lambda _: events.append("sessions"))

        service = StoreService(Stopping(events), Sessions())
        service.startService()
        stopped = service.stopService()
        self.assertEqual(events, [])
        ended.callback(None)
        self.assertEqual(events, ["sessions", "store"])
        self.successResultOf(stopped)

    def test_failing(self):
        """A store that cannot be stopped does not hold the process up, and is logged."""
        service = StoreService(Failing(), Service())
        service.startService()
        self.successResultOf(service.stopService())
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)


class ReactorTests(SynchronousTestCase):
    """The store of a command stops with the reactor."""

    def test_trigger(self):
        """The reactor waits for the store; it does nothing for a store that need not stop."""
        events, reactor = [], MemoryReactorClock()
        stop_with_reactor(MemoryMaildrops(), reactor)
        self.assertEqual(reactor.triggers, {})
        stop_with_reactor(Stopping(events), reactor)
        [(function, _, _)] = reactor.triggers["before"]["shutdown"]
        self.successResultOf(function())
        self.assertEqual(events, ["store"])

    def test_default_reactor(self):
        """Without an argument it is the reactor of the process."""
        reactor = MemoryReactorClock()
        with mock.patch("twisted.internet.reactor", reactor):
            stop_with_reactor(Stopping([]))
        self.assertEqual([*reactor.triggers["before"]], ["shutdown"])
