"""Tests of popserv.messages.fields.lexer."""

from hypothesis import given
from twisted.trial.unittest import SynchronousTestCase

from popserv.messages.fields.lexer import lex, split_at_semicolons, unquote, without_comments
from tests.messages.fields.harness import texts


class LexTests(SynchronousTestCase):
    """RFC 5322 section 3.2."""

    @given(texts)
    def test_any_text(self, text):
        """The lexemes of any text, joined, are the text."""
        self.assertEqual("".join(lex(text)), text)

    def test_lexemes(self):
        """Strings, domain literals, nested comments and atoms are one lexeme each."""
        for text, lexemes in [
            ('"a \\" (b)" <c.d@[1 2]>', ['"a \\" (b)"', " ", "<", "c.d", "@", "[1 2]", ">"]),
            ("a (b (c\\)) d) e", ["a", " ", "(b (c\\)) d)", " ", "e"]),
            ('a;"b', ["a", ";", '"b']),
            ("a(b", ["a", "(b"]),
        ]:
            self.assertEqual(lex(text), lexemes)

    def test_parts(self):
        """Lexemes are split at semicolons, without their comments and quotes."""
        segments = split_at_semicolons(lex('a(x;y);"b;\\c"'))
        self.assertEqual(segments, [["a", "(x;y)"], ['"b;\\c"']])
        self.assertEqual(without_comments(segments[0]), ["a"])
        self.assertEqual(unquote(segments[1]), "b;c")
        self.assertEqual(unquote(['"b', "c"]), "bc")
