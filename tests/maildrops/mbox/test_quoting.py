"""popserv.maildrops.mbox.quoting: lines are quoted, and the quoting undone, in chunks."""

import re

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.mbox.quoting import FromQuoter, Quoter, Unquoter

EXAMPLES = [
    (b">From x\n", b"From x\n"),
    (b">>From x\n", b">From x\n"),
    (b"> From x\n", b"> From x\n"),
    (b"x >From x\n", b"x >From x\n"),
    (b">From\n", b">From\n"),
    (b"\n>From ", b"\nFrom "),
    (b">>>>\n", b">>>>\n"),
    (b">>>>", b">>>>"),
    (b">x>From \n>From ", b">x>From \nFrom "),
]

CHUNKS = st.lists(
    st.one_of(
        st.sampled_from([b">", b">>", b"F", b"ro", b"m", b" ", b"From ", b">From ", b"\n", b"x"]),
        st.binary(max_size=5),
    ),
    max_size=20,
)


def quoted(text):
    """Return a text quoted as qmail's mbox(5) says."""
    return re.sub(rb"(?m)^(>*From )", rb">\1", text)


def unquote(chunks):
    """Return the text of chunks, unquoted."""
    unquoter = Unquoter()
    return b"".join([*map(unquoter.feed, chunks), unquoter.finish()])


class UnquoterTests(SynchronousTestCase):
    """Lines that look like From_ lines."""

    def test_examples(self):
        """A line of one or more ">" and "From " loses one; other lines stay."""
        for text, expected in EXAMPLES:
            for size in range(1, len(text) + 1):
                chunks = [text[at : at + size] for at in range(0, len(text), size)]
                self.assertEqual(unquote(chunks), expected)

    @given(CHUNKS)
    def test_chunks(self, chunks):
        """The result is that of a regular expression, wherever the chunks end."""
        text = b"".join(chunks)
        expected = re.sub(rb"(?m)^>(>*From )", rb"\1", text)
        self.assertEqual(unquote(chunks), expected)
        self.assertEqual(unquote([bytes([octet]) for octet in text]), expected)
        if expected != text:
            self.assertTrue(Unquoter.may_change(text))

    def test_other_octets(self):
        """After any octet but ">" and a line end, the line stays, also in another chunk."""
        for octet in range(256):
            chunks = [b"%c" % octet, b">From x\n"]
            expected = re.sub(rb"(?m)^>(>*From )", rb"\1", b"".join(chunks))
            self.assertEqual(unquote(chunks), expected)

    @given(CHUNKS)
    def test_inverse(self, chunks):
        """It undoes the quoting of any text."""
        text = b"".join(chunks)
        self.assertEqual(unquote([quoted(text)]), text)


def applied(quoter, chunks):
    """Return the text of chunks after it was quoted."""
    return b"".join([*map(quoter.feed, chunks), quoter.finish()])


class QuoterTests(SynchronousTestCase):
    """Lines that begin with "From " get a ``>``."""

    @given(CHUNKS)
    def test_mboxrd(self, chunks):
        """So do lines that are quoted already, wherever the chunks end."""
        text = b"".join(chunks)
        self.assertEqual(applied(Quoter(), chunks), quoted(text))
        self.assertEqual(applied(Quoter(), [bytes([octet]) for octet in text]), quoted(text))
        self.assertEqual(unquote([applied(Quoter(), chunks)]), text)

    @given(CHUNKS)
    def test_mboxo(self, chunks):
        """Only they do, wherever the chunks end."""
        text = b"".join(chunks)
        expected = re.sub(rb"(?m)^From ", b">From ", text)
        self.assertEqual(applied(FromQuoter(), chunks), expected)
        self.assertEqual(applied(FromQuoter(), [bytes([octet]) for octet in text]), expected)

    def test_other_octets(self):
        """After any octet but ">" and a line end, the line stays, also in another chunk."""
        for octet in range(256):
            chunks = [b"%c" % octet, b"From x\n"]
            text = b"".join(chunks)
            self.assertEqual(applied(Quoter(), chunks), quoted(text))
            expected = re.sub(rb"(?m)^From ", b">From ", text)
            self.assertEqual(applied(FromQuoter(), chunks), expected)
