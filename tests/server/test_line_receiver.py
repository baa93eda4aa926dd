"""Tests of popserv.server.line_receiver, against Twisted's LineReceiver."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.testing import StringTransport
from twisted.protocols.basic import LineReceiver
from twisted.trial.unittest import SynchronousTestCase

from popserv.server.line_receiver import CommandLineReceiver

# Few different octets, so that lines are short and lengths near the maximum are frequent.
inputs = st.lists(st.text("ab\r\n", max_size=30).map(str.encode), max_size=8)


class Recorder:
    """Records what a receiver gets, and acts on some of the lines."""

    delimiter = b"\n"
    MAX_LENGTH = 5

    def __init__(self):
        self.events = []
        self.makeConnection(StringTransport())

    def lineReceived(self, line):
        """Record a line: one that begins with ab pauses, and with ba clears the buffer."""
        self.events.append(line)
        if line.startswith(b"ab"):
            self.pauseProducing()
        elif line.startswith(b"ba"):
            self.events.append(("cleared", self.clearLineBuffer()))
        elif line.startswith(b"bb"):
            # As a transport does that is read by a nested call.
            self.dataReceived(b"a\n")

    def lineLengthExceeded(self, line):
        """Record the rest of the input."""
        self.events.append(("exceeded", line))


class Ours(Recorder, CommandLineReceiver):
    """The receiver under test."""


class Twisteds(Recorder, LineReceiver):
    """The oracle."""


class LineTests(SynchronousTestCase):
    """Lines are those of Twisted's class."""

    @given(inputs)
    def test_lines(self, packets):
        """The same lines are received in the same order, whatever the packets and pauses are."""
        ours, twisteds = Ours(), Twisteds()
        for packet in packets:
            for receiver in ours, twisteds:
                receiver.dataReceived(packet)
                receiver.events.append(receiver.paused)
                receiver.resumeProducing()
            self.assertEqual(ours.events, twisteds.events)
            self.assertEqual(ours.unprocessed_octets, len(twisteds._buffer))
        self.assertEqual(ours.clearLineBuffer(), twisteds.clearLineBuffer())

    def test_unprocessed(self):
        """A line sees how many octets follow it."""
        receiver = Ours()
        receiver.lineReceived = lambda line: receiver.events.append(receiver.unprocessed_octets)
        receiver.dataReceived(b"a\nb\nc")
        self.assertEqual(receiver.events, [3, 1])
        self.assertEqual(receiver.unprocessed_octets, 1)

    def test_one_line(self):
        """Input is one line if it is whole, not too long, and nothing is to be done before it."""
        receiver = Ours()
        for data, expected in (
            *((b"a\n", True), (b"\n", True), (b"abcd\n", True), (b"abcde\n", False)),
            *((b"", False), (b"a", False), (b"a\nb", False), (b"a\n\n", False), (b"\na", False)),
        ):
            self.assertIs(receiver.is_one_line(data), expected, data)
        within = []
        receiver.lineReceived = lambda line: within.append(receiver.is_one_line(b"a\n"))
        receiver.dataReceived(b"x\n")
        self.assertEqual(within, [False])
        receiver.pauseProducing()
        self.assertFalse(receiver.is_one_line(b"a\n"))
        receiver.resumeProducing()
        self.assertTrue(receiver.is_one_line(b"a\n"))
        receiver.dataReceived(b"x")
        self.assertFalse(receiver.is_one_line(b"a\n"))

    def test_put_back(self):
        """A line that is too long may be put back, once it is permitted."""
        receiver = Ours()

        def put_back(line):
            receiver.MAX_LENGTH = 10
            receiver._buffer = line

        receiver.lineLengthExceeded = put_back
        receiver.dataReceived(b"abcdefgh")
        receiver.dataReceived(b"i\nj\n")
        self.assertEqual(receiver.events, [b"abcdefghi"])
        receiver.resumeProducing()
        self.assertEqual(receiver.events, [b"abcdefghi", b"j"])

    def test_error(self):
        """After an exception, the lines that follow are not lost."""
        receiver = Ours()
        receiver.lineReceived = lambda line: 1 // 0
        self.assertRaises(ZeroDivisionError, receiver.dataReceived, b"a\nb\n")
        del receiver.lineReceived
        receiver.dataReceived(b"")
        self.assertEqual(receiver.events, [b"b"])
