"""Tests of popserv.messages.fields.table: rules that hold for every field."""

import re
from email.header import decode_header

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.messages.fields.table import METHODS, downgrade_field
from tests.messages.fields.harness import decode, downgrade, downgrade_to_line, texts

NAMES = [*METHODS, "subject", "x-unknown", "list-id"]


class AnyFieldTests(SynchronousTestCase):
    """Every field becomes lines of ASCII (RFC 6857 section 3)."""

    def assertField(self, name, field):
        """Assert that octets are the lines of one field of that name, in ASCII."""
        lines = field.split(b"\n")
        self.assertEqual(lines.pop(), b"")
        self.assertRegex(lines[0].lower(), rb"\A(downgraded-)?%b:" % re.escape(name.encode()))
        for line in lines[1:]:
            self.assertIn(line[:1], (b" ", b"\t"))
        for line in lines:
            self.assertRegex(line, rb"\A[\t -~]{1,998}\Z")
            self.assertTrue(line.strip())
        for word in re.findall(rb"=\?UTF-8\?[BQ]\?[^?]*\?=", field):
            self.assertLessEqual(len(word), 75)
            [(data, charset)] = decode_header(word.decode())
            self.assertEqual(charset, "utf-8")
            data.decode()

    @given(st.sampled_from(NAMES), texts)
    def test_any_text(self, name, text):
        """Any text becomes lines of one field; ASCII passes unchanged."""
        field = f"{name}:{text.rstrip(chr(13))}\n".encode()
        result = downgrade_field(field)
        if field.isascii():
            self.assertIs(result, field)
        else:
            self.assertField(name, result)
            self.assertIs(downgrade_field(result), result)

    @given(st.binary(max_size=60))
    def test_any_bytes(self, data):
        """A field that is not UTF-8 passes unchanged."""
        for field in (data, b"Subject: " + data, b"To:" + data):
            result = downgrade_field(field)
            try:
                field.decode()
            except UnicodeDecodeError:
                self.assertIs(result, field)

    def test_no_field(self):
        """A line without a name in ASCII passes unchanged (RFC 6532 section 3.2)."""
        for line in ("\xfc\n", "Gr\xfc\xdfe: x\n", " a: \xfc\n", ":\xfc\n", "a" * 201 + ": \xfc\n"):
            field = line.encode()
            self.assertIs(downgrade_field(field), field)

    def test_line_ends(self):
        """A field keeps its line ends; a field without one gets LF."""
        for end, result_end in ((b"\r\n", b"\r\n"), (b"\n", b"\n"), (b"", b"\n")):
            field = downgrade_field(b"Subject:" + " \xfc".encode() * 60 + end)
            self.assertTrue(field.endswith(b"?=" + result_end))
            self.assertEqual(field.count(b"\r"), field.count(b"\n") if end == b"\r\n" else 0)

    def test_name(self):
        """A name keeps its case; white space behind it is removed."""
        self.assertEqual(downgrade("sUBject \t: \xfc"), "sUBject: =?UTF-8?B?w7w=?=")


class FallbackTests(SynchronousTestCase):
    """A field that its method cannot downgrade is encapsulated or unstructured."""

    def test_encapsulated(self):
        """A message-id outside ASCII is encapsulated in a field Downgraded-* (section 3.1.10)."""
        for name in ("Message-ID", "Resent-message-id", "In-Reply-To", "References"):
            self.assertEqual(
                downgrade(name + ": <a@b> <\xf6@c>"),
                f"Downgraded-{name}: <a@b> =?UTF-8?Q?=3C=C3=B6=40c=3E?=",
            )
            self.assertEqual(
                downgrade(name + ": <a@b> (\xf6\xf6)"), f"{name}: <a@b> (=?UTF-8?B?w7bDtg==?=)"
            )

    def test_unfoldable(self):
        """A field that cannot be folded is unstructured."""
        field = downgrade('To: "' + "x" * 1000 + '" <a@b>, J\xf6rg <c@d>')
        self.assertLessEqual(max(map(len, field.split("\n"))), 76)
        self.assertIn("J\xf6rg <c@d>", decode(field.replace("\n", "")))


class AppendixTests(SynchronousTestCase):
    """RFC 6857 appendix A, with real characters in place of its symbols."""

    def test_example(self):
        """Each field of figure 1 becomes that of figure 2."""
        for field, result in [
            ("Return-Path: <\xfcl@example.com>", "Return-Path: {\xfcl@example.com} :;"),
            ("Received: from a by b for <\xfcr@example.net>", "Received: from a by b"),
            ("From: D\xcfL <\xfcl@example.com>", "From: {D\xcfL \xfcl@example.com} :;"),
            (
                "To: D\xcfR1 <\xfcr@example.net>,\n    D\xcfR2 <\xfcr2@example.com>",
                "To: {D\xcfR1 \xfcr@example.net} :;, {D\xcfR2 \xfcr2@example.com} :;",
            ),
            ("Cc: D\xcfR3 <\xfcr3@example.org>", "Cc: {D\xcfR3 \xfcr3@example.org} :;"),
            ("Subject: N\xd6N-ASCII-SUBJECT", "Subject: {N\xd6N-ASCII-SUBJECT}"),
            ("Date: Mon, 30 Jul 2012 01:23:45 -0000",) * 2,
            ("Message-Id: <N\xd6N-ASCII-ID>", "Downgraded-Message-Id: {<N\xd6N-ASCII-ID>}"),
            ('Content-Type: text/plain; charset="UTF-8"',) * 2,
            ("X-Unknown-Header: N\xd6N", "X-Unknown-Header: {N\xd6N}"),
        ]:
            # Braces stand for encoded-words.
            bare = re.sub(
                r"=\?UTF-8\?[BQ]\?[^?]*\?=( =\?UTF-8\?[BQ]\?[^?]*\?=)*",
                _decode_in_braces,
                downgrade_to_line(field),
            )
            self.assertEqual(bare, result)


def _decode_in_braces(match):
    return "{" + decode(match[0]) + "}"
