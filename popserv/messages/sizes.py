"""Measures a message: the octets of its wire form and of its downgraded form."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from popserv.messages.octets import OctetCounter

if TYPE_CHECKING:
    from popserv.messages.downgrade.downgrader import Downgrader

MakeDowngrader = Callable[[], "Downgrader"]
"""Makes a filter to the downgraded form: :class:`popserv.messages.downgrade.Downgrader`."""

MAX_MESSAGE = 1 << 30
"""The maximum octets of a message that stores count in a file of its own.

A sparse file takes no room, and can have any number of octets: to count those of a single one would
keep a thread busy for hours.  Many smaller ones still do.
"""

_MAX_BUFFERED = 1 << 20
"""The maximum octets of ASCII that a counter buffers before it reads the MIME structure."""


class Sizes(NamedTuple):
    """The octets of a message's wire form and of its downgraded form.

    ``downgraded`` is None if the two forms are the same or the second was not measured, and 0
    if there is none: the message has to be downgraded, but can only be sent as stored.  A message
    without a blank line is header-only: ``has_blank_line`` is false.
    """

    octets: int
    downgraded: int | None
    has_blank_line: bool = True


class MessageCounter:
    """Counts the octets of a message, chunk by chunk; with a downgrader, those of both forms.

    While the message is ASCII, it costs hardly more than an
    :class:`~popserv.messages.octets.OctetCounter`.
    """

    def __init__(self, downgrader: MakeDowngrader | None = None) -> None:
        self._octets = OctetCounter()
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._make_downgrader = downgrader
        self._downgrader: Downgrader | None = None

    def feed(self, chunk: bytes) -> None:
        """Count a chunk."""
        self._octets.feed(chunk)
        if self._downgrader is not None:
            self._downgrader.feed(chunk)
        elif self._make_downgrader is not None:
            self._buffer.append(chunk)
            self._buffered += len(chunk)
            if chunk.isascii() and self._buffered <= _MAX_BUFFERED:
                return
            self._downgrader = self._make_downgrader()
            for buffered in self._buffer:
                self._downgrader.feed(buffered)
            self._buffer.clear()

    def finish(self) -> Sizes:
        """Return the sizes of the message."""
        octets = self._octets.finish()
        downgrader = self._downgrader
        if downgrader is None:
            return Sizes(octets, None, self._octets.has_blank_line)
        downgrader.finish()
        downgraded = octets + downgrader.octets_gained if downgrader.changed else None
        if downgrader.needs_utf8:
            downgraded = 0
        return Sizes(octets, downgraded, self._octets.has_blank_line)


def measure(chunks: Iterable[bytes], downgrader: MakeDowngrader | None = None) -> Sizes:
    """Return the sizes of a message; see :class:`MessageCounter`."""
    counter = MessageCounter(downgrader)
    for chunk in chunks:
        counter.feed(chunk)
    return counter.finish()
