"""Tests of popserv.messages.fields.parameters."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.messages.fields.parameters import parse_mime_value
from tests.messages.fields.harness import WORDS, decode, downgrade, downgrade_to_line, parse


class DowngradeTests(SynchronousTestCase):
    """RFC 6857 sections 3.1.4 and 3.2.5."""

    def test_values(self):
        """A value outside ASCII becomes an extended value (RFC 2231); the others stay."""
        for text, result in [
            ("a/b; name=\xfc; x=y", "a/b; name*=UTF-8''%C3%BC; x=y"),
            ('a/b;\tName = "\xfc \\" x" (c)', "a/b; Name*=UTF-8''%C3%BC%20%22%20x (c)"),
            (
                "a/b (\xf6\xf6); name=x (\xf6\xf6)",
                "a/b (=?UTF-8?B?w7bDtg==?=); name=x (=?UTF-8?B?w7bDtg==?=)",
            ),
            ("a/b; name=Gr\xfc\xdfe aus Kiel", "a/b; name*=UTF-8''Gr%C3%BC%C3%9Fe%20aus%20Kiel"),
            ("a/b; name=\xfc; name*=UTF-8''%C3%BC", "a/b; name*=UTF-8''%C3%BC"),
            ("a/b; name=\xfc; NAME*0=u; name*1=e", "a/b; NAME*0=u; name*1=e"),
            ("a/b; name*=UTF-8''%20\xfc", "a/b; name*=UTF-8''%20%C3%BC"),
            (
                'a/b; n*0="\xfc "; n*1=\xe4; n*2*=%20',
                "a/b; n*0*=UTF-8''%C3%BC%20; n*1*=%C3%A4; n*2*=%20",
            ),
            ("a/b;; name=\xfc;", "a/b;; name*=UTF-8''%C3%BC;"),
        ]:
            self.assertEqual(downgrade_to_line("Content-Type: " + text), "Content-Type: " + result)

    def test_sections(self):
        """A value that does not fit on a line is split into sections, each as long as it may be."""
        result = downgrade(f"Content-Type: a/b; name={'x' * 54}\xfc")
        self.assertEqual(result, f"Content-Type: a/b;\n name*=UTF-8''{'x' * 54}%C3%BC")
        result = downgrade(f"Content-Type: a/b; name={'x' * 55}\xfc")
        self.assertEqual(
            result, f"Content-Type: a/b;\n name*0*=UTF-8''{'x' * 55};\n name*1*=%C3%BC"
        )
        result = downgrade(f"Content-Type: a/b; name={'x' * 120}\xfc")
        sections = f"UTF-8''{'x' * 58}", "x" * 62, "%C3%BC"
        lines = [f"name*{number}*={section}" for number, section in enumerate(sections)]
        self.assertEqual(result, "Content-Type: a/b;\n " + ";\n ".join(lines))
        result = downgrade(f"Content-Type: a/b; c=d; e=f; boundary={'x' * 60}\xfc")
        self.assertIn("\n boundary*1*=", result)

    def test_syntax_error(self):
        """A field with a syntax error keeps its parameters in ASCII, such as a boundary."""
        for text in (
            "t\xebxt/plain; boundary=x",
            "a/b; \xfc; boundary=x",
            "a/b; \xfc=1; boundary=x",
        ):
            result = downgrade_to_line("Content-Type: " + text)
            self.assertIn(" boundary=x", result)
            self.assertEqual(decode(result), "Content-Type: " + text)

    @given(st.lists(st.sampled_from([*WORDS, *"'%*;= ", '\\"']), min_size=1, max_size=9))
    def test_email_reads_the_same(self, pieces):
        """Python's email package finds the same filename before and after."""
        field = f'Content-Disposition: attachment; filename="{"".join(pieces)}"; size=3'
        result = downgrade(field)
        self.assertEqual(dict(parse(result).params), dict(parse(field).params))
        if not field.isascii():
            self.assertLessEqual(max(map(len, result.split("\n"))), 76, result)


class ParseTests(SynchronousTestCase):
    """The value of a MIME field is parsed into its first part and its parameters."""

    @given(st.binary(max_size=40))
    def test_any_bytes(self, data):
        """Any octets can be parsed."""
        parse_mime_value(data)

    def test_parse(self):
        """Names and the first part are in lower case; comments and quotes are removed."""
        self.assertEqual(
            parse_mime_value(
                b' Multipart/Mixed (a;b=c) ;\r\n\tBoundary = "A\\"; b" (x); boundary=c;d'
            ),
            ("multipart/mixed", {"boundary": 'A"; b', "d": ""}),
        )
