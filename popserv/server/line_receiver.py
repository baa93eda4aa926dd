"""A LineReceiver that does not copy the rest of its input after each line."""

from __future__ import annotations

from collections.abc import Iterator

from twisted.protocols.basic import LineReceiver

LINES_AT_ONCE = 50
"""The lines that are split off at once; a rest of input is copied as often."""


class CommandLineReceiver(LineReceiver):
    """Receives lines that end with LF, as LineReceiver does, but faster.

    Twisted's class splits its buffer after each line, so that a packet of pipelined commands is
    copied once for each of them.  There is no raw mode.  :meth:`lineLengthExceeded` may put the
    line back into the buffer, after it has raised ``MAX_LENGTH``.
    """

    _buffer: bytes
    # Lines that are split off, and precede what is in the buffer.
    _lines: Iterator[bytes] = iter(())

    def dataReceived(self, data: bytes) -> None:
        """Call :meth:`lineReceived` with each complete line, until ``paused``."""
        self._buffer += data
        if self._busyReceiving:
            return
        self._busyReceiving = True
        try:
            while not self.paused:
                # A bare LF ends a line, too, for people who type at the server through nc.
                *lines, self._buffer = self._buffer.split(b"\n", LINES_AT_ONCE)
                self._lines = iter(lines)
                for line in self._lines:
                    if len(line) > self.MAX_LENGTH:
                        self.lineLengthExceeded(b"\n".join((line, self.clearLineBuffer())))
                    else:
                        self.lineReceived(line)
                    if self.paused:
                        break
                else:
                    if lines:
                        continue
                    if len(self._buffer) <= self.MAX_LENGTH:
                        break
                    self.lineLengthExceeded(self.clearLineBuffer())
        finally:
            self._busyReceiving = False
            self._buffer = self.clearLineBuffer()

    def is_one_line(self, data: bytes) -> bool:
        """Return whether input is one whole line that can be processed now, past the buffer."""
        return (
            data.find(b"\n") == len(data) - 1
            and 0 < len(data) <= self.MAX_LENGTH
            and not (self._buffer or self.paused or self._busyReceiving)
        )

    def clearLineBuffer(self) -> bytes:
        """Empty the buffer, and return what has not been processed; see LineReceiver."""
        # The loop over the lines ends, for this takes them.
        unprocessed = b"\n".join((*self._lines, self._buffer))
        self._buffer = b""
        return unprocessed

    @property
    def unprocessed_octets(self) -> int:
        """The octets that are buffered."""
        self._buffer = self.clearLineBuffer()
        return len(self._buffer)
