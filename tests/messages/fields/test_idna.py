"""Tests of popserv.messages.fields.idna, against the package idna."""

import idna
from hypothesis import assume, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.messages.fields.idna import a_label


class ALabelTests(SynchronousTestCase):
    """RFC 6857 section 3.1.6."""

    @given(st.text(st.characters(categories=["L", "M", "N", "P"]), min_size=1, max_size=12))
    def test_a_labels(self, text):
        """An A-label is the one that IDNA 2008 gives for the label."""
        assume(not text.isascii())
        label = a_label(text)
        try:
            expected = idna.alabel(idna.uts46_remap(text, transitional=False)).decode()
        except idna.IDNAError:
            return
        if label:
            self.assertEqual(label, expected)

    def test_examples(self):
        """Labels of several scripts have A-labels."""
        for text in ("b\xfccher", "stra\xdfe", "\u03b2\u03cc\u03bb\u03bf\u03c2", "\u4f8b\u3048"):
            self.assertEqual(a_label(text), idna.alabel(text).decode())
        self.assertEqual(a_label("com"), "com")

    def test_longest(self):
        """An A-label has up to 63 characters."""
        for octets, length in ((55, 63), (56, 0)):
            self.assertEqual(len(a_label("a" * octets + "\xfc")), length)

    def test_no_u_label(self):
        """A label that is not a U-label has no A-label."""
        for text in (
            "\u2603",
            "ab--\xfc",
            "-\xfc",
            "\xfc-",
            "\u0301a",
            "\u0640",
            "\xfc" * 64,
            "\0",
        ):
            self.assertEqual(a_label(text), "")
        for text in ("\u212a", "\xfc_", "\u4e00" * 60):
            self.assertEqual(a_label(text), "")
