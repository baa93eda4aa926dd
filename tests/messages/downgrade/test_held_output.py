"""Tests of popserv.messages.downgrade.held_output, in whole messages."""

from email import message_from_bytes
from email.policy import default as policy

from twisted.trial.unittest import SynchronousTestCase

from popserv.messages.downgrade.downgrader import Downgrader
from popserv.messages.downgrade.held_output import MAX_HELD, HeldOutput
from tests.messages.downgrade.harness import (
    BOUNCE,
    DOWNGRADED_SUBJECT,
    SUBJECT,
    UMLAUT,
    downgrade,
)


class TypeTests(SynchronousTestCase):
    """The types change with what is inside (RFC 6532 section 3.7 and RFC 6533 section 4.4)."""

    def test_bounce(self):
        """A report on an internationalized message becomes one that old clients can read."""
        result = downgrade(BOUNCE)
        for line in (
            b"Content-Type: message/delivery-status\n\nReporting",
            b"\nFinal-Recipient: utf-8; \\x{FC}@b\n",
            b"\nDiagnostic-Code: smtp; 550 =?UTF-8?B?w7w=?=\n",
            b"\nContent-Type: message/rfc822\n\n" + DOWNGRADED_SUBJECT,
            b"\nContent-Disposition: attachment; filename*=UTF-8''%C3%BC\n\n" + UMLAUT,
        ):
            self.assertIn(line, result)
        self.assertNotIn(b"global", result)
        _, status, returned = message_from_bytes(result, policy=policy).iter_parts()
        self.assertEqual(len(status.get_payload()), 2)
        [original] = returned.get_payload()
        self.assertEqual(original["subject"], "\xfc")
        self.assertEqual([part.get_filename() for part in original.iter_parts()], ["\xfc"])

    def test_types(self):
        """A type changes if a field inside is downgraded, and only then."""
        for old, new in [
            (b"message/global", b"message/rfc822"),
            (b"Message/Global; x=y", b"message/rfc822; x=y"),
            (b"message/global-headers", b"text/rfc822-headers"),
            (b"message/global-disposition-notification", b"message/disposition-notification"),
            (b"message/rfc822", b"message/rfc822"),
            (b"message/disposition-notification", b"message/disposition-notification"),
        ]:
            head = b"X: " + UMLAUT + b"\nContent-Type: %b\n\n"
            downgraded = b"X: =?UTF-8?B?w7w=?=\nContent-Type: %b\n\n"
            self.assertEqual(downgrade(head % old + SUBJECT), downgraded % new + DOWNGRADED_SUBJECT)
            self.assertEqual(downgrade(head % old + b"x: y\n\n"), downgraded % old + b"x: y\n\n")

    def test_type_without_space(self):
        """The type may follow the colon at once."""
        self.assertEqual(
            downgrade(b"Content-Type:message/global\n\n" + SUBJECT),
            b"Content-Type:message/rfc822\n\n" + DOWNGRADED_SUBJECT,
        )

    def test_groups_of_fields(self):
        """What follows the first group of fields is another one, and a further one, or a body."""
        for media_type, changed in (
            (b"message/disposition-notification", DOWNGRADED_SUBJECT),
            (b"message/global-disposition-notification", DOWNGRADED_SUBJECT),
            (b"message/global-headers", SUBJECT),
            (b"message/rfc822", SUBJECT),
        ):
            for groups in (b"x: y\n\n", b"x: y\n\nz: y\n\n"):
                result = downgrade(b"Content-Type: %b\n\n%b" % (media_type, groups + SUBJECT))
                self.assertTrue(result.endswith(groups + changed), result)

    def test_encoded(self):
        """An encoded message/global passes unchanged (RFC 6532 section 3.5)."""
        text = b"Content-Type: message/global\nContent-Transfer-Encoding: base64\n\n" + SUBJECT
        self.assertEqual(downgrade(text), text)

    def test_deep(self):
        """A field changes the types of all parts that it is inside of, and no others."""
        multipart = b"Content-Type: multipart/mixed; boundary=%b\n\n--%b\n"
        part = b"Content-Type: message/%b\n\n"
        text = (
            multipart % (b"a", b"a")
            + part % b"%b"
            + b"x: y\n\n--a\n"
            + part % b"%b"
            + multipart % (b"b", b"b")
            + part % b"%b"
            + multipart % (b"c", b"c")
        )
        old = text % (b"global", b"global", b"global") + SUBJECT
        new = text % (b"global", b"rfc822", b"rfc822") + DOWNGRADED_SUBJECT
        self.assertEqual(downgrade(old + b"\n"), new + b"\n")

    def test_held(self):
        """A part is held back until a field inside changes, it ends, or it exceeds 64 KiB."""
        head = b"Content-Type: multipart/mixed; boundary=a\n\n--a\n"
        part = b"Content-Type: message/global\n\n"
        downgrader = Downgrader()
        self.assertEqual(downgrader.feed(head + part + b"x: y\n\nbody\n"), head)
        self.assertEqual(downgrader.feed(b"--a\n"), part + b"x: y\n\nbody\n--a\n")
        self.assertEqual(downgrader.feed(part + SUBJECT), b"")
        self.assertEqual(
            downgrader.feed(b"\n"), b"Content-Type: message/rfc822\n\n" + DOWNGRADED_SUBJECT + b"\n"
        )
        downgrader = Downgrader()
        self.assertEqual(downgrader.feed(part + b"x: y\n\nbody"), b"")
        self.assertEqual(downgrader.finish(), part + b"x: y\n\nbody")
        downgrader = Downgrader()
        self.assertEqual(downgrader.feed(part + b"x: y\n\n"), b"")
        long = b"z" * 70_000
        self.assertEqual(downgrader.feed(long), part + b"x: y\n\n" + long)
        self.assertEqual(downgrader.feed(b"more"), b"more")

    def test_limit(self):
        """Up to MAX_HELD octets are held back, and as many after a release."""
        held = HeldOutput()
        for _ in range(2):
            held.open(0, b"header", b"other")
            self.assertEqual(held.hold(b"x" * MAX_HELD), b"")
            self.assertEqual(held.hold(b"y"), b"header" + b"x" * MAX_HELD + b"y")
            self.assertFalse(held)
