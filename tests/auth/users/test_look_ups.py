"""Tests of popserv.auth.users.look_ups."""

from threading import current_thread

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from popserv.auth.users.look_ups import LookUps
from popserv.auth.users.outages import ServerUnavailable
from popserv.core.session import client_is_connected


class LookUpsTests(SynchronousTestCase):
    """Look-ups in another server."""

    def setUp(self):
        """Record what is to be called in threads, and whether it still should be."""
        self.jobs = []
        self.clock = Clock()

    def hold(self, function, *args, still_needed):
        """Stand for threads that are all busy."""
        self.jobs.append(still_needed)
        return Deferred()

    def start(self, function, *args, run):
        """Begin a look-up."""
        look_ups = LookUps("test", 5, 1, reactor=self.clock, run=run)
        return Deferred.fromCoroutine(look_ups.run(function, *args))

    def needed(self):
        """Return which of the look-ups still need a thread."""
        return [still_needed() for still_needed in self.jobs]

    def test_timeout(self):
        """A look-up that takes too long is given up, and needs no thread any more."""
        called = self.start(len, "abc", run=self.hold)
        self.clock.advance(4)
        self.assertEqual(self.needed(), [True])
        self.clock.advance(1)
        error = self.failureResultOf(called, ServerUnavailable).value
        self.assertEqual((str(error), self.needed()), ("no answer within 5 s", [False]))

    def test_disconnected(self):
        """A look-up whose client has disconnected needs no thread."""
        token = client_is_connected.set(lambda: False)
        self.addCleanup(client_is_connected.reset, token)
        self.start(len, "abc", run=self.hold)
        self.assertEqual(self.needed(), [False])

    def test_errors(self):
        """What the function raises is passed on."""

        def run(function, *args, still_needed):
            return maybeDeferred(function, *args)

        self.failureResultOf(self.start(len, 1, run=run), TypeError)
        self.assertEqual(self.successResultOf(self.start(len, "abc", run=run)), 3)


class ThreadsTests(TestCase):
    """The threads."""

    async def test_threads(self):
        """By default a function is called in a thread, for which no process waits at its end."""
        called = LookUps("test", 60, 1).run(lambda text: (text, current_thread().daemon), "abc")
        self.assertEqual(await called, ("abc", True))
