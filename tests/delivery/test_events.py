"""popserv.delivery.events: what the log tells of a failure."""

from twisted.trial.unittest import SynchronousTestCase

from popserv.delivery.events import cause_of
from popserv.errors import TryLater


class CauseTests(SynchronousTestCase):
    """cause_of."""

    def test_cause(self):
        """Of an error for clients, its cause is told if it has one; of another one, itself."""
        for error, cause, expected in (
            (TryLater("later"), None, "TryLater: later"),
            (TryLater("later"), ValueError("bad"), "ValueError: bad"),
            (TryLater("later"), OSError(28, "full"), "[Errno 28] full"),
            (KeyError("k"), ValueError("bad"), "KeyError: 'k'"),
        ):
            error.__cause__ = cause
            self.assertEqual(cause_of(error), expected)
