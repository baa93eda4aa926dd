"""Tests of popserv.messages.downgrade.headers."""

from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from popserv.messages.downgrade import headers as module
from popserv.messages.downgrade.downgrader import MAX_HEADER
from popserv.messages.downgrade.headers import HeaderDowngrader
from tests.messages.downgrade.harness import DOWNGRADED_SUBJECT, SUBJECT, UMLAUT, downgrade


class HeaderTests(SynchronousTestCase):
    """The fields of a header are downgraded within limits."""

    def test_unchanged(self):
        """A header without a field to downgrade is returned as the same object."""
        headers = HeaderDowngrader()
        for header in (b"Subject: x\n\n", b"Subject: \xfc\n\n", UMLAUT + b"\n\n"):
            self.assertIs(headers.downgrade(header), header)
        self.assertFalse(headers.exceeded_limits)

    def test_fields(self):
        """Each field is downgraded, and the others stay octet for octet."""
        header = b"x:  y\r\n z\n" + SUBJECT + b"To: \xfc\n" + SUBJECT + b"\n"
        self.assertEqual(
            HeaderDowngrader().downgrade(header), header.replace(SUBJECT, DOWNGRADED_SUBJECT)
        )

    def test_long_field(self):
        """A field over 32 KiB passes unchanged, and exceeds the limits if it is UTF-8."""
        for text, exceeds in ((UMLAUT * 40_000, True), (b"\xfc" * 40_000, False)):
            headers = HeaderDowngrader()
            field = b"Subject: " + text + b"\n"
            result = headers.downgrade(field + SUBJECT + b"\n")
            self.assertEqual(result, field + DOWNGRADED_SUBJECT + b"\n")
            self.assertEqual(headers.exceeded_limits, exceeds)

    def test_numbers(self):
        """The limits are those of docs/reference/commands."""
        self.assertEqual((module.MAX_FIELD, module.MAX_DOWNGRADED), (32 * 1024, 64 * 1024))
        self.assertEqual((module.MAX_FIELDS, MAX_HEADER), (2000, 1024 * 1024))

    def test_limits(self):
        """The limits on the number and the octets of fields are for all headers of a message."""
        for limit, value in (("MAX_FIELDS", 2), ("MAX_DOWNGRADED", 2 * len(SUBJECT))):
            with mock.patch.object(module, limit, value):
                headers = HeaderDowngrader()
            with mock.patch.object(module, "MAX_FIELD", len(SUBJECT)):
                downgraded = headers.downgrade(SUBJECT) + headers.downgrade(b"x: y\n" + SUBJECT)
                self.assertEqual(downgraded, DOWNGRADED_SUBJECT + b"x: y\n" + DOWNGRADED_SUBJECT)
                self.assertFalse(headers.exceeded_limits)
                self.assertEqual(headers.downgrade(SUBJECT * 2), SUBJECT * 2)
                self.assertTrue(headers.exceeded_limits)

    def test_long_field_of_a_message(self):
        """The field behind a field over 32 KiB is downgraded in a message, too."""
        field = b"Subject: " + UMLAUT * 40_000 + b"\n"
        self.assertEqual(downgrade(field + SUBJECT + b"\n"), field + DOWNGRADED_SUBJECT + b"\n")
