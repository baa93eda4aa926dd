"""Passwords that were verified a while ago, and need not be verified again."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from hashlib import blake2b
from hmac import compare_digest
from typing import Generic, TypeVar

T = TypeVar("T")


class RememberedPasswords(Generic[T]):
    """Remembers what was said about passwords, for some seconds.

    For each key, which is all on which the answer depends besides the password, the last password
    counts.  The ``seconds`` begin before somebody is asked, and no use extends them: what was
    changed elsewhere counts within that time.  With 0 nothing is remembered.  At most
    ``max_entries`` are kept; the oldest is evicted.

    Keys and passwords are kept as digests, made with a random key that exists in this process only.
    """

    def __init__(
        self,
        seconds: float = 0.0,
        *,
        max_entries: int = 10_000,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seconds = seconds
        self._max_entries = max_entries
        self._now = now
        self._secret = os.urandom(32)
        self._entries: OrderedDict[bytes, tuple[bytes, float, T]] = OrderedDict()
        self._generation = 0

    def sizes(self) -> Mapping[str, int]:
        """Return the number of passwords; see ICaching."""
        return {"passwords": len(self._entries)}

    def find(self, key: bytes, password: bytes) -> T | None:
        """Return what was said about a password, unless that is too long ago, or None."""
        digest, at, said = self._entries.get(self._digest(key), (b"", 0.0, None))
        if said is None or self._now() - at >= self.seconds:
            return None
        return said if compare_digest(digest, self._digest(password)) else None

    def begin(self) -> tuple[float, int]:
        """Return the moment at which somebody is asked, for :meth:`add`."""
        return self._now(), self._generation

    def add(self, key: bytes, password: bytes, said: T, begun: tuple[float, int]) -> None:
        """Remember what was said, unless :meth:`clear` was called after ``begun``."""
        at, generation = begun
        earliest = self._now() - self.seconds
        if generation != self._generation or at <= earliest:
            return
        entries = self._entries
        digest = self._digest(key)
        entries[digest] = self._digest(password), at, said
        entries.move_to_end(digest)
        while len(entries) > self._max_entries or next(iter(entries.values()))[1] <= earliest:
            entries.popitem(last=False)

    def clear(self) -> None:
        """Forget everything, also what is being asked now."""
        self._generation += 1
        self._entries.clear()

    def _digest(self, text: bytes) -> bytes:
        return blake2b(text, key=self._secret, digest_size=16).digest()
