"""The lowest level that is logged."""

from twisted.logger import ILogObserver, LogLevel
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv.reloading.log_level import LEVELS, LevelFilter


class LevelFilterTests(SynchronousTestCase):
    """Events below a level are not passed on."""

    def setUp(self):
        """Create a filter."""
        self.events = []
        self.filter = LevelFilter(self.events.append)

    def passed(self):
        """Return the levels of which events are passed on."""
        self.events.clear()
        for name in LEVELS:
            self.filter({"log_level": LogLevel.levelWithName(name)})
        return [event["log_level"].name for event in self.events]

    def test_interface(self):
        """It is a log observer."""
        verifyObject(ILogObserver, self.filter)

    def test_levels(self):
        """From the start all events are passed on, and later those from a level on."""
        self.assertEqual(LEVELS, ("debug", "info", "warn", "error", "critical"))
        self.assertEqual((self.filter.level, self.passed()), ("debug", list(LEVELS)))
        for at, name in enumerate(LEVELS):
            self.filter.set_level(name)
            self.assertEqual((self.filter.level, self.passed()), (name, list(LEVELS[at:])))

    def test_without_level(self):
        """An event without a level counts as information."""
        self.filter({})
        self.filter.set_level("warn")
        self.filter({})
        self.assertEqual(len(self.events), 1)

    def test_unknown(self):
        """An unknown level is an error, and changes nothing."""
        for name in ("loud", "", "WARN"):
            with self.assertRaisesRegex(ValueError, "use one of debug, info, warn"):
                self.filter.set_level(name)
        self.assertEqual(self.filter.level, "debug")
