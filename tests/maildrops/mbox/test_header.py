"""popserv.maildrops.mbox.header: the fields that programs change in an mbox file."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.mbox.header import MAX_HEADER, Header
from popserv.messages.details import Flags

STATUS = [
    (b"", b"Status: RO\n\nx"),
    (b"Status: O\n", b"Status: RO\n\nx"),
    (b"Status:\n", b"Status: RO\n\nx"),
    (b"status:  \n", b"status: RO\n\nx"),
    (b"Status: D\nX: y\n", b"Status: ROD\nX: y\n\nx"),
    (b"Status: O\r\n", b"Status: RO\r\n\nx"),
]


def edited(text, edit):
    """Return a text after an edit."""
    start, end, replacement = edit
    return text[:start] + replacement + text[end:]


class HeaderTests(SynchronousTestCase):
    """The start of a message."""

    def test_read(self):
        """A message is read if Status has R."""
        for field, is_read in (
            *((b"Status: R", True), (b"STATUS: RO", True), (b"Status: O", False)),
            *((b"X-Status: R", False), (b"Subject: R", False), (b"Status: O\r", False)),
            # Several fields count together, as for Dovecot.
            *((b"Status: O\nStatus: RO", True), (b"Status: RO\nStatus: O", True)),
        ):
            self.assertEqual(Header(b"A: b\n%b\nC: d\n\nStatus: R\n" % field).is_read(), is_read)

    def test_flags(self):
        """Flags are the letters in Status and X-Status that Dovecot and c-client use."""
        for flags, fields in (
            (Flags.NONE, b""),
            (Flags.SEEN, b"Status: RO\n"),
            (Flags.ANSWERED, b"X-Status: A\n"),
            (Flags.DELETED, b"X-Status: D\n"),
            (Flags.FLAGGED, b"X-Status: F\n"),
            (Flags.DRAFT, b"X-Status: T\n"),
            (Flags.SEEN | Flags.ANSWERED | Flags.FLAGGED, b"Status: RO\nX-Status: AF\n"),
        ):
            for before in (b"A: b\n", b"Status: O\n folded\nA: b\nx-status: T\n", b"A: b"):
                header = Header(before + b"\n\nx")
                self.assertEqual(header.with_flags(flags | Flags.FORWARDED), b"A: b\n" + fields)
            self.assertEqual(Header(b"A: b\n" + fields + b"\nX-Status: D\n").flags(), flags)
        several = Header(b"Status: RO\nX-Status: F\nStatus: O\nX-Status: A\n")
        self.assertEqual(several.flags(), Flags.SEEN | Flags.ANSWERED | Flags.FLAGGED)
        self.assertEqual(Header(b"X-STATUS: F\n\n").flags(), Flags.FLAGGED)

    def test_content_length(self):
        """There is one Content-Length, after the other fields, or none."""
        for fields in (b"", b"Content-Length: 5\n", b"content-length: x\n y\nContent-Length:7\n"):
            header = Header(b"A: b\n" + fields + b"C: d\n\nContent-Length: 9\n")
            self.assertEqual(header.has_content_length(), bool(fields))
            self.assertEqual(header.with_content_length(None), b"A: b\nC: d\n")
            expected = b"A: b\nC: d\nContent-Length: 12\n"
            self.assertEqual(header.with_content_length(12), expected)

    def test_x_uidl(self):
        """X-UIDL counts if it is a valid unique-id, and the last one if there are several."""
        for fields, uid in (
            (b"", b""),
            (b"X-UIDL: abc\n", b"abc"),
            (b"X-UIDL: abc\nx-uidl:   d!f \r\n", b"d!f"),
            (b"X-UIDL: a b\n", b""),
            (b"X-UIDL: %b\n" % (b"x" * 71), b""),
            (b"X-UIDL: \xe9\n", b""),
            (b"\nX-UIDL: abc\n", b""),
        ):
            self.assertEqual(Header(b"A: b\n" + fields + b"\nx\n").x_uidl(), uid)

    def test_status_edit(self):
        """R is added to Status, with the line end that the header has, or a Status is added."""
        for before, after in STATUS:
            text = b"A: b\n" + before + b"\nx"
            edit = Header(text).status_edit()
            self.assertEqual(edited(text, edit), b"A: b\n" + after)
            self.assertTrue(Header(edited(text, edit)).is_read())

    def test_no_body(self):
        """A field can be added to a header that is empty, or ends without a line end."""
        for text, after in (
            (b"", b"X-UIDL: u\n"),
            (b"\nbody\n", b"X-UIDL: u\n\nbody\n"),
            (b"A: b", b"A: b\nX-UIDL: u\n"),
            (b"A: b\n", b"A: b\nX-UIDL: u\n"),
            (b"A: b\r\n\r\nx\r\n", b"A: b\r\nX-UIDL: u\r\n\r\nx\r\n"),
            (b"x" * MAX_HEADER, b"X-UIDL: u\n" + b"x" * MAX_HEADER),
        ):
            self.assertEqual(edited(text, Header(text).x_uidl_edit(b"u")), after)

    def test_too_long(self):
        """A field is added to a header that is too long where it is seen, and only once."""
        text = b"A: b\n" * (MAX_HEADER // 5 + 9) + b"\nbody\n"
        header = Header(text[:MAX_HEADER])
        self.assertIsNone(header.body)
        self.assertEqual(header.length, MAX_HEADER // 5 * 5)
        after = edited(text, header.status_edit())
        self.assertEqual(after, b"Status: RO\n" + text)
        self.assertTrue(Header(after[:MAX_HEADER]).is_read())

    @given(st.binary(max_size=60), st.sampled_from([b"", b"X-UIDL: old\n", b"Status: O\n"]))
    def test_edits(self, text, field):
        """Whatever the message, an edit can be read again and changes nothing else."""
        text = field + text
        header = Header(text)
        after = Header(edited(text, header.x_uidl_edit(b"new-id")))
        self.assertEqual(after.x_uidl(), b"new-id")
        self.assertEqual(
            after.without_volatile_fields().strip(b"\r\n"),
            header.without_volatile_fields().strip(b"\r\n"),
        )
        self.assertTrue(Header(edited(text, header.status_edit())).is_read())
