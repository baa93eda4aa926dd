"""popserv.maildrops.sql.keys: keys that are reserved for objects."""

from uuid import uuid4

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.sql.keys import AT_ONCE, RESERVE, RESERVED, ReservedKeys


class KeysTests(SynchronousTestCase):
    """Keys are reserved in the database before they are used."""

    def setUp(self):
        """Make keys over a database that answers when a test wants it to."""
        self.clock = Clock()
        self.clock.advance(1e6)
        self.statements = []
        self.answers = []
        self.keys = ReservedKeys(self.execute, uuid4, self.clock.seconds)

    def execute(self, statement, parameters, *, durable):
        """Record a statement, and return a Deferred of its rows."""
        self.assertEqual((statement, durable), (RESERVE, True))
        keys, seconds = parameters
        self.statements.append((list(keys), seconds))
        self.answers.append(Deferred())
        return self.answers[-1]

    def take(self):
        """Take a key, and return a Deferred of it."""
        return Deferred.fromCoroutine(self.keys.take())

    def test_together(self):
        """Many keys are reserved by one statement, for all who wait; none is handed out twice."""
        taking = [self.take() for _ in range(AT_ONCE + 1)]
        self.assertEqual(len(self.statements), 1)
        keys, seconds = self.statements[0]
        self.assertEqual(seconds, RESERVED)
        self.answers[0].callback([])
        taken = {each.result for each in taking if each.called}
        self.assertEqual(taken, set(keys))
        self.assertEqual(len(taken), AT_ONCE)
        self.answers[1].callback([])
        taken = {self.successResultOf(each) for each in taking}
        self.assertEqual(len(taken), AT_ONCE + 1)

    def test_refused(self):
        """Who waits for a reservation that fails learns it; the next one tries again."""
        taking = [self.take(), self.take()]
        self.answers[0].errback(ZeroDivisionError())
        for each in taking:
            self.failureResultOf(each, ZeroDivisionError)
        taking = self.take()
        self.answers[1].callback([])
        self.assertIn(self.successResultOf(taking), self.statements[1][0])

    def test_old(self):
        """A key is reserved for a day, and not handed out in the second half of it."""
        taking = self.take()
        [(_, seconds)] = self.statements
        self.assertEqual(seconds, 86_400)
        self.clock.advance(10)
        self.answers[0].callback([])
        self.successResultOf(taking)
        self.clock.advance(seconds / 2 - 10)
        self.successResultOf(self.take())
        self.clock.advance(1)
        self.assertNoResult(gatherResults([self.take()]))
        self.assertEqual(len(self.statements), 2)

    def test_discarded(self):
        """After a reservation was lost, all keys are reserved anew."""
        taking = self.take()
        self.answers[0].callback([])
        self.successResultOf(taking)
        self.keys.discard()
        self.assertNoResult(self.take())
