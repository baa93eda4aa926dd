"""Matches the messages of two servers: which message of one is which of the other.

Two messages are the same if their headers are equal, have a Message-ID or Received field, and no
other message of either server has this header.  If several have it, they are the same if that holds
for header and size together.  Otherwise they are the same if all of their contents are equal.

So sizes need not be equal, because some servers estimate them, and whole messages are fetched only
where headers leave a doubt.  Messages with equal contents are interchangeable, and are matched in
order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, Protocol

from popserv.migration.fingerprints import (
    contents_fingerprint,
    header_fields,
    header_fingerprint,
    is_identifying,
)


class Side(Protocol):
    """The messages of one server, by position from 0."""

    @property
    def sizes(self) -> Sequence[int]:
        """The octets of each message, as the server counts them."""

    def header(self, position: int) -> Sequence[bytes]:
        """Return at least the lines of the header of a message."""

    def contents(self, position: int) -> Sequence[bytes]:
        """Return the lines of a message."""


class Matches(NamedTuple):
    """The result: positions of the second side by those of the first.

    ``doubtful`` has the positions of the first side that may be one of several messages, or that
    resemble a message with other contents; ``missing`` those that nothing resembles.
    """

    pairs: dict[int, int]
    doubtful: list[int]
    missing: list[int]


class _Header(NamedTuple):
    fingerprint: bytes
    is_identifying: bool


def match(first: Side, second: Side) -> Matches:
    """Match the messages of two sides."""
    headers = [_headers(side) for side in (first, second)]
    pairs: dict[int, int] = {}
    rest = (list(range(len(first.sizes))), list(range(len(second.sizes))))

    def pair_by(
        key_of: tuple[Callable[[int], Hashable], Callable[[int], Hashable]],
        is_certain: Callable[[list[int], list[int]], bool],
    ) -> None:
        """Pair the rest by a key, where the positions with one key are certain."""
        groups: dict[Hashable, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for side in (0, 1):
            for position in rest[side]:
                groups[key_of[side](position)][side].append(position)
        for ones, others in groups.values():
            if is_certain(ones, others):
                pairs.update(zip(ones, others, strict=False))
        for side, taken in enumerate((set(pairs), set(pairs.values()))):
            rest[side][:] = [position for position in rest[side] if position not in taken]

    def is_sole(ones: list[int], others: list[int]) -> bool:
        return len(ones) == len(others) == 1 and headers[0][ones[0]].is_identifying

    pair_by((lambda at: headers[0][at].fingerprint, lambda at: headers[1][at].fingerprint), is_sole)
    pair_by(
        (
            lambda at: (headers[0][at].fingerprint, first.sizes[at]),
            lambda at: (headers[1][at].fingerprint, second.sizes[at]),
        ),
        is_sole,
    )
    similar = {headers[0][at].fingerprint for at in rest[0]} & {
        headers[1][at].fingerprint for at in rest[1]
    }
    missing = [at for at in rest[0] if headers[0][at].fingerprint not in similar]
    for side in (0, 1):
        rest[side][:] = [at for at in rest[side] if headers[side][at].fingerprint in similar]
    pair_by(
        (
            lambda at: contents_fingerprint(first.contents(at)),
            lambda at: contents_fingerprint(second.contents(at)),
        ),
        lambda ones, others: True,
    )
    return Matches(pairs, rest[0], missing)


def _headers(side: Side) -> list[_Header]:
    found = []
    for position in range(len(side.sizes)):
        fields = header_fields(side.header(position))
        found.append(_Header(header_fingerprint(fields), is_identifying(fields)))
    return found
