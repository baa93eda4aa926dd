"""popserv.commandline.reacting: commands in a reactor."""

from unittest import mock

from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from popserv.commandline.reacting import run_in_reactor


class FakeReactor(MemoryReactorClock):
    """A reactor that calls ``while_running`` while it runs, and says whether it was stopped."""

    def __init__(self, while_running=lambda: None):
        super().__init__()
        self._while_running = while_running

    def run(self):
        """Run."""
        super().run()
        self._while_running()


class ReactingTests(SynchronousTestCase):
    """A coroutine runs in a reactor."""

    def test_result(self):
        """The result is returned, and the reactor stopped, whenever the coroutine ends."""
        waiting = Deferred()

        async def wait():
            return await waiting

        async def return_at_once():
            return 7

        reactor = FakeReactor()
        self.assertEqual(run_in_reactor(return_at_once(), reactor), 7)
        self.assertTrue(reactor.hasStopped)
        with mock.patch("twisted.internet.reactor", reactor := FakeReactor(), create=True):
            self.assertEqual(run_in_reactor(return_at_once()), 7)
        self.assertTrue(reactor.hasStopped)
        reactor = FakeReactor(lambda: waiting.callback(8))
        self.assertEqual(run_in_reactor(wait(), reactor), 8)

    def test_error(self):
        """An exception is raised."""

        async def fail():
            raise KeyError

        self.assertRaises(KeyError, run_in_reactor, fail(), FakeReactor())

    def test_interrupted(self):
        """A reactor that was stopped before is an interruption."""
        waiting = Deferred()

        async def wait():
            await waiting

        self.assertRaises(KeyboardInterrupt, run_in_reactor, wait(), FakeReactor())
