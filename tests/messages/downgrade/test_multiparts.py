"""Tests of popserv.messages.downgrade.multiparts."""

from popserv.messages.downgrade.downgrader import Downgrader
from tests.messages.downgrade.harness import (
    DOWNGRADED_SUBJECT,
    SUBJECT,
    StructureTestCase,
    downgrade,
)


class DelimiterTests(StructureTestCase):
    """Delimiter lines separate the parts of a multipart (RFC 2046 section 5.1.1)."""

    def test_delimiters(self):
        """A delimiter line is the boundary behind two hyphens, and padding of at most 1000."""
        head = b'Content-Type: multipart/mixed; boundary="=_a b"\n\n'
        for line in (b"--=_a b", b"--=_a b \t"):
            self.assertParts(head + line + b"\nS\n\n", head + line + b"\nD\n\n")
        for line in (b"--=_a bc", b" --=_a b", b"--=_a", b"--=_A B", b"--=_a b" + b" " * 1000):
            self.assertParts(head + line + b"\nS\n\n", head + line + b"\nS\n\n")

    def test_digest(self):
        """A part of a digest is a message unless it says otherwise (RFC 2046 section 5.1.5)."""
        head = b"Content-Type: multipart/digest; boundary=a\n\n--a\n"
        self.assertParts(head + b"\nx: y\nS\n\n", head + b"\nx: y\nD\n\n")
        head += b"Content-Type: text/plain\n"
        self.assertParts(head + b"\nx: y\nS\n\n", head + b"\nx: y\nS\n\n")

    def test_no_delimiter_is_that_long(self):
        """A line that is too long for a delimiter is output before its end is known."""
        downgrader = Downgrader()
        head = "Subject: \xe4\nContent-Type: multipart/mixed; boundary=a\n\n".encode()
        downgrader.feed(head)
        self.assertEqual(downgrader.feed(b"--a"), b"")
        line = b"--a" + b" " * 2000
        self.assertEqual(downgrader.feed(line[3:]), line)


class WorkTests(StructureTestCase):
    """The work for one message is limited."""

    def test_many_parts(self):
        """After ten thousand parts the rest passes unchanged."""
        head = b"Content-Type: multipart/mixed; boundary=a\n\n"
        message = head + b"--a\n\n" * 9_998 + b"--a\n" + SUBJECT
        self.assertTrue(downgrade(message + b"\n").endswith(DOWNGRADED_SUBJECT + b"\n"))
        result = downgrade(message + b"\n--a\n" + SUBJECT)
        self.assertTrue(result.endswith(b"\n--a\n" + SUBJECT))

    def test_look_alikes(self):
        """After a hundred thousand lines that start like a delimiter the rest passes unchanged."""
        head = b"Content-Type: multipart/mixed; boundary=a\n\n"
        for lines, last in ((90_000, DOWNGRADED_SUBJECT), (110_000, SUBJECT)):
            for before in (b"", b"--a\n"):
                message = head + before + b"--a-\n" * lines + b"--a\n" + SUBJECT + b"\n"
                self.assertTrue(downgrade(message).endswith(last + b"\n"))
