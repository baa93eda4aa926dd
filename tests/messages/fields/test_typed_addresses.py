"""Tests of popserv.messages.fields.typed_addresses."""

from twisted.trial.unittest import SynchronousTestCase

from tests.messages.fields.harness import downgrade_to_line


class TypedAddressTests(SynchronousTestCase):
    """RFC 6857 section 3.1.9."""

    def test_types(self):
        """An address of type utf-8 is written in xtext; others are encapsulated."""
        for text, result in [
            (
                "utf-8;j\xf6+=\\ @c",
                "Final-Recipient: utf-8; j\\x{F6}\\x{2B}\\x{3D}\\x{5C}\\x{20}@c",
            ),
            (
                "UTF-8 ; \u4e00\\x{F6}@c (\xf6\xf6)",
                "Final-Recipient: utf-8; \\x{4E00}\\x{F6}@c (=?UTF-8?B?w7bDtg==?=)",
            ),
            ("rfc822; a@b (\xf6\xf6)", "Final-Recipient: rfc822; a@b (=?UTF-8?B?w7bDtg==?=)"),
            ("rfc822; \xf6@b", "Downgraded-Final-Recipient: rfc822; =?UTF-8?Q?=C3=B6=40b?="),
        ]:
            self.assertEqual(downgrade_to_line("Final-Recipient: " + text), result)
