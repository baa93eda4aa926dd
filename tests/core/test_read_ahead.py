"""Tests of popserv.core.read_ahead."""

from twisted.trial.unittest import SynchronousTestCase

from popserv.core.read_ahead import ReadAhead, ReadAheadLimit
from popserv.texts import ENGLISH
from tests.core.harness import make_session


class ReadAheadLimitTests(SynchronousTestCase):
    """A server keeps a limited number of responses."""

    def setUp(self):
        """Make a limit of two, and three sessions."""
        self.limit = ReadAheadLimit(2)
        self.sessions = [make_session() for _ in range(3)]

    def response(self, number):
        """Return a response to RETR."""
        return ReadAhead((number, None, ENGLISH), b"x")

    def keep(self, *numbers):
        """Keep a response in each of the sessions with these numbers."""
        for number in numbers:
            self.limit.keep(self.sessions[number], self.response(number))

    def kept(self):
        """Return the numbers of the sessions that keep a response."""
        for number, session in enumerate(self.sessions):
            self.assertIn(session.ahead, (None, self.response(number)))
        return [number for number, session in enumerate(self.sessions) if session.ahead]

    def test_keep(self):
        """If there are too many, the response that was kept first is dropped."""
        self.keep(0, 1)
        self.assertEqual(self.kept(), [0, 1])
        self.keep(0, 2)
        self.assertEqual(self.kept(), [0, 2])

    def test_drop(self):
        """A session that has dropped its response, or has none, does not count."""
        self.keep(0, 1)
        self.limit.drop(self.sessions[1])
        self.limit.drop(self.sessions[2])
        self.keep(2)
        self.assertEqual(self.kept(), [0, 2])

    def test_end(self):
        """A session drops its response when it ends."""
        session = make_session(read_ahead=self.limit)
        self.limit.keep(session, self.response(1))
        self.assertRaises(StopIteration, session.end().send, None)
        self.assertIsNone(session.ahead)
        self.assertEqual(list(self.limit._sessions), [])
