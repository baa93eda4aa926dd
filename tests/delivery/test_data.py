"""popserv.delivery.data: the end of a message, dot-stuffing and line ends."""

from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.delivery.data import DataReader
from popserv.messages.framing import MessageFramer

LINES = st.lists(
    st.one_of(
        st.binary(max_size=9),
        st.lists(st.sampled_from([b".", b"\r", b"x"]), max_size=5).map(b"".join),
    ).map(lambda line: line.replace(b"\n", b"") + b"\r\n"),
    max_size=6,
).map(b"".join)
CUTS = st.lists(st.integers(0, 80), max_size=8)


def stuffed(message):
    """Return a message as clients send it after DATA, in the simplest way."""
    lines = message.split(b"\r\n")[:-1]
    return b"".join(b"." * line.startswith(b".") + line + b"\r\n" for line in lines) + b".\r\n"


def read(sent, cuts=()):
    """Return the stored message, what follows it, and the reader, for input in pieces."""
    reader, stored = DataReader(), b""
    at = [0, *sorted(min(cut, len(sent)) for cut in cuts), len(sent)]
    for start, end in pairwise(at):
        text, rest = reader.feed(sent[start:end])
        stored += text
        if rest is not None:
            return stored, rest + sent[end:], reader
    return stored, None, reader


def retrieved(stored):
    """Return what RETR sends of a stored message."""
    framer = MessageFramer()
    return framer.feed(stored) + framer.finish()


class DataReaderTests(SynchronousTestCase):
    """DataReader."""

    @given(LINES, CUTS, st.binary(max_size=9))
    @example(b"", [], b"")
    @example(b".\r\n", [1, 2, 3], b"x")
    @example(b"\r\r\n", [1, 2], b"")
    @example(b"x\r\r\r\n\r\n", [1, 2, 3, 4], b"")
    def test_round_trip(self, message, cuts, following):
        """RETR sends what was received, wherever the input is cut; what follows is not read."""
        sent = stuffed(message)
        stored, rest, reader = read(sent + following, cuts)
        self.assertEqual(retrieved(stored), sent)
        self.assertEqual(rest, following)
        self.assertEqual(reader.octets, len(message))
        self.assertFalse(reader.has_bare_lf)

    def test_line_ends(self):
        """Lines end with LF, but for those with a CR before the line end."""
        stored, _, _ = read(b"a\r\nb\rc\r\nd\r\r\n\r\n..\r\n.x\r\n.\r\n")
        self.assertEqual(stored, b"a\nb\rc\nd\r\r\n\n.\nx\n")

    @given(CUTS)
    def test_smuggling(self, cuts):
        """Nothing but CRLF, dot and CRLF ends a message, and a bare LF is noticed."""
        for other in (
            *(b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r\n", b"\r\n.\r", b"\r.\r"),
            *(b"\r\n.\r\r\n", b"\r\n\0.\r\n", b"\r\n.\0\r\n"),
        ):
            sent = b"x" + other + b"MAIL FROM:<a>\r\n.\r\n"
            _, rest, reader = read(sent, cuts)
            self.assertEqual(rest, b"", other)
            is_bare = b"\n" in other.replace(b"\r\n", b"")
            self.assertEqual(reader.has_bare_lf, is_bare, other)

    @given(st.binary(max_size=60), CUTS)
    def test_anything(self, sent, cuts):
        """The result never depends on where the input is cut."""
        whole, rest, reader = read(sent)
        cut, rest_of_cut, reader_of_cut = read(sent, cuts)
        self.assertEqual((cut, rest_of_cut), (whole, rest))
        self.assertEqual(reader_of_cut.has_bare_lf, reader.has_bare_lf)
        self.assertEqual(reader_of_cut.octets, reader.octets)

    def test_bounded(self):
        """A line without an end is not kept."""
        reader = DataReader()
        self.assertEqual(reader.feed(b"x" * 1000), (b"x" * 1000, None))
        self.assertEqual(reader.feed(b"\r\n."), (b"", None))
        self.assertEqual(reader.feed(b"y"), (b"\ny", None))
