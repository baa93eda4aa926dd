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
            self.assertEqual(file.read(offset, octets), text[offset : offset + octets])
            self.assertEqual(file.find(wanted, offset), text.find(wanted, offset))

    def test_truncated(self):
        """A file that becomes shorter is an error, not the end."""
        fd, file = self.open(b"x" * 10)
        os.ftruncate(fd, 5)
        with self.assertRaises(OSError):
            file.read(0, 10)
        with self.assertRaises(OSError):
            file.find(b"y", 7)
