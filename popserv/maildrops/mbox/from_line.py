"""From_ lines: ``From SENDER DATE``, which starts each message of an mbox file.

A line is one if it has the date of ctime(3), with all that delivery agents add to it: a time zone
before or after the year, ``remote from HOST``, the day before the month, no seconds.  The words
after "From" of a text are not taken for one.  A blank line before it is not required: some
delivery agents write none, and mbox(5) of qmail forbids readers to rely on it.
"""

from __future__ import annotations

import re
import time
from calendar import timegm

MARK = b"From "

MAX_LENGTH = 1000
"""The maximum octets of a From_ line."""

_WEEKDAY = rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),?"
_MONTH = rb"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_DAY = rb"(?:%b +[0-9]{1,2}|[0-9]{1,2} +%b)" % (_MONTH, _MONTH)
_TIME = rb"[0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?"
_ZONES = rb"(?: +[A-Za-z0-9+()-]{1,10}){0,2}"
_SENDER = rb'(?:"(?:[^"\\\r\n]|\\[^\r\n])*"|[^ \t\r\n"])+ +'

_FROM_LINE = re.compile(
    rb"From +(?:%b)?%b +(?P<day>%b) +(?P<time>%b)(?P<zone>%b) +(?P<year>[0-9]{4})"
    rb"(?P<rest>[ \r][^\n]*)?(?:\n|\Z)" % (_SENDER, _WEEKDAY, _DAY, _TIME, _ZONES),
    re.IGNORECASE,
)

# A year has four digits, in every time zone.
_LATEST = timegm((9999, 12, 30, 0, 0, 0))

_MONTHS = b"jan feb mar apr may jun jul aug sep oct nov dec".split()
_OFFSET = re.compile(rb"(?:\A| )([+-])([0-9]{2})([0-9]{2})(?: |\r|\Z)")


def from_line_length(text: bytes) -> int:
    """Return the octets of the From_ line at the start of a text, its line end included.

    Return 0 if it does not start with one.  ``text`` has at least ``MAX_LENGTH`` octets, or is all
    that follows in the file.
    """
    line = _FROM_LINE.match(text, 0, MAX_LENGTH) if text.startswith(MARK) else None
    if line is None or (line.end() == MAX_LENGTH and not line[0].endswith(b"\n")):
        return 0
    return line.end()


def make_from_line(sender: bytes, delivered: float) -> bytes:
    """Return a From_ line, with the time in the local time zone, as delivery agents write it.

    A time after the year 9999 becomes one in it, because the line would not be a From_ line.
    """
    local = time.localtime(min(delivered, _LATEST))
    return b"From %b %b\n" % (sender, time.asctime(local).encode("ascii"))


def delivery_time(from_line: bytes) -> int:
    """Return the time in a From_ line in seconds since 1970, or 0 if it cannot be told.

    It is in the local time zone, unless the line has the difference from UTC.
    """
    line = _FROM_LINE.match(from_line)
    if line is None:
        return 0
    words = line["day"].lower().split()
    month = next(_MONTHS.index(word) + 1 for word in words if word in _MONTHS)
    day = next(int(word) for word in words if word.isdigit())
    hour, minute, second = [*map(int, line["time"].split(b":")), 0][:3]
    when = (int(line["year"]), month, day, hour, minute, second, 0, 0, -1)
    offset = _OFFSET.search(line["zone"]) or _OFFSET.search(line["rest"] or b"")
    try:
        if offset is None:
            return max(0, int(time.mktime(when)))
        seconds = 3600 * int(offset[2]) + 60 * int(offset[3])
        return max(0, timegm(when) - (seconds if offset[1] == b"+" else -seconds))
    except (ValueError, OverflowError):
        return 0
