"""Tests of popserv.messages.downgrade.content."""

from itertools import product

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.messages.downgrade.content import MAX_FIELD, read_content, replace_type
from tests.messages.downgrade.harness import (
    BASE64,
    CONTENT_TYPES,
    DOWNGRADED_SUBJECT,
    EIGHT_BIT,
    SUBJECT,
    UMLAUT,
    StructureTestCase,
    downgrade,
)

FORMS = [
    *(b"; boundary=", b"; boundary*=UTF-8''", b"; boundary*0*=UTF-8''"),
    *(b"; boundary*0=", b"; Boundary*1=", b"; boundary*1*="),
]

BOUNDARIES = [b"a", b"%41", UMLAUT, b'"' + UMLAUT + b' x"', UMLAUT * 30, UMLAUT + b"x" * 70]


class ReadContentTests(SynchronousTestCase):
    """The type, the boundary and the encoding are read from a header."""

    def test_content_types(self):
        """Types are compared without regard to case; comments are no part of a boundary."""
        for header, (media_type, boundary) in CONTENT_TYPES.items():
            for end in (b"\n", b"\r\n"):
                content = read_content(header.replace(b"\n", end), "")
                known = media_type.startswith(("multipart/", "message/"))
                self.assertEqual(content.type, media_type if known else "")
                self.assertEqual(content.boundary, boundary)

    def test_encoding(self):
        """A body is not encoded unless its header says so."""
        header = b"Content-Type: message/rfc822\n"
        self.assertTrue(read_content(header, "").is_identity)
        self.assertTrue(read_content(EIGHT_BIT + header, "").is_identity)
        self.assertFalse(read_content(BASE64 + header, "").is_identity)

    def test_default(self):
        """The default is the type of a header without Content-Type."""
        self.assertEqual(read_content(b"x: y\n\n", "message/rfc822").type, "message/rfc822")
        self.assertEqual(read_content(b"Content-Type: a/b\n\n", "message/rfc822").type, "a/b")

    def test_longest(self):
        """A value may have MAX_FIELD octets, with the space before it."""
        field = b" multipart/mixed; boundary=a"
        for octets, expected in ((MAX_FIELD, b"a"), (MAX_FIELD + 1, b"")):
            header = b"Content-Type:%b\n" % field.ljust(octets)
            self.assertEqual(read_content(header, "").boundary, expected)

    def test_quotes(self):
        """Only the first two quotes of an extended value end its charset and its language."""
        header = b"Content-Type: multipart/mixed; boundary*=utf-8'en'a'b\n"
        self.assertEqual(read_content(header, "").boundary, b"a'b")


class ReplaceTypeTests(SynchronousTestCase):
    """The type of an embedded message with UTF-8 in a field changes, and nothing else."""

    def assert_replaced(self, value, result, more=b""):
        """Check what a value of Content-Type becomes, with more fields around it."""
        for head, end in ((b"", b""), (b"X: message/global\n", more)):
            for name in (b"Content-Type:", b"content-type \t:"):
                header, expected = (head + name + each + b"\n" + end for each in (value, result))
                replaced = replace_type(header, "message/global", b"message/rfc822")
                self.assertEqual(replaced, expected)

    def test_places(self):
        """The type is found behind comments and line ends, and only in this field."""
        for value in (
            *(
                b" %b",
                b"%b;x=y",
                b"\r\n\t%b (message/global)",
                b"\n (a\n b)\n %b; x=message/global",
            ),
            *(b" (message/global) %b", b"(\\)(message/global))%b(c)", b"(%%b) (c)\r\n %b ;x"),
        ):
            for old in (b"message/global", b"Message/GLOBAL"):
                self.assert_replaced(value % old, value % b"message/rfc822", b"Y: message/global\n")

    def test_comment_within(self):
        """A header with a comment within the type stays as it is."""
        for value in (b" message/(c)global", b"(d)message(c)/global", b" message(/)/global"):
            self.assert_replaced(value, value, b"Y: message/global\n")

    def test_message(self):
        """A message with such a header is downgraded, and its header is intact."""
        head = b"Content-Type: message/(c)global\nX: message/global\n\n"
        self.assertEqual(downgrade(head + SUBJECT + b"\n"), head + DOWNGRADED_SUBJECT + b"\n")
        head = b"Content-Type: (message/global) message/global\n\n"
        changed = head.replace(b") message/global", b") message/rfc822")
        self.assertEqual(downgrade(head + SUBJECT + b"\n"), changed + DOWNGRADED_SUBJECT + b"\n")


