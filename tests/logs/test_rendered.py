"""Tests of popserv.logs.rendered."""

from twisted.internet.testing import EventLoggingObserver
from twisted.logger import Logger, LogLevel, LogPublisher, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from popserv.logs.rendered import RenderedLogger


class RenderedLoggerTests(SynchronousTestCase):
    """RenderedLogger."""

    def test_format(self):
        """The text has the fields, and braces in fields stay."""
        publisher = LogPublisher()
        observer = EventLoggingObserver()
        publisher.addObserver(observer)
        log = RenderedLogger("x", observer=publisher)
        log.info("{a:.1f} {b}", a=1.25, b="{c} {", d=4)
        log.info()
        first, second = observer
        self.assertEqual((formatEvent(first), first["d"]), ("1.2 {c} {", 4))
        self.assertEqual(formatEvent(second), "")

    def test_event(self):
        """An event has what Logger's event has, apart from the format and the logger itself."""
        events = []
        for logger_class in (Logger, RenderedLogger):
            log = logger_class("x", "source", events.append)
            log.info("a {b}", b=1)
            log.warn("a {b}", b=1)
            log.failure("c", Failure(ValueError()), level=LogLevel.error)
        for event in events:
            self.assertIsInstance(event.pop("log_time"), float)
            self.assertEqual(event.pop("log_logger").namespace, "x")
            event.pop("log_failure", None)
        for expected, event in zip(events[:3], events[3:], strict=True):
            self.assertEqual(event.pop("log_format"), expected.pop("log_format").format(**expected))
            self.assertEqual(event, expected)
