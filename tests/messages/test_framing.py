"""Tests of popserv.messages.framing, against naive oracles."""

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.errors import MessageChanged
from popserv.messages.framing import (
    FilteredFramer,
    ListingFramer,
    MessageFramer,
    TopFramer,
    frame_message,
    frame_top,
)
from popserv.messages.workarounds import NulFilter
from popserv.testing import SAMPLE_MESSAGES, naive_octets
from tests.messages.harness import (
    chunked,
    frame,
    naive_lines,
    naive_response,
    naive_top,
    texts,
    unstuff,
)


class MessageFramerTests(SynchronousTestCase):
    """RFC 1725 section 3."""

    @given(chunked())
    def test_message(self, case):
        """Each line ends with CRLF, and is dot-stuffed, wherever the message is cut."""
        text, chunks = case
        sent = frame(MessageFramer(), chunks)
        self.assertEqual(sent, naive_response(naive_lines(text)))

    @given(texts)
    def test_client_reads_the_lines(self, text):
        """A client that undoes the framing has the lines of the message and no other octets."""
        sent = frame(MessageFramer(), [text])
        self.assertEqual(unstuff(sent), naive_lines(text))
        self.assertEqual(sent.find(b"\r\n.\r\n", 0, -1), -1)

    def test_every_split(self):
        """Two chunks, cut at every octet, give the same result as one chunk."""
        for text in (message[:400] for message in SAMPLE_MESSAGES):
            for make in (MessageFramer, lambda: TopFramer(1)):
                whole = frame(make(), [text])
                for cut in range(len(text) + 1):
                    self.assertEqual(frame(make(), [text[:cut], text[cut:]]), whole)

    def test_empty_message(self):
        """The response for an empty message is the terminator."""
        self.assertEqual(frame(MessageFramer(), []), b".\r\n")


class OctetsTests(SynchronousTestCase):
    """A framer that knows the octets that LIST has reported."""

    def frame_checked(self, framer, chunks):
        """Return the octets before an error, and whether there was one."""
        sent = []
        try:
            for chunk in chunks:
                if framer.done:
                    break
                sent.append(framer.feed(chunk))
            sent.append(framer.finish())
        except MessageChanged as changed:
            self.assertIsInstance(changed.__cause__, ValueError)
            return b"".join(sent), True
        return b"".join(sent), False

    @given(chunked(), st.integers(-3, 3) | st.integers(-99, 99))
    def test_message(self, case, difference):
        """Other octets are an error at the first too many, or at the end; no terminator is sent."""
        text, chunks = case
        octets = naive_octets(text)
        reported = max(octets + difference, 0)
        sent, failed = self.frame_checked(MessageFramer(reported), chunks)
        whole = frame(MessageFramer(), chunks)
        self.assertEqual(failed, reported != octets)
        if failed:
            self.assertTrue(whole.startswith(sent))
            lines = sent.split(b"\r\n")
            self.assertNotIn(b".", lines)
            stuffed = sum(line.startswith(b".") for line in lines)
            self.assertLessEqual(len(sent) - stuffed, reported)
        else:
            self.assertEqual(sent, whole)

    @given(chunked(), st.integers(0, 12), st.integers(-3, 3) | st.integers(-99, 99))
    def test_top(self, case, lines, difference):
        """TOP of a whole message compares it; of a part of it no octet too many is sent."""
        text, chunks = case
        octets = naive_octets(text)
        reported = max(octets + difference, 0)
        framer = TopFramer(lines, reported)
        sent, failed = self.frame_checked(framer, chunks)
        whole = frame(TopFramer(lines), chunks)
        self.assertTrue(whole.startswith(sent))
        self.assertEqual(sent == whole, not failed)
        part = sum(len(line) + 2 for line in naive_top(text, lines))
        self.assertEqual(failed, part > reported or (reported != octets and not framer.done))

    @given(chunked(), st.integers(0, 12))
    @example((b"\n1\n2\r\n", [b"\n1\n2\r", b"\n"]), 1)
    def test_top_of_unchanged_message(self, case, lines):
        """A message that is compared in part, wherever it is cut, has no octet too many."""
        text, chunks = case
        framer = TopFramer(lines, naive_octets(text))
        whole = frame(TopFramer(lines), chunks)
        self.assertEqual(self.frame_checked(framer, chunks), (whole, False))

    def test_top_of_part(self):
        """Of a part of a message, only the octets that are sent are compared."""
        framer = TopFramer(1, 100)
        self.assertEqual(self.frame_checked(framer, [b"\n1\n2\n"]), (b"\r\n1\r\n.\r\n", False))
        self.assertTrue(framer.done)
        long = b"x" * 100
        for lines, chunks, sent in (
            (1, [b"\n1\n", long], (b"\r\n1\r\n.\r\n", False)),
            (0, [b"\n" + long], (b"\r\n.\r\n", False)),
            (1, [b"\n" + long], (b"", True)),
            (9, [b"\n1\n2\n"], (b"\r\n1\r\n2\r\n", True)),
        ):
            self.assertEqual(self.frame_checked(TopFramer(lines, 100), chunks), sent)


