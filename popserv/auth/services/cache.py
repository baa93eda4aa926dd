"""Passwords that another program has verified a moment ago."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from hashlib import blake2b
from hmac import compare_digest
from typing import Generic, TypeVar

T = TypeVar("T")


class RememberedPasswords(Generic[T]):
    """Remembers what a program has said about passwords, for some seconds.

    A password is kept as a digest, made with a random key that exists in this process only.  The
    seconds begin before the program is asked, and no use extends them: what was changed elsewhere
    counts within that time.  For each key, which is the name and all that the program was told
    besides, the last password counts.  At most ``max_entries`` are kept; the oldest is evicted.
    """

    def __init__(
        self, *, max_entries: int = 10_000, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_entries = max_entries
        self._now = now
        self._secret = os.urandom(32)
        self._entries: OrderedDict[Hashable, tuple[bytes, float, T]] = OrderedDict()
        self._generation = 0

    def find(self, key: Hashable, password: bytes, seconds: float) -> T | None:
        """Return what was said about a password no more than some seconds ago, or None."""
        digest, at, said = self._entries.get(key, (b"", 0.0, None))
        if said is None or self._now() - at >= seconds:
            return None
        return said if compare_digest(digest, self._digest(password)) else None

    def begin(self) -> tuple[float, int]:
        """Return the moment at which a program is asked, for :meth:`add`."""
        return self._now(), self._generation

    def add(self, key: Hashable, password: bytes, said: T, begun: tuple[float, int]) -> None:
        """Remember what was said, unless :meth:`clear` was called after ``begun``."""
        at, generation = begun
        if generation == self._generation:
            self._entries[key] = self._digest(password), at, said
            self._entries.move_to_end(key)
            if len(self._entries) > self._max_entries:
                self._entries.popitem(last=False)

    def clear(self) -> None:
        """Forget everything, also what is being asked now."""
        self._generation += 1
        self._entries.clear()

    def _digest(self, password: bytes) -> bytes:
        return blake2b(password, key=self._secret, digest_size=16).digest()
