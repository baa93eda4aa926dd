"""Tests of popserv.logs.json_lines."""

import io
import json

from hypothesis import given
from twisted.logger import ILogObserver, LogLevel
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv.logs.json_lines import json_line, json_observer
from popserv.logs.records import record_of
from tests.logs.harness import EVENTS, failure


def strictly(text):
    """Return the value of a JSON text; numbers that JSON does not have are an error."""

    def refuse(name):
        raise ValueError(name)

    return json.loads(text, parse_constant=refuse)


class JSONTests(SynchronousTestCase):
    """The log as JSON."""

    def test_object(self):
        """A line is an object with the record's parts and fields; the time is in UTC."""
        event = {
            "log_format": "text",
            "log_time": 1.25,
            "log_level": LogLevel.error,
            "log_namespace": "popserv.session",
            "log_worker": 2,
            "event": "session",
            "seconds": 3.5,
        }
        expected = {
            "time": "1970-01-01T00:00:01.250000Z",
            "level": "error",
            "source": "popserv.session",
            "message": "text",
            "worker": 2,
            "event": "session",
            "seconds": 3.5,
        }
        self.assertEqual(strictly(json_line(event)), expected)
        with_failure = strictly(json_line({**event, "log_failure": failure(ValueError("why"))}))
        self.assertIn("ValueError: why", with_failure.pop("traceback"))
        self.assertEqual(with_failure, expected)

    @given(EVENTS)
    def test_any(self, event):
        """Whatever an event contains, its line is one valid object in ASCII, with that content."""
        line, record = json_line(event), record_of(event)
        if record is None:
            self.assertIsNone(line)
            return
        self.assertTrue(line.isascii())
        self.assertEqual(line.splitlines(keepends=True), [line])
        shown = strictly(line)
        self.assertEqual(shown["message"], record.message)
        self.assertEqual(shown.get("traceback", ""), record.traceback)
        self.assertEqual({name: shown[name] for name in record.fields}, record.fields)

    def test_files(self):
        """The observer writes a line for each event with a text."""
        file = io.BytesIO()
        observer = json_observer(file)
        verifyObject(ILogObserver, observer)
        for text in ("a", "", "b"):
            observer({"log_format": text})
        messages = [json.loads(line)["message"] for line in file.getvalue().splitlines()]
        self.assertEqual(messages, ["a", "b"])
