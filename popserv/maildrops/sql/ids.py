"""The ids of messages: UUIDs of version 7 (RFC 9562 section 5.7), made by who delivers."""

from __future__ import annotations

import os
import time
from uuid import UUID

_VERSION = 7 << 76
_VARIANT = 2 << 62
_RANDOM_OCTETS = 10
_RANDOM_BITS = ~(15 << 76 | 3 << 62)


def new_id() -> UUID:
    """Return an id that no other message has: milliseconds since 1970, and 74 random bits.

    Nothing relies on the order of ids: the clocks of machines differ.
    """
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(_RANDOM_OCTETS), "big") & _RANDOM_BITS
    return UUID(int=milliseconds << 80 | _VERSION | _VARIANT | random)


def unique_id_of(id_: UUID) -> bytes:
    """Return the unique-id of a message that has none from elsewhere."""
    return id_.hex.encode("ascii")
