"""Tests of popserv.messages.fields.folding."""

from twisted.trial.unittest import SynchronousTestCase

from popserv.messages.fields.folding import FoldedField
from tests.messages.fields.harness import downgrade


class FoldedFieldTests(SynchronousTestCase):
    """A field is folded before white space (RFC 5322 section 2.2.3)."""

    def test_write(self):
        """A line is folded before the word that exceeds 74 columns, reserve included."""
        field = FoldedField("X")
        field.write("y" * 71)
        self.assertEqual(field.lines("\n"), f"X: {'y' * 71}\n")
        field = FoldedField("X")
        field.write("a")
        field.write("y" * 60, reserve=10)
        self.assertEqual(field.lines("\r\n"), f"X: a\r\n {'y' * 60}\r\n")

    def test_width(self):
        """A line has up to 74 columns, the first one and those after it."""
        for words, lines in (
            (("a", "y" * 69), 1),
            (("a", "y" * 70), 2),
            (("y" * 71, "a" * 30, "b" * 42), 2),
            (("y" * 71, "a" * 30, "b" * 43), 3),
        ):
            field = FoldedField("X")
            for word in words:
                field.write(word)
            self.assertEqual(field.lines("\n").count("\n"), lines)

    def test_encode(self):
        """An encoded-word begins on a line that has room for some of its text."""
        for octets, expected in ((40, " =?"), (41, "\n =?")):
            field = FoldedField("X")
            field.write("y" * octets)
            field.encode("\xfc\xfc")
            self.assertIn(f"y{expected}", field.lines("\n"))

    def test_no_space(self):
        """A word without white space before it is never moved to a new line."""
        field = FoldedField("X")
        field.write("y" * 71)
        field.write(",", "")
        self.assertEqual(field.lines("\n"), f"X: {'y' * 71},\n")

    def test_copy(self):
        """Copied text keeps its white space where it is not folded."""
        field = FoldedField("X")
        field.copy("a  b\tc")
        self.assertEqual(field.lines("\n"), "X: a  b\tc\n")

    def test_is_valid(self):
        """Lines are valid if they are printable ASCII of at most 998 octets, and not blank."""
        for word, is_valid in (
            ("y" * 997, True),
            ("y" * 998, False),
            ("\xfc", False),
            ("\0", False),
        ):
            field = FoldedField("X")
            field.write(word)
            self.assertEqual(field.is_valid(), is_valid)
        field = FoldedField("X")
        field.write("y" * 70)
        field.write("", " " * 10)
        self.assertFalse(field.is_valid())

    def test_addresses(self):
        """A long list of addresses is folded between words."""
        field = downgrade("To: " + ", ".join(["J\xf6rg <joerg@example.net>"] * 50))
        self.assertLessEqual(max(map(len, field.split("\n"))), 76)
        self.assertEqual(field.count("<joerg@example.net>"), 50)
