"""What is recorded of a message when it is delivered: its sizes, and a digest."""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

from popserv.messages.downgrade.downgrader import Downgrader
from popserv.messages.octets import count_message
from popserv.messages.sizes import MessageCounter
from popserv.runtime.threads import RunInThread

_DIGEST_OCTETS = 32

_CHUNK = 1 << 16
"""Octets that are examined without a thread, and in one step in a thread."""


class Contents(NamedTuple):
    """The columns of a message that depend on its octets, in the order of the statements."""

    octets: int
    downgraded: int | None
    stored: int
    header_ends: bool
    digest: bytes


def digest_of(body: bytes) -> bytes:
    """Return the digest of a message as stored."""
    return blake2b(body, digest_size=_DIGEST_OCTETS).digest()


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
    digest = blake2b(digest_size=_DIGEST_OCTETS)
    for at in range(0, len(body), _CHUNK):
        chunk = body[at : at + _CHUNK]
        counter.feed(chunk)
        digest.update(chunk)
    sizes = counter.finish()
    return Contents(
        sizes.octets, sizes.downgraded, len(body), sizes.has_blank_line, digest.digest()
    )