class BoundaryTests(StructureTestCase):
    """The boundary of a multipart (RFC 2046 section 5.1.1)."""

    def test_boundaries(self):
        """A boundary is read from a quoted string, a token, sections and extended values."""
        for value in (
            b'multipart/mixed; BOUNDARY = "a:b"',
            b"Multipart/Mixed (c; boundary=x);\n boundary=a:b (d)",
            b"multipart/mixed; x=y; boundary*0=a; boundary*1*=%3ab",
            b"multipart/mixed; boundary*0*=us-ascii'en'a%3a; boundary*1=b",
            b"multipart/mixed; boundary*=''a%3Ab",
            b'multipart/mixed; boundary="a:b "; boundary=c',
            b"multipart/mixed; boundary*=''a%3Ab; boundary=c",
            b"multipart/mixed; boundary*0=a; boundary*1*=%3ab; boundary*=c; boundary=d",
            b"multipart/mixed; boundary=a:b; boundary*=c",
            b"multipart/mixed; x=y; boundary*0=a:b; boundary*2=c",
        ):
            head = b"Content-Type-X: y\nContent-Type \t:" + value + b"\n\n--a:b\n"
            self.assertParts(head + b"S\n\n", head + b"D\n\n")

    def test_same_boundary(self):
        """The downgraded header has the same boundary, if it has several ones in other forms."""
        for boundary in (UMLAUT + b"x" * 70 + b"; boundary=a", b"b; boundary=" + UMLAUT):
            text = b"Content-Type: multipart/mixed; boundary=" + boundary + b"\n\n--a\n"
            once = downgrade(text + SUBJECT + b"\n")
            self.assertIn(SUBJECT, once)
            self.assertEqual(downgrade(once), once)

    def test_raw_and_extended(self):
        """A boundary outside ASCII is kept beside an extended one: RFC 2231 prefers neither."""
        head = b"Content-Type: multipart/mixed; boundary=" + UMLAUT + b"; boundary*=UTF-8''a\n\n--"
        result = downgrade(head + UMLAUT + b"\n" + SUBJECT + b"\n--a\n" + SUBJECT)
        self.assertIn(b"; boundary*=UTF-8''%C3%BC; boundary*=UTF-8''a\n", result)
        self.assertIn(b"--" + UMLAUT + b"\n" + DOWNGRADED_SUBJECT, result)
        self.assertTrue(result.endswith(b"\n--a\n" + SUBJECT))

    @given(st.lists(st.sampled_from([*map(b"".join, product(FORMS, BOUNDARIES))]), max_size=5))
    def test_any_forms(self, parameters):
        """Whatever the forms of several boundaries, the first one counts, before and after."""
        text = b"Content-Type: multipart/mixed" + b"".join(parameters) + b"\n\n"
        head = downgrade(text + b"x\n").partition(b"\n\n")[0] + b"\n"
        self.assertEqual(read_content(head, ""), read_content(text, ""))

    def test_raw_boundary(self):
        """A boundary outside ASCII is compared octet for octet."""
        for boundary in (UMLAUT, b"\xfc"):
            head = b'Content-Type: multipart/mixed; boundary="' + boundary + b'"\n\n--' + boundary
            result = downgrade(head + b"\n" + SUBJECT + b"\n")
            self.assertTrue(result.endswith(DOWNGRADED_SUBJECT + b"\n"))

    def test_no_multipart(self):
        """A body without a boundary, or with a Content-Type over 32 KiB, has no parts."""
        for field in (
            b"Content-Type: multipart/mixed",
            b"Content-Type: multipart/mixed; boundary=",
            b"Content-Type: text/plain; x=multipart/mixed; boundary=a",
            b"Content-Type\nx: multipart/mixed; boundary=a",
            b"Content-Type: multipart/mixed; boundary=a" + b" " * 70000,
        ):
            self.assertParts(field + b"\n\n--a\nS\n\n", field + b"\n\n--a\nS\n\n")
