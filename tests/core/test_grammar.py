"""Tests of popserv.core.grammar."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.core import grammar
from popserv.errors import BadCommand


class GrammarTests(SynchronousTestCase):
    """Keywords and arguments (RFC 1725 section 3)."""

    def test_split_line(self):
        """A keyword may be in any case; the text behind the first space is not changed."""
        for line, parts in [
            (b"noop", (b"NOOP", None)),
            (b"List 2", (b"LIST", b"2")),
            (b"PASS  a b ", (b"PASS", b" a b ")),
            (b"STAT ", (b"STAT", b"")),
            (b"stat\r", (b"STAT", None)),
            (b"list 2\r\r", (b"LIST", b"2\r")),
            (b"\r", (b"", None)),
            (b"", (b"", None)),
            (b" NOOP", (b"", b"NOOP")),
            (b"\xffLIST\0", (b"\xffLIST\0", None)),
        ]:
            self.assertEqual(grammar.split_line(line), parts)

    @given(st.binary())
    def test_number(self, text):
        """A number is one to ten decimal digits."""
        is_number = text and len(text) <= 10 and all(digit in b"0123456789" for digit in text)
        if is_number:
            self.assertEqual(grammar.number(text), int(text))
        else:
            self.assertRaises(BadCommand, grammar.number, text)

    def test_number_is_not_int(self):
        """A number has no sign, underscore, space, or digit of another script."""
        for text in (b"+1", b"-1", b"0_1", b" 1", b"1 ", b"1\n", "\u0661".encode(), b"0x1", b"1e1"):
            self.assertRaises(BadCommand, grammar.number, text)
        self.assertEqual(grammar.number(b"0012"), 12)

    def test_digits(self):
        """A number has at most ten digits."""
        self.assertEqual(grammar.number(b"9" * 10), 9_999_999_999)
        self.assertRaises(BadCommand, grammar.number, b"9" * 11)

    def test_arguments(self):
        """Arguments are separated by single spaces; one trailing space is accepted."""
        parse = grammar.arguments(grammar.number, grammar.word)
        self.assertEqual(parse(b"1 x"), (1, b"x"))
        self.assertEqual(parse(b"1 x "), (1, b"x"))
        for wrong in (None, b"", b" ", b"1", b" 1 x", b"1  x", b"1 x  ", b"1 x y", b"x 1", b"1 \t"):
            self.assertRaises(BadCommand, parse, wrong)

    def test_optional_arguments(self):
        """Optional arguments may be omitted."""
        parse = grammar.arguments(grammar.number, minimum=0)
        for argument, parsed in [(None, ()), (b"", ()), (b"1", (1,)), (b"1 ", (1,))]:
            self.assertEqual(parse(argument), parsed)
        for wrong in (b" ", b" 1", b"1  ", b"1 2", b"x"):
            self.assertRaises(BadCommand, parse, wrong)
        parse = grammar.arguments(grammar.word, grammar.word, minimum=0)
        for argument, parsed in [(None, ()), (b"a", (b"a",)), (b"a b", (b"a", b"b"))]:
            self.assertEqual(parse(argument), parsed)

    def test_no_arguments(self):
        """A command without arguments accepts one trailing space."""
        self.assertEqual(grammar.no_arguments(None), ())
        self.assertEqual(grammar.no_arguments(b""), ())
        self.assertRaises(BadCommand, grammar.no_arguments, b"x")
        self.assertRaises(BadCommand, grammar.no_arguments, b" ")

    @given(st.none() | st.binary())
    def test_any_argument(self, argument):
        """Any octets are parsed, or rejected with an ASCII text."""
        for parse in (
            grammar.no_arguments,
            grammar.rest_of_line,
            grammar.name_and_digest,
            grammar.arguments(grammar.word),
            grammar.arguments(grammar.number, grammar.number, minimum=0),
        ):
            try:
                self.assertIsInstance(parse(argument), tuple)
            except BadCommand as error:
                self.assertTrue(str(error).isascii())

    def test_rest_of_line(self):
        """The argument of PASS is the rest of the line, spaces included (RFC 1725 section 4)."""
        self.assertEqual(grammar.rest_of_line(b" two words "), (b" two words ",))
        self.assertRaises(BadCommand, grammar.rest_of_line, None)
        self.assertRaises(BadCommand, grammar.rest_of_line, b"")

    def test_name_and_digest(self):
        """The digest of APOP follows the last space."""
        for name in (b"a", b"a b", b"a  b", b"\xc3\xa4 \x80"):
            self.assertEqual(grammar.name_and_digest(name + b" c "), (name, b"c"))
        wrong_names = (b"a\0 c", b"a\x1fb c", b"a b\x7f c", b"\tb c")
        for wrong in (None, b"", b"a", b"a ", b" a", b"a  ", *wrong_names):
            self.assertRaises(BadCommand, grammar.name_and_digest, wrong)

    def test_one_of_two(self):
        """An argument is parsed as the first one if the second one is missing."""
        parse = grammar.arguments(grammar.word, grammar.number, minimum=1)
        self.assertEqual([parse(b"x"), parse(b"x 2")], [(b"x",), (b"x", 2)])

    def test_three_arguments(self):
        """No command has more than two arguments."""
        self.assertRaises(ValueError, grammar.arguments, *[grammar.word] * 3)

    def test_expected(self):
        """The error says how many arguments are expected."""
        one_or_two = grammar.arguments(grammar.word, grammar.word, minimum=1)
        for parse, argument, text in (
            (grammar.no_arguments, b"x", "no argument allowed"),
            (grammar.arguments(grammar.word), b"a b", "1 argument expected"),
            (grammar.arguments(grammar.word, grammar.word), b"a", "2 arguments expected"),
            (one_or_two, b"a b c", "at most 2 arguments expected"),
            (one_or_two, None, "at most 2 arguments expected"),
            (grammar.rest_of_line, None, "1 argument expected"),
            (grammar.name_and_digest, b"a", "2 arguments expected"),
        ):
            error = self.assertRaises(BadCommand, parse, argument)
            self.assertEqual(str(error.text), text)

    def test_base64(self):
        """Base64 is accepted in its canonical form only (RFC 4648 sections 3.5 and 4)."""
        self.assertEqual(grammar.decode_base64(b""), b"")
        self.assertEqual(grammar.decode_base64(b"YWI="), b"ab")
        for wrong in (b"YWJ=", b"YWI", b"YWI==", b"YW I=", b"YWI=\n", b"=", b"YWI=YWI=", b"YWI-"):
            self.assertRaises(ValueError, grammar.decode_base64, wrong)

    def test_word(self):
        """A word may contain characters outside ASCII, but no control characters."""
        self.assertEqual(grammar.word("j\xf6rg".encode()), "j\xf6rg".encode())
        for wrong in (b"a\0", b"\x7f", b"a\tb", b"\x1b["):
            self.assertRaises(BadCommand, grammar.word, wrong)
