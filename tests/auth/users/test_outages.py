"""Tests of popserv.auth.users.outages."""

from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.users.outages import NotAsked, Outages, ServerUnavailable
from popserv.errors import TryLater


class OutagesTests(SynchronousTestCase):
    """What is logged of a server that cannot be asked."""

    def setUp(self):
        """Record the log."""
        self.log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        self.outages = Outages("/file: the database")

    def ask(self, answer):
        """Ask a server that answers this, or raises it."""

        async def asking():
            if isinstance(answer, Exception):
                raise answer
            return answer

        return Deferred.fromCoroutine(self.outages.watch(asking()))

    def find_unavailable(self, problem):
        """Ask a server that is away."""
        error = self.failureResultOf(self.ask(ServerUnavailable(problem)), TryLater).value
        self.assertIsNone(error.__cause__)

    def lines(self):
        """Return the log."""
        return [formatEvent(event) for event in self.log]

    def test_logged_once(self):
        """An outage is one line and a short text, until the server answers."""
        for problem in ("first\nline" + "x" * 1000, "second"):
            self.find_unavailable(problem)
        (line,) = self.lines()
        start = (
            "/file: the database cannot be asked, and logins are refused until it can: first\\nl"
        )
        self.assertTrue(line.startswith(start))
        self.assertLess(len(line), 400)
        self.assertEqual(self.successResultOf(self.ask("yes")), "yes")
        self.successResultOf(self.ask("yes"))
        self.assertEqual(self.lines()[1:], ["/file: the database answers again"])
        self.find_unavailable("third")
        self.assertIn(": third", self.lines()[2])

    def test_refusal(self):
        """A refusal is an answer, and ends an outage."""
        self.find_unavailable("first")
        self.failureResultOf(self.ask(UnauthorizedLogin()), UnauthorizedLogin)
        self.assertEqual(self.lines()[1:], ["/file: the database answers again"])

    def test_not_asked(self):
        """A login that is refused without asking says nothing of the server."""
        self.find_unavailable("first")
        self.failureResultOf(self.ask(NotAsked("no such name")), NotAsked)
        self.find_unavailable("second")
        self.assertEqual(len(self.lines()), 1)

    def test_other_errors(self):
        """An error that is not the server's is passed on, and says nothing of the server."""
        for error in (TryLater(), TypeError()):
            self.find_unavailable("first")
            self.failureResultOf(self.ask(error), type(error))
            self.assertEqual(len(self.lines()), 1)
