"""Tests of popserv.logs.records."""

from hypothesis import given
from twisted.logger import LogLevel, eventFromJSON, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from popserv.logs.records import FIELDS, fields_of, record_of
from popserv.workers.log_forwarding import event_as_json
from tests.logs.harness import EVENTS, Unprintable, failure

LOGIN = {
    "log_format": "a login",
    "log_time": 1.5,
    "log_level": LogLevel.warn,
    "log_namespace": "popserv.session",
    "event": "login",
    "user": "ann",
}


class RecordTests(SynchronousTestCase):
    """record_of and fields_of."""

    def test_record(self):
        """A record has the message, what the logger adds, and the fields."""
        self.assertEqual(
            record_of({**LOGIN, "log_worker": 2}),
            (
                1.5,
                LogLevel.warn,
                "popserv.session",
                "a login",
                "",
                2,
                {"event": "login", "user": "ann"},
            ),
        )

    def test_defaults(self):
        """An event of a program that adds nothing has the level info and no source."""
        self.assertEqual(
            record_of({"log_format": "x"}), (0.0, LogLevel.info, "-", "x", "", None, {})
        )
        self.assertEqual(record_of({"log_format": "x", "log_system": "old"}).source, "old")

    def test_no_text(self):
        """An event without a text has no record."""
        self.assertIsNone(record_of({}))
        self.assertIsNone(record_of({"log_format": ""}))

    def test_format(self):
        """A format with fields is filled in."""
        event = {"log_format": "{user} {{x}}", "user": "é"}
        self.assertEqual(record_of(event).message, formatEvent(event))

    def test_failure(self):
        """The traceback of an exception is apart from the message, which may be empty."""
        for text in ("", "it failed"):
            record = record_of({"log_format": text, "log_failure": failure(ValueError("why"))})
            self.assertEqual(record.message, text)
            self.assertTrue(record.traceback.startswith("Traceback (most recent call last):\n"))
            self.assertTrue(record.traceback.rstrip().endswith("ValueError: why"))

    def test_fields(self):
        """Only an event with a name has fields, and only those with stable names."""
        self.assertEqual(fields_of({"user": "ann"}), {})
        event = {**dict.fromkeys(FIELDS, "x"), "other": "x"}
        self.assertEqual(tuple(fields_of(event)), FIELDS)

    def test_values(self):
        """Numbers stay numbers, and all else becomes text, also what has none."""
        for value, expected in (
            (1, 1),
            (0.5, 0.5),
            (float("inf"), "inf"),
            (float("nan"), "nan"),
            (True, "True"),
            (None, "None"),
            ("\ud800", "\\ud800"),
        ):
            self.assertEqual(fields_of({"event": "x", "user": value})["user"], expected)
        self.assertIn("Unprintable", fields_of({"event": Unprintable()})["event"])

    @given(EVENTS)
    def test_any(self, event):
        """Any event has a record whose texts UTF-8 can encode, or none."""
        record = record_of(event)
        for text in () if record is None else (*record[2:5], *map(str, record.fields.values())):
            text.encode()

    def test_workers(self):
        """An event has the same record after a worker has sent it to the supervisor."""
        for event in (
            LOGIN,
            {**LOGIN, "log_format": "{user}"},
            {**LOGIN, "log_format": "{user}", "log_failure": failure(ValueError("why\n{x}"))},
        ):
            forwarded = eventFromJSON(event_as_json(event).decode())
            self.assertEqual(record_of(forwarded), record_of(event))
