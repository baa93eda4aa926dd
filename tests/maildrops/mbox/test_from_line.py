"""popserv.maildrops.mbox.from_line: which lines are From_ lines."""

import os
import time

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.mbox.from_line import (
    MAX_LENGTH,
    delivery_time,
    from_line_length,
    make_from_line,
)

FROM_LINES = [
    b"From ann@example.org Mon Jan  5 10:00:00 2026",
    b"From ann@example.org  Mon Jan  5 10:00:00 2026",
    b"From MAILER-DAEMON Thu Jan  1 00:00:00 1970",
    b"From ann Mon Jan 05 10:00:00 2026 +0100",
    b"From ann Mon Jan  5 10:00:00 CET 2026",
    b"From ann Mon Jan  5 10:00:00 +0100 (CET) 2026",
    b"From ann Mon Jan  5 10:00 2026",
    b"From ann Mon Jan  5 10:00:00 2026 remote from uunet",
    b"From ann Mon, 5 Jan 10:00:00 2026",
    b"From ann MON JAN  5 10:00:00 2026",
    b"From  Mon Jan  5 10:00:00 2026",
    b'From "ann b \\" c"@example.org Mon Jan  5 10:00:00 2026',
    b"From ann\xe9 Mon Jan  5 10:00:00 2026",
    b"From uunet!ann Mon Jan  5 10:00:00 2026\r",
]

OTHER_LINES = [
    b"",
    b"From",
    b"From ",
    b"From: ann@example.org Mon Jan  5 10:00:00 2026",
    b">From ann@example.org Mon Jan  5 10:00:00 2026",
    b"from ann Mon Jan  5 10:00:00 2026",
    b"From Monday to Friday",
    b"From what I heard on Mon Jan  5 10:00:00 2026",
    b"From ann Mon Jan  5 10:00:00",
    b"From ann Mon Jan  5 10:00:00 20261",
    b"From ann Mon Jan  5 2026",
    b"From ann Jan  5 10:00:00 2026",
    b"From ann Mon 10:00:00 2026",
    b'From "ann Mon Jan  5 10:00:00 2026',
    b"From ann\nMon Jan  5 10:00:00 2026",
]


class FromLineTests(SynchronousTestCase):
    """The start of a line, and what follows."""

    def test_from_lines(self):
        """A From_ line has a date; its length includes the line end."""
        for line in FROM_LINES:
            self.assertEqual(from_line_length(line + b"\nSubject: x\n"), len(line) + 1, line)

    def test_end_of_file(self):
        """The last line of a file may have no line end."""
        for line in FROM_LINES:
            self.assertEqual(from_line_length(line), len(line), line)

    def test_other_lines(self):
        """Any other line is not one, whatever it starts with."""
        for line in OTHER_LINES:
            self.assertEqual(from_line_length(line + b"\n"), 0, line)

    def test_length(self):
        """A longer line than the maximum is not one."""
        date = b" Mon Jan  5 10:00:00 2026"
        for octets, found in ((MAX_LENGTH, MAX_LENGTH), (MAX_LENGTH + 1, 0)):
            line = b"From " + b"x" * (octets - 6 - len(date)) + date + b"\n"
            self.assertEqual(from_line_length(line + b"x"), found)
        self.assertEqual(from_line_length(b"From ann" + date + b" " + b"x" * MAX_LENGTH), 0)

    @given(st.binary(max_size=100))
    def test_any_text(self, text):
        """Any text has an answer, no longer than its first line."""
        line = b"From " + text
        self.assertLessEqual(from_line_length(line), line.find(b"\n") + 1 or len(line))


class TimeTests(SynchronousTestCase):
    """The time in a From_ line, in a time zone whose clocks never change."""

    def setUp(self):
        """Set the time zone."""
        before = os.environ.get("TZ")
        self.addCleanup(time.tzset)
        self.addCleanup(
            lambda: os.environ.pop("TZ") if before is None else os.environ.update(TZ=before)
        )
        os.environ["TZ"] = "XST-02"
        time.tzset()

    @given(st.integers(0, 250_000_000_000), st.sampled_from([b"ann@x", b"MAILER-DAEMON"]))
    def test_inverse(self, delivered, sender):
        """The line that is made has the time, in seconds."""
        line = make_from_line(sender, delivered + 0.75)
        self.assertEqual(from_line_length(line), len(line))
        self.assertEqual(delivery_time(line), delivered)

    def test_late(self):
        """A line for a time that no From_ line can have is one all the same."""
        for delivered in (253_402_300_799, 253_402_300_800, 3_600_000_000_000, 10**30):
            line = make_from_line(b"ann@x", delivered)
            self.assertEqual(from_line_length(line), len(line))
            self.assertTrue(line.endswith(b" 9999\n"))

    def test_forms(self):
        """The time is local, unless the line has the difference from UTC."""
        ten = 1_767_607_200
        for line, delivered in zip(
            FROM_LINES,
            [
                *(ten - 7200, ten - 7200, 0, ten - 3600, ten - 7200, ten - 3600, ten - 7200),
                *(ten - 7200,) * 7,
            ],
            strict=True,
        ):
            self.assertEqual(delivery_time(line + b"\n"), delivered, line)
        self.assertEqual(delivery_time(b"From a Mon Jan  5 10:00:00 -0530 2026\n"), ten + 19_800)

    def test_unknown(self):
        """What is no From_ line, or no time that the system knows, is unknown."""
        for line in (b"From a", b"From a Mon Jan  5 10:00:00 +0000 0000", b"From a"):
            self.assertEqual(delivery_time(line), 0)

    def test_early(self):
        """A time before 1970 is none."""
        for year in (b"1970 +0300", b"1969", b"1960 -0500"):
            self.assertEqual(delivery_time(b"From a Thu Jan  1 00:00:00 " + year), 0)

    def test_summer(self):
        """Local time is that of summer or winter, by the date."""
        os.environ["TZ"] = "CET-1CEST,M3.5.0,M10.5.0/3"
        time.tzset()
        for date, zone in ((b"Jan  5", b"+0100"), (b"Jul  5", b"+0200")):
            line = b"From a Mon %b 10:00:00 2026" % date
            self.assertEqual(delivery_time(line), delivery_time(b"%b %b" % (line, zone)))
