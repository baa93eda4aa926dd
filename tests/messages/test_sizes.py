"""Tests of popserv.messages.sizes."""

from hypothesis import given
from twisted.trial.unittest import SynchronousTestCase

from popserv.messages.downgrade.downgrader import Downgrader
from popserv.messages.octets import count_octets
from popserv.messages.sizes import MessageCounter, Sizes, measure
from tests.messages.downgrade.harness import SUBJECT, UMLAUT, downgrade
from tests.messages.harness import naive_lines, split, texts


class MeasureTests(SynchronousTestCase):
    """The octets of both forms are counted in one pass over the message."""

    def test_ascii(self):
        """A message in ASCII is counted without a look at its MIME structure."""
        measured = measure([b"a: b\n\nx\n", b"y"], lambda: self.fail("a downgrader is made"))
        self.assertEqual(measured, Sizes(14, None))

    def test_buffered(self):
        """A downgrader reads the message when more than 1 MiB of ASCII would be buffered."""
        made = []

        def make():
            made.append(Downgrader())
            return made[-1]

        counter = MessageCounter(make)
        counter.feed(b"x" * (1 << 20))
        self.assertEqual(made, [])
        counter.feed(b"y")
        self.assertEqual(len(made), 1)

    def test_one_form(self):
        """Without a downgrader only the octets as stored are counted, and nothing is buffered."""
        counter = MessageCounter()
        message = SUBJECT + b"\n" + UMLAUT + b"\n"
        counter.feed(message)
        self.assertEqual(counter._buffer, [])
        self.assertEqual(counter.finish(), Sizes(count_octets([message]), None))
        self.assertNotEqual(measure([message], Downgrader), measure([message]))

    def test_late_part(self):
        """A part is found behind any amount of ASCII."""
        head = b"Content-Type: multipart/mixed; boundary=a\n\n"
        for filler in (b"x\n" * 10, b"x\n" * 1_000_000):
            message = head + filler + b"--a\n" + SUBJECT + b"\n"
            sizes = measure(split(message, 100_000), Downgrader)
            self.assertEqual(sizes.octets, count_octets([message]))
            self.assertEqual(sizes.downgraded, count_octets([downgrade(message)]))

    def test_eight_bit_bodies(self):
        """A message without valid UTF-8 in its header has no downgraded form."""
        self.assertIsNone(measure([b"a: b\n\n" + UMLAUT], Downgrader).downgraded)
        self.assertIsNone(measure([b"Subject: \xfc\n\n"], Downgrader).downgraded)

    def test_exceeded_limits(self):
        """The downgraded form has 0 octets if a field exceeds the limits of downgrading."""
        for message, is_within in [
            (SUBJECT + b"\n", True),
            (b"x: " + "\xe4".encode() * 17_000 + b"\n\nbody\n", False),
            (b"x: " + b"\xe4" * 34_000 + b"\n\nbody\n", True),
            ((b"x: " + "\xe4".encode() * 12_000 + b"\n") * 3, False),
            (SUBJECT + b"x: y\n" * 220_000, False),
            (b"x: \xe4\n" + b"x: y\n" * 220_000, False),
            (b"x: \xe4\n" * 1999 + SUBJECT + b"\n", True),
            (b"x: \xe4\n" * 2000 + SUBJECT + b"\n", False),
            (b"x: y\n" * 220_000, True),
            # A line without a name is no field.
            (UMLAUT * 20_000 + b"\n\n", True),
        ]:
            sizes = measure([message], Downgrader)
            self.assertEqual(sizes.octets, count_octets([message]))
            self.assertEqual(sizes.downgraded != 0, is_within, repr(message[:20]))

    @given(texts)
    def test_has_blank_line(self, text):
        """A message is header-only if it has no empty line, whatever its chunks are."""
        for downgrader in (None, Downgrader):
            measured = measure([text], downgrader)
            self.assertEqual(measured.has_blank_line, b"" in naive_lines(text))
            self.assertEqual(measure(split(text, 1), downgrader), measured)
