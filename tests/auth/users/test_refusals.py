"""Tests of popserv.auth.users.refusals."""

from twisted.cred.error import UnauthorizedLogin
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from popserv.auth.users import refusals
from popserv.auth.users.refusals import MAX_DELAY, EvenRefusals, SlowestRefusal
from popserv.errors import TryLater


class EvenRefusalsTests(SynchronousTestCase):
    """How long a refusal takes."""

    def setUp(self):
        """Create one on a clock."""
        self.clock = Clock()
        self.refusals = EvenRefusals(self.clock)

    def seconds_of(self, seconds, outcome=UnauthorizedLogin):
        """Return how long a check takes which has this outcome after some seconds."""

        async def checking():
            await deferLater(self.clock, seconds)
            if isinstance(outcome, type):
                raise outcome
            return outcome

        done, started = [], self.clock.seconds()
        checked = Deferred.fromCoroutine(self.refusals.watch(checking()))
        checked.addCallbacks(done.append, lambda failure: done.append(failure.type))
        while not done:
            self.clock.advance(0.25)
        self.assertEqual(done, [outcome])
        return self.clock.seconds() - started

    def test_same(self):
        """Once a refusal was slow, all of them are; nothing else is delayed."""
        self.assertEqual([self.seconds_of(each) for each in (1, 2, 1, 0.5)], [1, 2, 2, 2])
        self.assertEqual(self.seconds_of(1, "ann"), 1)
        self.assertEqual(self.seconds_of(1, TryLater), 1)

    def test_limit(self):
        """A refusal that has taken longer than the limit is not delayed."""
        self.assertEqual(self.seconds_of(MAX_DELAY + 0.5), MAX_DELAY + 0.5)
        self.assertEqual(self.seconds_of(1), MAX_DELAY)

    def test_slowest(self):
        """The slowest refusal counts for ten to twenty minutes, and up to a limit."""
        slowest = SlowestRefusal()
        for seconds, at, expected in (
            (3, 10_000, 3),
            (1, 10_599, 3),
            (1, 10_600, 3),
            (1, 11_199, 3),
            (0.5, 11_200, 1),
            (5, 11_200, 5),
            (0.5, 12_700, 0.5),
            (100, 12_700, 20),
        ):
            self.assertEqual(slowest.record(seconds, at), expected, at)


class ReactorTests(TestCase):
    """The clock, unless there is another."""

    async def test_reactor(self):
        """It is that of the reactor."""

        async def checking():
            return b"ann"

        self.assertEqual(await EvenRefusals().watch(checking()), b"ann")

    async def test_limit(self):
        """The clock is not asked to delay a refusal that has taken longer than the limit."""
        self.patch(refusals, "MAX_DELAY", 0)

        async def checking():
            await deferLater(reactor, 0)
            raise UnauthorizedLogin

        with self.assertRaises(UnauthorizedLogin):
            await EvenRefusals().watch(checking())
