"""Framing: what is sent, against naive oracles."""

from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.messages import framing, octets
from popserv.testing import SAMPLE_MESSAGES, naive_octets

# Mostly what matters to framing, so that short examples hit the edges.
texts = st.lists(
    st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"\n.", b"\n\n", b"a", b"\0", b"\xff"])
    | st.binary(max_size=3),
    max_size=30,
).map(b"".join)


@st.composite
def chunked(draw):
    """A text and the same text cut into chunks anywhere, empty ones included."""
    text = draw(texts)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    edges = [0, *cuts, len(text)]
    return text, [text[a:b] for a, b in pairwise(edges)]


def framed(framer, chunks):
    """What a framer sends for these chunks."""
    out = []
    for chunk in chunks:
        if framer.done:
            break
        out.append(framer.feed(chunk))
    return b"".join(out) + framer.finish()


def naive_lines(message):
    """A message's lines, found in the plainest way."""
    lines = message.replace(b"\r\n", b"\n").split(b"\n")
    return lines[:-1] if lines[-1] == b"" else lines


def naive_response(lines):
    """The lines as a multi-line response (RFC 1725 section 3)."""
    stuffed = [b"." + line if line.startswith(b".") else line for line in lines]
    return b"".join(line + b"\r\n" for line in [*stuffed, b"."])


def naive_top(message, wanted):
    """The lines that TOP sends (RFC 1725 section 7)."""
    lines = naive_lines(message)
    if b"" not in lines:
        return lines
    body = lines.index(b"") + 1
    return lines[: body + wanted]


def unstuffed(response):
    """What a client makes of a multi-line response, by RFC 1725 section 3's words."""
    lines = []
    for line in response.split(b"\r\n"):
        if line == b".":
            return lines
        lines.append(line.removeprefix(b"."))
    raise AssertionError("no termination")


class FramingTests(SynchronousTestCase):
    """RFC 1725 sections 3, 7 and 10."""

    @given(chunked())
    def test_message(self, case):
        """A message is sent by the plain rules, wherever its chunks are cut."""
        text, chunks = case
        sent = framed(framing.MessageFramer(), chunks)
        self.assertEqual(sent, naive_response(naive_lines(text)))

    @given(texts)
    def test_client_gets_the_lines(self, text):
        """A client that undoes the framing has the message's lines, and nothing is left over."""
        sent = framed(framing.MessageFramer(), [text])
        self.assertEqual(unstuffed(sent), naive_lines(text))
        self.assertEqual(sent.find(b"\r\n.\r\n", 0, -1), -1)

    @given(chunked())
    def test_octets(self, case):
        """The octets counted are those that are sent, less stuffing and termination."""
        text, chunks = case
        counted = octets.count_octets(chunks)
        self.assertEqual(counted, naive_octets(text))
        lines = unstuffed(framed(framing.MessageFramer(), [text]))
        self.assertEqual(counted, sum(len(line) + 2 for line in lines))

    @given(chunked(), st.integers(0, 12))
    @example((b"a: b\n\n1\n2\n", [b"a: b\n", b"\n1", b"\n2\n"]), 1)
    def test_top(self, case, wanted):
        """TOP sends the header, the blank line and so many lines of the body."""
        text, chunks = case
        sent = framed(framing.TopFramer(wanted), chunks)
        self.assertEqual(sent, naive_response(naive_top(text, wanted)))

    def test_every_split_of_odd_messages(self):
        """Two chunks, cut at every point, give what one chunk gives."""
        for text in (message[:400] for message in SAMPLE_MESSAGES):
            for make in (framing.MessageFramer, lambda: framing.TopFramer(1)):
                whole = framed(make(), [text])
                for cut in range(len(text) + 1):
                    self.assertEqual(framed(make(), [text[:cut], text[cut:]]), whole)

    def test_top_reads_no_further(self):
        """Once TOP has its lines, the rest of the message is not wanted."""
        framer = framing.TopFramer(0)
        self.assertEqual(framer.feed(b"a: b\n\nbody\nmore"), b"a: b\r\n\r\n")
        self.assertTrue(framer.done)

    def test_listing(self):
        """Listings are lines in wire form already."""
        self.assertEqual(framed(framing.ListingFramer(), [b"1 2\r\n", b""]), b"1 2\r\n.\r\n")

    def test_empty_message(self):
        """A message without a byte has no line and no octet."""
        self.assertEqual(framed(framing.MessageFramer(), []), b".\r\n")
        self.assertEqual(octets.count_octets([]), 0)

    @given(texts, st.binary(max_size=300))
    def test_count_whole(self, text, more):
        """A message counted in one piece has the octets, and the end of a header, of any pieces."""
        for whole in (text, text + more, more + text, b"x" * 250 + text):
            counter = octets.OctetCounter()
            for at in range(len(whole)):
                counter.feed(whole[at : at + 1])
            counted = counter.finish()
            self.assertEqual(octets.count_message(whole), (counted, counter.has_blank_line))
            self.assertEqual(counted, naive_octets(whole))
