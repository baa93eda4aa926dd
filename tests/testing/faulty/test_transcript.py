"""Tests of popserv.testing.faulty.transcript."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.testing import Line
from popserv.testing.faulty.transcript import Transcript


class TranscriptTests(SynchronousTestCase):
    """A transcript has lines, whatever the pieces in which they were sent."""

    def test_connections(self):
        """Connections are numbered, and their lines are in the order in which they were sent."""
        transcript = Transcript()
        self.assertEqual(transcript.lines(), [])
        first, second = transcript.open_connection(), transcript.open_connection()
        transcript.record(first, "S", b"+OK\r\n")
        transcript.record(second, "S", b"+OK\r\n")
        transcript.record(first, "C", b"QUIT\r\n")
        self.assertEqual(
            transcript.lines(), [Line(1, "S", b"+OK"), Line(2, "S", b"+OK"), Line(1, "C", b"QUIT")]
        )

    @given(st.lists(st.integers(0, 30)))
    def test_pieces(self, ends):
        """The lines do not depend on the pieces; an incomplete last line is kept."""
        octets = b"+OK 2 messages\r\n\r\n.x\r\n.\r\n-ER"
        pieces = [0, *sorted(ends), len(octets)]
        transcript = Transcript()
        for start, end in pairwise(pieces):
            transcript.record(1, "S", octets[start:end])
        found = [line.text for line in transcript.lines()]
        self.assertEqual(found, [b"+OK 2 messages", b"", b".x", b".", b"-ER"])

    def test_text(self):
        """A line as text begins with its sender; octets that are not UTF-8 are escaped."""
        self.assertEqual(str(Line(1, "C", b"STAT")), "C: STAT")
        self.assertEqual(str(Line(1, "S", "Grüße".encode())), "S: Grüße")
        self.assertEqual(str(Line(1, "S", b"\xff")), "S: \\xff")
