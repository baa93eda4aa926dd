"""Tests of popserv.messages.octets, against a naive count."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.messages.framing import MessageFramer
from popserv.messages.octets import OctetCounter, count_message, count_octets
from popserv.testing import naive_octets
from tests.messages.harness import chunked, frame, texts, unstuff


class OctetTests(SynchronousTestCase):
    """RFC 1725 sections 3 and 10."""

    @given(chunked())
    def test_octets(self, case):
        """The octets counted are those sent, without dot-stuffing and terminator."""
        text, chunks = case
        counted = count_octets(chunks)
        self.assertEqual(counted, naive_octets(text))
        lines = unstuff(frame(MessageFramer(), [text]))
        self.assertEqual(counted, sum(len(line) + 2 for line in lines))

    def test_empty_message(self):
        """An empty message has no octets."""
        self.assertEqual(count_octets([]), 0)

    @given(texts, st.binary(max_size=300))
    def test_count_message(self, text, more):
        """A message counted in one piece has the same octets and empty line as in any chunks."""
        for whole in (text, text + more, more + text, b"x" * 250 + text):
            counter = OctetCounter()
            for at in range(len(whole)):
                counter.feed(whole[at : at + 1])
            counted = counter.finish()
            self.assertEqual(count_message(whole), (counted, counter.has_blank_line))
            self.assertEqual(counted, naive_octets(whole))
