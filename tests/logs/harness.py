"""What the tests of the forms of the log share."""

from hypothesis import strategies as st
from twisted.logger import LogLevel
from twisted.python.failure import Failure


class Unprintable:
    """An object without a text."""

    def __str__(self):
        raise ValueError("no text")


def failure(error):
    """Return the failure of an exception that was raised, with its traceback."""
    try:
        raise error
    except Exception:
        return Failure()


TEXTS = st.text() | st.sampled_from(
    ["", "{", "{}", "{user}", "{{}}", "two\nlines\r\n", "a\0b", "\ud800", "\N{LINE SEPARATOR}"]
)
VALUES = TEXTS | st.none() | st.booleans() | st.integers() | st.floats() | st.builds(Unprintable)
EVENTS = st.fixed_dictionaries(
    {},
    optional={
        "log_format": TEXTS,
        "log_time": st.none() | st.floats(0, 4e9),
        "log_level": st.none() | st.sampled_from(list(LogLevel.iterconstants())),
        "log_namespace": VALUES,
        "log_system": VALUES,
        "log_worker": st.integers(1, 999),
        "log_failure": st.builds(failure, st.builds(ValueError, TEXTS)),
        "event": VALUES,
        "user": VALUES,
        "seconds": VALUES,
        "unknown": VALUES,
    },
)
"""Events, whatever is in them."""
