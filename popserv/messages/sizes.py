"""Measures a message: the octets of its wire form and of its downgraded form."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from popserv.messages.downgrade.downgrader import Downgrader
from popserv.messages.octets import OctetCounter

_MAX_BUFFERED = 1 << 20
"""The maximum octets of ASCII that a counter buffers before it reads the MIME structure."""


class Sizes(NamedTuple):
    """The octets of a message's wire form and of its downgraded form.

    ``downgraded`` is None if the two forms are the same, and 0 if the message has to be
    downgraded but exceeds the limits of :mod:`popserv.messages.downgrade`.  A message without
    a blank line is header-only: ``has_blank_line`` is false.
    """

    octets: int
    downgraded: int | None
    has_blank_line: bool = True


class MessageCounter:
    """Counts the octets of both forms of a message, chunk by chunk.

    While the message is ASCII, it costs hardly more than an
    :class:`~popserv.messages.octets.OctetCounter`.
    """

    def __init__(self) -> None:
        self._octets = OctetCounter()
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._downgrader: Downgrader | None = None

    def feed(self, chunk: bytes) -> None:
        """Count a chunk."""
        self._octets.feed(chunk)
        if self._downgrader is None:
            self._buffer.append(chunk)
            self._buffered += len(chunk)
            if chunk.isascii() and self._buffered <= _MAX_BUFFERED:
                return
            self._downgrader = Downgrader()
            for buffered in self._buffer:
                self._downgrader.feed(buffered)
            self._buffer.clear()
        else:
            self._downgrader.feed(chunk)

    def finish(self) -> Sizes:
        """Return the sizes of the message."""
        octets = self._octets.finish()
        downgrader = self._downgrader
        if downgrader is None:
            return Sizes(octets, None, self._octets.has_blank_line)
        downgrader.finish()
        downgraded = octets + downgrader.octets_gained if downgrader.changed else None
        if downgrader.exceeded_limits:
            downgraded = 0
        return Sizes(octets, downgraded, self._octets.has_blank_line)


def measure(chunks: Iterable[bytes]) -> Sizes:
    """Return the sizes of a message."""
    counter = MessageCounter()
    for chunk in chunks:
        counter.feed(chunk)
    return counter.finish()
