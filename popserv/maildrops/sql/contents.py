"""What is recorded of a message when it is delivered: its sizes, and a digest."""

from __future__ import annotations

from typing import BinaryIO, NamedTuple

from popserv.maildrops.sql.digests import digest_of
from popserv.messages.downgrade.downgrader import Downgrader
from popserv.messages.octets import count_message
from popserv.messages.sizes import MessageCounter
from popserv.runtime.threads import RunInThread

_CHUNK = 1 << 16
"""Octets that are examined without a thread, and in one step in a thread."""


class Contents(NamedTuple):
    """The columns of a message that depend on its octets, in the order of the statements."""

    octets: int
    downgraded: int | None
    stored: int
    header_ends: bool
    digest: bytes


async def examine(body: bytes, run: RunInThread) -> Contents:
    """Examine a message; ``run`` calls a function in a thread, for a large one.

    The downgraded form is measured in any case: some servers of the store may have UTF8.
    """
    if len(body) > _CHUNK:
        contents: Contents = await run(_examine, body)
        return contents
    if not body.isascii():
        return _examine(body)
    octets, header_ends = count_message(body)
    return Contents(octets, None, len(body), header_ends, digest_of(body))


def _examine(body: bytes) -> Contents:
    counter = MessageCounter(Downgrader)
    _feed(counter, body)
    return _contents(counter, len(body), digest_of(body))


class ExaminedFile:
    """A file with a message that is examined while somebody reads it, from its start to its end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._counter = MessageCounter(Downgrader)
        self._stored = 0

    def read(self, size: int) -> bytes:
        """Return the next octets, at most ``size``; none at the end.  It takes time for many."""
        octets = self._file.read(size)
        _feed(self._counter, octets)
        self._stored += len(octets)
        return octets

    def contents(self, digest: bytes) -> Contents:
        """Return what was found, once, with the digest of all octets that were read."""
        return _contents(self._counter, self._stored, digest)


def _feed(counter: MessageCounter, octets: bytes) -> None:
    for at in range(0, len(octets), _CHUNK):
        counter.feed(octets[at : at + _CHUNK])


def _contents(counter: MessageCounter, stored: int, digest: bytes) -> Contents:
    sizes = counter.finish()
    return Contents(sizes.octets, sizes.downgraded, stored, sizes.has_blank_line, digest)