class TopFramerTests(SynchronousTestCase):
    """RFC 1725 section 7."""

    @given(chunked(), st.integers(0, 12))
    @example((b"a: b\n\n1\n2\n", [b"a: b\n", b"\n1", b"\n2\n"]), 1)
    @example((b"\n1\n2\n3\n", [b"\n1\n", b"2\n3\n"]), 2)
    def test_top(self, case, lines):
        """TOP sends the header, the blank line and the given number of lines of the body."""
        text, chunks = case
        sent = frame(TopFramer(lines), chunks)
        self.assertEqual(sent, naive_response(naive_top(text, lines)))

    def test_done(self):
        """The framer is done once it has its lines."""
        framer = TopFramer(0)
        self.assertEqual(framer.feed(b"a: b\n\nbody\nmore"), b"a: b\r\n\r\n")
        self.assertTrue(framer.done)


class OnePieceTests(SynchronousTestCase):
    """A message in one piece, framed with its status line."""

    @given(texts)
    def test_message(self, text):
        """frame_message returns what a framer sends, or None if LIST has reported other octets."""
        octets, status = naive_octets(text), b"+OK\r\n"
        expected = status + frame(MessageFramer(), [text])
        self.assertEqual(frame_message(text, octets, status), expected)
        self.assertIsNone(frame_message(text, octets + 1, status))
        if octets:
            self.assertIsNone(frame_message(text, octets - 1, status))

    @given(texts, st.integers(0, 4))
    @example(b"a: b\n", 0)
    @example(b"a: b\n\n1\n", 2)
    @example(b"a: b\n\n1\n", 1)
    def test_top(self, text, lines):
        """frame_top returns what a framer sends; the start is enough if it has all the lines."""
        octets, status = naive_octets(text), b"+OK\r\n"
        expected = status + naive_response(naive_top(text, lines))
        self.assertEqual(frame_top(text, lines, octets, True, status), expected)
        framer = TopFramer(lines)
        framer.feed(text)
        start = frame_top(text, lines, octets, False, status)
        self.assertEqual(start, expected if framer.done else None)
        if not framer.done:
            self.assertIsNone(frame_top(text, lines, octets + 1, True, status))


class FilteredFramerTests(SynchronousTestCase):
    """A framer can send the output of a filter."""

    def test_done(self):
        """The framer is done when the inner framer is."""
        framer = FilteredFramer(NulFilter(), TopFramer(1))
        self.assertEqual(framer.feed(b"a: \0\n\n1\0\n2\n"), b"a: \x80\r\n\r\n1\x80\r\n")
        self.assertTrue(framer.done)
        self.assertEqual(framer.finish(), b".\r\n")


class ListingFramerTests(SynchronousTestCase):
    """Listings are lines in wire form."""

    def test_listing(self):
        """A listing is sent unchanged, and terminated."""
        self.assertEqual(frame(ListingFramer(), [b"1 2\r\n", b""]), b"1 2\r\n.\r\n")
