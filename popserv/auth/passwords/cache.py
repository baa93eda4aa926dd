"""Passwords that were right a while ago, so that a client that polls pays for one hash an hour."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b


class VerifiedPasswordCache:
    """Remembers that a password is the one of a password field, but neither of them.

    What is kept are digests under a key that only this process knows, of at most
    ``most`` logins and for ``seconds`` each.  A field that has changed is another field.
    """

    def __init__(
        self,
        *,
        seconds: float = 3600,
        most: int = 10_000,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds = seconds
        self._most = most
        self._now = now
        self._key = os.urandom(32)
        # In the order of their ends.
        self._ends: OrderedDict[bytes, float] = OrderedDict()

    def add(self, field: bytes, password: bytes) -> None:
        """Remember that this password was verified."""
        digest = self._digest(field, password)
        self._ends[digest] = self._now() + self._seconds
        self._ends.move_to_end(digest)
        while len(self._ends) > self._most or next(iter(self._ends.values())) <= self._now():
            self._ends.popitem(last=False)

    def holds(self, field: bytes, password: bytes) -> bool:
        """Tell whether it was, not too long ago."""
        return self._ends.get(self._digest(field, password), 0) > self._now()

    def _digest(self, field: bytes, password: bytes) -> bytes:
        # The length parts the two, whatever is in them.
        text = b"%d:%b%b" % (len(field), field, password)
        return blake2b(text, key=self._key, digest_size=16).digest()
