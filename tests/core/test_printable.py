"""Tests of popserv.core.printable."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.core.printable import printable


class PrintableTests(SynchronousTestCase):
    """printable."""

    def test_text(self):
        """Printable text is unchanged, in any script; everything else is escaped."""
        for octets, expected in (
            (b"ann", "ann"),
            (b"ann@example.org", "ann@example.org"),
            (b"two words", "two words"),
            ("jürgen, 佐藤".encode(), "jürgen, 佐藤"),
            (b"", ""),
            (b"a\r\nb", r"a\r\nb"),
            (b"\0\x1b[31m", r"\x00\x1b[31m"),
            (rb"a\nb", r"a\\nb"),
            (b"J\xfcrgen", r"J\xfcrgen"),
            ("\u202e\u2028".encode(), r"\u202e\u2028"),
            (b"'quoted'", "'quoted'"),
        ):
            self.assertEqual(printable(octets), expected)

    def test_length(self):
        """There are at most 200 characters."""
        self.assertEqual(printable(b"a" * 300), "a" * 200)
        self.assertEqual(printable("ü".encode() * 300), "ü" * 200)
        self.assertEqual(len(printable(b"\n" * 300)), 200)

    @given(st.binary())
    def test_any(self, octets):
        """The result is one line of printable characters that can be encoded."""
        text = printable(octets)
        self.assertTrue(text.isprintable(), text)
        text.encode()

    @given(st.binary(max_size=40), st.binary(max_size=40))
    def test_different(self, one, other):
        """Different octets have different texts."""
        self.assertEqual(printable(one) == printable(other), one == other)
