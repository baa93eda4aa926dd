"""popserv.logs.text_lines: the lines of the log are those of Twisted."""

import io

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.logger import (
    ILogObserver,
    LogLevel,
    eventAsJSON,
    eventFromJSON,
    formatEventAsClassicLogText,
    textFileLogObserver,
)
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv.logs.text_lines import line_observer, line_of
from tests.logs.harness import Unprintable, failure


class StringSubclass(str):
    """A string with another text."""

    def __str__(self):
        return "another text"


TEXTS = st.text() | st.sampled_from(
    ["", "{", "}", "{{}}", "a {user} b", "{user!r:>9}", "{0}", "{none}", "two\nlines\r\n", "\ud800"]
)
OBJECTS = TEXTS | st.none() | st.integers() | st.builds(Unprintable)
EVENTS = st.fixed_dictionaries(
    {},
    optional={
        "log_format": OBJECTS | st.binary() | st.builds(StringSubclass, TEXTS),
        "log_time": st.none() | st.floats(1e9, 4e9) | st.floats(0, 10),
        "log_level": st.none() | st.sampled_from(list(LogLevel.iterconstants())),
        "log_namespace": TEXTS | st.none() | st.integers(),
        "log_system": OBJECTS | st.builds(StringSubclass, TEXTS),
        "log_failure": st.none() | st.sampled_from([failure(ValueError("é\nb {c}"))]),
        "user": OBJECTS,
    },
)


def expected_line(event):
    """Return Twisted's line, with what UTF-8 cannot encode escaped."""
    line = formatEventAsClassicLogText(event)
    return line and line.encode("utf-8", "backslashreplace").decode("utf-8")


class LineTests(SynchronousTestCase):
    """line_of and line_observer."""

    @given(EVENTS)
    @example({"log_format": "next", "log_time": 1_700_000_000.9999998})
    @example({"log_format": "of a system", "log_system": "-", "log_time": 0.5})
    @example({"log_format": "not yet", "log_time": 1_700_000_000.999999})
    @example({"log_format": "no text of the system", "log_system": Unprintable()})
    @example({"log_format": "a system", "log_system": "two\nlines"})
    @example({"log_format": "no system", "log_level": LogLevel.info, "log_namespace": "a\nb"})
    @example({"log_format": "", "log_system": "a system"})
    @example({"log_format": "a failure", "log_failure": failure(ValueError("{b}\nc"))})
    def test_same(self, event):
        """The line of any event is Twisted's, with what UTF-8 cannot encode escaped."""
        self.assertEqual(line_of(dict(event)), expected_line(dict(event)))

    @given(TEXTS, st.sampled_from(["", "{user}", "{user!r}", "{user:>9}", "no field"]))
    def test_flattened(self, user, log_format):
        """The line of an event from JSON, as a worker sends it, is Twisted's."""
        event = eventFromJSON(eventAsJSON({"log_format": log_format, "user": user}))
        self.assertEqual(line_of(event), expected_line(event))

    def test_files(self):
        """Files of text and of octets get the lines that Twisted's observer writes to them."""
        for make_file in (io.StringIO, io.BytesIO):
            ours, twisteds = make_file(), make_file()
            for observer in (line_observer(ours), textFileLogObserver(twisteds)):
                verifyObject(ILogObserver, observer)
                for log_format in ("é", "{text}", "", "two\nlines"):
                    observer({"log_format": log_format, "text": "ü", "log_time": 1.5})
            self.assertEqual(ours.getvalue(), twisteds.getvalue())

    def test_surrogates(self):
        """An event with a name that is not UTF-8 is written, with its octets escaped."""
        for log_format in ("{name} cannot be read", "m\udcff cannot be read"):
            file = io.BytesIO()
            observer = line_observer(io.TextIOWrapper(file, "utf-8", write_through=True))
            event = {"log_format": log_format, "name": "m\udcff", "log_system": "-"}
            observer({**event, "log_time": 1.5})
            self.assertTrue(file.getvalue().endswith(b" [-] m\\udcff cannot be read\n"))
