"""Tests of popserv.core.printable."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.core.printable import one_line, printable


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
            (b'"quoted"', r"\"quoted\""),
            (b'\\"', r"\\\""),
            (b"\x85\xc2\x85", r"\x85\u0085"),
            (b"~\x7f\xc2\x80", r"~\x7f\u0080"),
            ("\uffff\U00010000\U0010ffff".encode(), "\\uffff\U00010000\\U0010ffff"),
            ("\u00ad\u200b\u2066\ufeff\U000e0001".encode(), r"\u00ad\u200b\u2066\ufeff\U000e0001"),
            (b"\xed\xa0\x80", r"\xed\xa0\x80"),
            ("\N{NO-BREAK SPACE}\N{PARAGRAPH SEPARATOR}".encode(), r"\u00a0\u2029"),
        ):
            self.assertEqual(printable(octets), expected)

    def test_length(self):
        """There are at most 200 characters, and the last escape is whole."""
        self.assertEqual(printable(b"a" * 199 + b'""'), "a" * 199)
        self.assertEqual(printable(b"a" * 198 + b'""'), "a" * 198 + r"\"")
        self.assertEqual(printable(b"a" * 300), "a" * 200)
        for character in "ü水𝄞":
            self.assertEqual(printable(character.encode() * 300), character * 200)
        self.assertEqual(len(printable(b"\n" * 300)), 200)

    @given(st.binary())
    def test_any(self, octets):
        """The result is one line of printable characters, and ends at a quotation mark after it."""
        text = printable(octets)
        self.assertTrue(text.isprintable(), text)
        text.encode()
        self.assertRegex(f'"{text}"', r'^"(?:[^"\\]|\\.)*"$')

    def test_one_line(self):
        """one_line escapes what is not printable, and nothing else."""
        for text, expected in (
            ("plain é", "plain é"),
            ("a\r\nb\u2028\x85", r"a\r\nb\u2028\u0085"),
            ('\\ "', '\\ "'),
            ("\udc7f\udc80\udcff\udd00", r"\udc7f\x80\xff\udd00"),
        ):
            self.assertEqual(one_line(text), expected)

    @given(st.binary(max_size=40), st.binary(max_size=40))
    def test_different(self, one, other):
        """Different octets have different texts."""
        self.assertEqual(printable(one) == printable(other), one == other)
