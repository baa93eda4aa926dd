"""A file as if it were in memory, while only a block of it is."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

BLOCK = 1 << 20
"""The octets of the block; no single read returns more."""


class Window:
    """Reads a file of ``size`` octets by offsets that mostly increase.

    ``octets_read`` counts what was read from the file, and ``touch`` is called for each block.
    """

    def __init__(self, fd: int, size: int, touch: Callable[[], object] = lambda: None) -> None:
        self.size = size
        self._touch = touch
        self.octets_read = 0
        self._fd = fd
        self._block = b""
        self._offset = 0

    def read(self, offset: int, octets: int) -> bytes:
        """Return up to ``octets`` octets, at most ``BLOCK``; fewer only at the end of the file.

        :raises OSError: the file cannot be read.
        """
        octets = min(octets, self.size - offset)
        start = offset - self._offset
        if not (start >= 0 and start + octets <= len(self._block)):
            self._load(offset)
            start = 0
        return self._block[start : start + octets]

    def peek(self, offset: int, octets: int) -> bytes:
        """Return the same as :meth:`read`, but load no block for these octets alone.

        :raises OSError: the file cannot be read.
        """
        octets = min(octets, self.size - offset)
        start = offset - self._offset
        if start >= 0 and start + octets <= len(self._block):
            return self._block[start : start + octets]
        text = os.pread(self._fd, octets, offset)
        self.octets_read += len(text)
        return text

    def find(self, text: bytes, offset: int) -> int:
        """Return the offset of the first occurrence of a text at or after ``offset``, or -1.

        :raises OSError: the file cannot be read.
        """
        while True:
            if not self._offset <= offset < self._offset + len(self._block):
                self._load(offset)
            found = self._block.find(text, offset - self._offset)
            if found >= 0:
                return self._offset + found
            end = self._offset + len(self._block)
            if end >= self.size:
                return -1
            # The text may begin at the end of this block.
            offset = max(offset, end - len(text) + 1)
            self._load(offset)

    def _load(self, offset: int) -> None:
        self._touch()
        octets = min(BLOCK, max(0, self.size - offset))
        self._block = os.pread(self._fd, octets, offset)
        self._offset = offset
        self.octets_read += len(self._block)
        if len(self._block) < octets:
            raise OSError(errno.ESTALE, "another program has truncated it")
