"""Numbers and times as people read them."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.status_page.numbers import amount, counted, duration, octets, octets_per_second


class NumbersTests(SynchronousTestCase):
    """Forms of numbers."""

    def test_amount(self):
        """Thousands are separated; a number below 100 that is no integer has one digit more."""
        for value, text in (
            (0, "0"),
            (3, "3"),
            (0.04, "0"),
            (0.5, "0.5"),
            (12.34, "12.3"),
            (2.96, "3"),
            (99.94, "99.9"),
            (99.96, "100"),
            (123.4, "123"),
            (1234567.8, "1,234,568"),
        ):
            self.assertEqual(amount(value), text)

    def test_octets(self):
        """Octets have a decimal prefix and at most three digits."""
        for value, text in (
            (0, "0 B"),
            (0.4, "0 B"),
            (999, "999 B"),
            (999.6, "1 kB"),
            (1000, "1 kB"),
            (1234, "1.23 kB"),
            (9996, "10 kB"),
            (12_340, "12.3 kB"),
            (99_960, "100 kB"),
            (999_499, "999 kB"),
            (999_500, "1 MB"),
            (1_500_000, "1.5 MB"),
            (2e9, "2 GB"),
            (3e12, "3 TB"),
            (4e15, "4 PB"),
            (5e18, "5 EB"),
            (6e21, "6,000 EB"),
        ):
            self.assertEqual(octets(value), text)
        self.assertEqual(octets_per_second(2048), "2.05 kB/s")

    def test_duration(self):
        """A time has its two largest units, and no unit that is zero."""
        for seconds, text in (
            (-1, "0 s"),
            (0.9, "0 s"),
            (1, "1 s"),
            (59.9, "59 s"),
            (60, "1 min"),
            (61, "1 min 1 s"),
            (3600, "1 h"),
            (3659, "1 h"),
            (8061, "2 h 14 min"),
            (86_400, "1 d"),
            (86_400 * 3 + 3600 * 4 + 59 * 60, "3 d 4 h"),
        ):
            self.assertEqual(duration(seconds), text)

    def test_counted(self):
        """One thing is named in the singular, and any other number in the plural."""
        self.assertEqual(
            [counted(number, "process", "processes") for number in (0, 1, 1234)],
            ["0 processes", "1 process", "1,234 processes"],
        )

    @given(st.floats(min_value=0, max_value=9e20))
    def test_octets_digits(self, value):
        """Whatever the number, its text is not longer than three digits and a point."""
        digits = octets(value).partition(" ")[0]
        self.assertLessEqual(len(digits.replace(".", "")), 3)
