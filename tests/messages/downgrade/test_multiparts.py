"""Tests of popserv.messages.downgrade.multiparts."""

from hypothesis import given

from popserv.messages.downgrade import multiparts
from popserv.messages.downgrade.downgrader import Downgrader
from popserv.messages.octets import count_octets
from popserv.messages.sizes import measure
from tests.messages.downgrade.harness import (
    DOWNGRADED_SUBJECT,
    SIGNED,
    SIGNED_PARTS,
    SUBJECT,
    UMLAUT,
    StructureTestCase,
    downgrade,
    messages,
)


class DelimiterTests(StructureTestCase):
    """Delimiter lines separate the parts of a multipart (RFC 2046 section 5.1.1)."""

    def test_delimiters(self):
        """A delimiter line is the boundary behind two hyphens, and padding of at most 1000."""
        head = b'Content-Type: multipart/mixed; boundary="=_a b"\n\n'
        for line in (b"--=_a b", b"--=_a b \t", b"--=_a b".ljust(999)):
            self.assertParts(head + line + b"\nS\n\n", head + line + b"\nD\n\n")
        for line in (
            *(b"--=_a bX", b" --=_a b", b"--=_a", b"--=_A B", b"--=_a b".ljust(1001)),
            b"--=_a b--\n--=_a b",
        ):
            self.assertParts(head + line + b"\nS\n\n", head + line + b"\nS\n\n")

    def test_unfinished(self):
        """A line of which the end is not known yet may be a delimiter line, or none."""
        outer = b"Content-Type: multipart/mixed; boundary=x\n\n--x\n"
        inner = b"Content-Type: multipart/mixed; boundary=a\n\n"
        for head in (inner, outer + inner):
            for line, result in (
                (b"--a", DOWNGRADED_SUBJECT),
                (b"--a".ljust(1000), DOWNGRADED_SUBJECT),
                (b"--ab", SUBJECT),
            ):
                for before in (b"", b"x" * 1000 + b"\n"):
                    text = downgrade(head, before + line, b"\n" + SUBJECT + b"\n")
                    self.assertEqual(text, head + before + line + b"\n" + result + b"\n")
            text = head + b"xy--a\n" + SUBJECT + b"\n"
            self.assertEqual(downgrade(head + b"x", b"y", b"--a\n" + SUBJECT + b"\n"), text)
            self.assertEqual(downgrade(head + b"x", b"y", b"-", b"-a\n" + SUBJECT + b"\n"), text)

    def test_nested(self):
        """A delimiter line of each multipart around a part begins the next part of that."""
        head = b"".join(
            b"Content-Type: multipart/%b\n\n--%b\n" % (rest, rest[-1:])
            for rest in (b"mixed; boundary=a", b"digest; boundary=b", b"mixed; boundary=c")
        )
        for line in (b"--a\n", b"--b\n\n", b"--c\n"):
            self.assertParts(head + b"\n" + line + b"S\n\n", head + b"\n" + line + b"D\n\n")
        for line in (b"--a\n\n", b"--c\n\n"):
            self.assertParts(head + b"\n" + line + b"S\n\n", head + b"\n" + line + b"S\n\n")

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


class ProtectedTests(StructureTestCase):
    """Nothing inside a signed or an encrypted part changes (RFC 1847 section 2.1)."""

    def needs_utf8(self, message):
        """Return whether a message is refused to a client that has not sent UTF8."""
        sizes = measure([message], Downgrader)
        self.assertEqual(sizes.octets, count_octets([message]))
        return sizes.downgraded == 0

    def test_outside(self):
        """Fields around the part are downgraded, up to its own header, and after its end."""
        begin, end = SIGNED.index(b"--aa\n"), SIGNED.index(b"--aa--\n")
        for message in (SIGNED, SIGNED.replace(b"\n", b"\r\n")):
            result = downgrade(message)
            self.assertFalse(self.needs_utf8(message))
            self.assertEqual(result.count(DOWNGRADED_SUBJECT[:-1]), 4)
        self.assertIn(SIGNED[begin:end], downgrade(SIGNED))

    def test_inside(self):
        """A message with UTF-8 in a field inside, at any depth, can only be sent as stored."""
        for where, message in SIGNED_PARTS.items():
            for kind in (b"signed", b"Encrypted", b'signed protocol="a/b"', b"signed\0"):
                text = message.replace(b"multipart/signed", b"multipart/" + kind)
                self.assertTrue(self.needs_utf8(text), where)
                inside = text[text.index(b"--aa\n") :].partition(b"--aa--\n")[0]
                self.assertIn(inside, downgrade(text))
            # In any other multipart the same field is downgraded.
            text = message.replace(b"multipart/signed", b"multipart/mixed")
            self.assertFalse(self.needs_utf8(text), where)
            self.assertNotIn(inside, downgrade(text))

    def test_alone(self):
        """The header of a message that is signed as a whole is downgraded."""
        head = b"Content-Type: multipart/signed; boundary=a\n\nS\n--a\n"
        self.assertParts(
            b"x: y\nS\n" + head + b"\nS\n--a--\n", b"x: y\nD\n" + head + b"\nS\n--a--\n"
        )
        self.assertFalse(self.needs_utf8(head + b"X: \xfc\n" + UMLAUT + b"\n\n" + UMLAUT))
        self.assertTrue(self.needs_utf8(head + SUBJECT))

    def test_embedded(self):
        """A signed part is protected in an embedded message as well, whose header is downgraded."""
        head = b"Content-Type: message/rfc822\n\nx: y\nS\n"
        head += b"Content-Type: multipart/signed; boundary=a\n\n--a\nx: y\n"
        self.assertParts(head + b"S\n\n", head.replace(b"\nS\n", b"\nD\n") + b"S\n\n")
        self.assertTrue(self.needs_utf8(head + SUBJECT))
        self.assertFalse(self.needs_utf8(head.replace(b"\nS\n", b"\n" + SUBJECT)))

    def test_boundaries(self):
        """Only the delimiters of a signed part, and of those around it, begin and end parts."""
        head = b"Content-Type: multipart/mixed; boundary=a\n\n--a\n"
        head += b"Content-Type: multipart/signed; boundary=b\n\n"
        for line, is_inside in (
            (b"--b\n", True),
            (b"--b \t\r\n", True),
            (b"--bb\n", False),
            (b" --b\n", False),
            (b"--b--\n", False),
            (b"--c\n", False),
            (b"--a\n", False),
            (b"--b--\n--a\n", False),
            (b"--b\n\n--a\n", False),
            (b"--b\n\n--b\n", True),
        ):
            self.assertEqual(self.needs_utf8(head + line + SUBJECT + b"\n"), is_inside, line)

    def test_smime(self):
        """The body of an S/MIME message is never read, and the header around it is downgraded."""
        for kind in (
            b"application/pkcs7-mime",
            b"application/x-pkcs7-mime; smime-type=signed-data",
        ):
            head = b"x: y\nS\nContent-Type: " + kind + b"; name=smime.p7m\n\n"
            body = b"--a\nS\n\nContent-Type: message/rfc822\n\nS\n"
            self.assertParts(head + body, head.replace(b"\nS\n", b"\nD\n") + body)

    @given(messages)
    def test_any_part(self, part):
        """Whatever the signed part is, it is sent unchanged, and refused if it has UTF-8 fields."""
        head = b"Content-Type: multipart/signed; boundary=zz\n\n--zz\n"
        message = head + part + b"\n--zz--\n"
        self.assertEqual(downgrade(message), message)
        in_mixed = message.replace(b"multipart/signed", b"multipart/mixed", 1)
        # Inside, a further signed part is no different.
        in_mixed = in_mixed.replace(b"/signed", b"/x").replace(b"/Encrypted", b"/x")
        self.assertEqual(self.needs_utf8(message), downgrade(in_mixed) != in_mixed)


