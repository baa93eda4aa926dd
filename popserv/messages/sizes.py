"""The sizes of a message: the octets of its wire form and of its downgraded form."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from popserv.messages.downgrade import Downgrader
from popserv.messages.octets import OctetCounter

_EARLY = 1 << 20
"""Octets of ASCII that a counter keeps before it looks for the structure."""


class Sizes(NamedTuple):
    """The octets of a message's wire form, and of its downgraded form if that differs.

    A message that has no such form, for what it has to downgrade is beyond the bounds, has
    0 octets of it.  ``header_ends`` tells whether there is an empty line, which ends a
    header.
    """

    octets: int
    downgraded: int | None
    has_blank_line: bool = True


class MessageCounter:
    """Count a message's octets as it is and as downgraded, chunk by chunk.

    Costs next to nothing beyond :class:`~popserv.messages.octets.OctetCounter` while a message
    is ASCII.
    """

    def __init__(self) -> None:
        self._octets = OctetCounter()
        self._early: list[bytes] = []
        self._kept = 0
        self._downgrader: Downgrader | None = None

    def feed(self, chunk: bytes) -> None:
        """Count a chunk."""
        self._octets.feed(chunk)
        if self._downgrader is None:
            self._early.append(chunk)
            self._kept += len(chunk)
            if chunk.isascii() and self._kept <= _EARLY:
                return
            self._downgrader = Downgrader()
            for early in self._early:
                self._downgrader.feed(early)
            self._early.clear()
        else:
            self._downgrader.feed(chunk)

    def finish(self) -> Sizes:
        """Return the sizes."""
        octets = self._octets.finish()
        downgrader = self._downgrader
        if downgrader is None:
            return Sizes(octets, None, self._octets.has_blank_line)
        downgrader.finish()
        downgraded = octets + downgrader.gained if downgrader.changed else None
        if downgrader.fell_short:
            downgraded = 0
        return Sizes(octets, downgraded, self._octets.has_blank_line)


def measure(chunks: Iterable[bytes]) -> Sizes:
    """Return the sizes of a message."""
    counter = MessageCounter()
    for chunk in chunks:
        counter.feed(chunk)
    return counter.finish()
