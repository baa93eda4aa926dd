"""Tests of popserv.messages.fields.encoded_words."""

from email.header import decode_header

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.messages.fields.encoded_words import MIN_ENCODED_TEXT, OVERHEAD, EncodedText


class EncodedTextTests(SynchronousTestCase):
    """RFC 2047 section 2."""

    @given(st.text(st.characters(codec="utf-8"), min_size=1), st.integers(MIN_ENCODED_TEXT, 60))
    def test_words(self, text, width):
        """The encoded-words have the whole text, no split character, and the width asked for."""
        encoded = EncodedText(text)
        read = ""
        while encoded:
            word = encoded.next_word(width)
            self.assertLessEqual(len(word), width + OVERHEAD)
            [(data, charset)] = decode_header(word)
            self.assertEqual(charset, "utf-8")
            read += data.decode()
        self.assertEqual(read, text)

    def test_encoding(self):
        """The Q encoding is for text that is mostly ASCII (RFC 2047 section 4)."""
        for text, word in [
            ("Gr\xfc\xdfe", "=?UTF-8?Q?Gr=C3=BC=C3=9Fe?="),
            ("a b\xfc", "=?UTF-8?Q?a_b=C3=BC?="),
            ("\u4e00a", "=?UTF-8?B?5LiAYQ==?="),
            ("\u4e00" * 16, f"=?UTF-8?B?{'5LiA' * 15}?="),
        ]:
            self.assertEqual(EncodedText(text).next_word(60), word)
