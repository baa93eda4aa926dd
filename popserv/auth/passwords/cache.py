"""A cache of verified passwords: a client that polls causes one password hash an hour."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from hashlib import blake2b


class VerifiedPasswordCache:
    """Records which passwords were verified against which password fields.

    The cache stores neither passwords nor fields, but keyed digests of both.  The key is random
    and exists only in this process.  An entry expires ``lifetime`` seconds after it was added.
    At most ``max_entries`` are kept; the oldest is evicted.  When a user's password field
    changes, entries for the old field no longer match.
    """

    def __init__(
        self,
        *,
        lifetime: float = 3600,
        max_entries: int = 10_000,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lifetime = lifetime
        self._max_entries = max_entries
        self._now = now
        self._key = os.urandom(32)
        # Sorted by expiry time, the earliest first.
        self._expiry_times: OrderedDict[bytes, float] = OrderedDict()

    def sizes(self) -> Mapping[str, int]:
        """Return the number of passwords; see ICaching."""
        return {"passwords": len(self._expiry_times)}

    def add(self, field: bytes, password: bytes) -> None:
        """Record that a password was verified against a password field."""
        digest = self._digest(field, password)
        times = self._expiry_times
        times[digest] = self._now() + self._lifetime
        times.move_to_end(digest)
        while len(times) > self._max_entries or next(iter(times.values())) <= self._now():
            times.popitem(last=False)

    def contains(self, field: bytes, password: bytes) -> bool:
        """Return whether the password was verified against this field within the lifetime."""
        return self._expiry_times.get(self._digest(field, password), 0) > self._now()

    def _digest(self, field: bytes, password: bytes) -> bytes:
        # With its length in front, the field cannot be confused with the password.
        text = b"%d:%b%b" % (len(field), field, password)
        return blake2b(text, key=self._key, digest_size=16).digest()
