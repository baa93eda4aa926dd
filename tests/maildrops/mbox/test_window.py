"""popserv.maildrops.mbox.window: a file in blocks is searched as if it were in memory."""

import os

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.mbox import window
from popserv.maildrops.mbox.window import Window


class WindowTests(SynchronousTestCase):
    """A file that is larger than a block."""

    def open(self, contents):
        """Return a window on a file."""
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(contents)
        fd = os.open(path, os.O_RDWR)
        self.addCleanup(os.close, fd)
        return fd, Window(fd, len(contents))

    @given(
        st.text("ab", max_size=40),
        st.text("ab", min_size=1, max_size=3),
        st.lists(st.tuples(st.integers(0, 45), st.integers(0, 8)), max_size=6),
        st.integers(3, 12),
    )
    def test_oracle(self, text, wanted, reads, block):
        """Reading and finding give what a string would, in any order and with any block."""
        self.patch(window, "BLOCK", block)
        text, wanted = text.encode(), wanted.encode()
        _, file = self.open(text)
        for offset, octets in reads:
            offset, octets = min(offset, len(text)), min(octets, block)
            self.assertEqual(file.peek(offset, octets), text[offset : offset + octets])
            self.assertEqual(file.read(offset, octets), text[offset : offset + octets])
            self.assertEqual(file.peek(offset, octets), text[offset : offset + octets])
            self.assertEqual(file.find(wanted, offset), text.find(wanted, offset))

    def test_found(self):
        """A text is found wherever a block ends, also before what was read last."""
        for block in range(3, 9):
            self.patch(window, "BLOCK", block)
            for at in range(30):
                text = b"a" * at + b"bcd" + b"a" * (30 - at)
                _, file = self.open(text)
                self.assertEqual(file.read(0, 1), text[:1])
                self.assertEqual(file.find(b"bcd", 0), at)
                file.read(len(text) - 1, 1)
                self.assertEqual(file.find(b"bcd", 0), at)

    def test_touched(self):
        """Something is called for each block, such as what keeps a lock."""
        touched = []
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(b"x" * (2 * window.BLOCK + 1))
        with open(path, "rb") as file:
            reader = Window(file.fileno(), 2 * window.BLOCK + 1, lambda: touched.append(1))
            self.assertEqual(reader.find(b"y", 0), -1)
        self.assertEqual(len(touched), 3)

    def test_read_once(self):
        """If the offsets increase, each octet is read from the file once."""
        self.patch(window, "BLOCK", 10)
        _, file = self.open(b"x" * 98)
        self.assertEqual(file.octets_read, 0)
        for offset in range(0, 98, 5):
            for _ in range(2):
                self.assertEqual(len(file.read(offset, 5)), min(5, 98 - offset))
                self.assertEqual(file.find(b"x", offset), offset)
        self.assertEqual(file.octets_read, 98)

    def test_peek(self):
        """Octets within the block are not read again, others alone, and none after the end."""
        self.patch(window, "BLOCK", 10)
        fd, file = self.open(bytes(range(30)))
        os.pwrite(fd, b"appended", 30)
        file.read(10, 10)
        for offset, octets, read in (
            *((10, 10, 0), (10, 1, 0), (19, 1, 0), (15, 2, 0)),
            *((9, 2, 2), (19, 2, 2), (0, 3, 3), (20, 1, 1), (25, 9, 5), (29, 2, 1)),
        ):
            before = file.octets_read
            expected = bytes(range(offset, min(30, offset + octets)))
            self.assertEqual(file.peek(offset, octets), expected)
            self.assertEqual(file.octets_read - before, read)

    def test_truncated(self):
        """A file that becomes shorter is an error, not the end."""
        fd, file = self.open(b"x" * 10)
        os.ftruncate(fd, 5)
        with self.assertRaises(OSError):
            file.read(0, 10)
        with self.assertRaises(OSError):
            file.find(b"y", 7)