class WorkTests(StructureTestCase):
    """The work for one message is limited."""

    def assert_unread(self, message, *parts):
        """Check that octets outside ASCII in some parts of a message need UTF8, others not.

        ``parts`` are pairs of a text in the message, where a letter is put after it that is not
        ASCII, and whether that needs UTF8.
        """
        for text, needs_utf8 in parts:
            self.assertEqual(message.count(text), 1, text)
            changed = message.replace(text, text + UMLAUT)
            chunks = (changed[at : at + 1000] for at in range(0, len(changed), 1000))
            for each in ([changed], chunks):
                self.assertEqual(measure(each, Downgrader).downgraded == 0, needs_utf8, text)

    def test_many_parts(self):
        """After ten thousand parts the rest passes unchanged."""
        head = b"Content-Type: multipart/mixed; boundary=a\n\n"
        message = head + b"--a\n\n" * 9_998 + b"--a\n" + SUBJECT
        self.assertTrue(downgrade(message + b"\n").endswith(DOWNGRADED_SUBJECT + b"\n"))
        result = downgrade(message + b"\n--a\n" + SUBJECT)
        self.assertTrue(result.endswith(b"\n--a\n" + SUBJECT))
        message = head + b"--a\n\nbody" + b"\n--a\n\n" * 9_998 + b"\n--a\nX: field\n\nrest"
        self.assert_unread(message, (b"body", False), (b"field", True), (b"rest", True))

    def test_other_lines(self):
        """Other lines are no work, also within two multiparts."""
        head = b"".join(
            b"Content-Type: multipart/mixed; boundary=%b\n\n--%b\n" % (boundary, boundary)
            for boundary in (b"a", b"b")
        )
        message = head + b"\n" + b"x\n" * 110_000 + b"--b\n"
        self.assertTrue(downgrade(message + SUBJECT + b"\n").endswith(DOWNGRADED_SUBJECT + b"\n"))

    def test_unfinished_header(self):
        """The lines of a header are work once, in however many chunks it comes."""
        self.patch(multiparts, "MAX_WORK", 40)
        head = b"Content-Type: multipart/mixed; boundary=a\n\n--a\n" + b"--ax\n" * 20
        message = head + SUBJECT + b"\n"
        octets = (message[at : at + 1] for at in range(len(message)))
        self.assertEqual(downgrade(*octets), head + DOWNGRADED_SUBJECT + b"\n")

    def test_look_alikes(self):
        """After a hundred thousand lines that start like a delimiter the rest passes unchanged."""
        head = b"Content-Type: multipart/mixed; boundary=a\n\n"
        for lines, last in ((90_000, DOWNGRADED_SUBJECT), (110_000, SUBJECT)):
            for before in (b"", b"--a\n"):
                message = head + before + b"--a-\n" * lines + b"--a\n" + SUBJECT + b"\n"
                self.assertTrue(downgrade(message).endswith(last + b"\n"))
        for lines, needs_utf8 in ((90_000, False), (110_000, True)):
            message = head + b"--a\n\nbody\n" + b"--a-\n" * lines + b"rest\n--a\nX: y\n\nend"
            parts = (b"body", False), (b"rest", needs_utf8), (b"end", needs_utf8)
            self.assert_unread(message, *parts)
