"""Tests of popserv.auth.passwords.look_ups; those of the sources are in their own modules."""

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import TestCase

from popserv.auth.passwords.look_ups import LookUpFailed, LookUps
from popserv.auth.passwords.sources import SourceUnavailable


def fail(problem):
    """Fail as a server that cannot be asked."""
    raise LookUpFailed(problem)


class LookUpsTests(TestCase):
    """Look-ups in another server."""

    def setUp(self):
        """Record the log."""
        self.lines = []

        def observe(event):
            self.lines.append(formatEvent(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)

    def look_ups(self):
        """Return look-ups without threads."""

        def run(function, *args, still_needed):
            return maybeDeferred(function, *args)

        return LookUps("/file", "server", 5, 1, Clock(), run)

    def test_logged_once(self):
        """A failure is one line and one short text, until a look-up succeeds."""
        look_ups = self.look_ups()
        for problem in ("first\nline" + "x" * 1000, "second"):
            failed = Deferred.fromCoroutine(look_ups.run(fail, problem))
            self.failureResultOf(failed, SourceUnavailable)
        (line,) = self.lines
        self.assertTrue(
            line.startswith("/file: the server cannot be asked, and logins are refused")
        )
        self.assertIn("first\\nline", line)
        self.assertLess(len(line), 400)
        found = Deferred.fromCoroutine(look_ups.run(len, "abc"))
        self.assertEqual(self.successResultOf(found), 3)
        self.assertEqual(self.lines[1:], ["/file: the server answers again"])

    def test_other_errors(self):
        """An error that is not the server's is passed on, and says nothing of the server."""
        failed = Deferred.fromCoroutine(self.look_ups().run(len, 1))
        self.failureResultOf(failed, TypeError)
        self.assertEqual(self.lines, [])

    async def test_threads(self):
        """By default a function is called in a thread."""
        self.assertEqual(await LookUps("/file", "server", 60, 1).run(len, "abc"), 3)
