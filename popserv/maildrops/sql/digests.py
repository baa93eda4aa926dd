"""The digests of messages as stored: SHA-256, which processors calculate, and sha256sum prints."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import _Hash


def new_digest() -> _Hash:
    """Return the hash of which digests are made; they have 32 octets."""
    return sha256()


def digest_of(octets: bytes) -> bytes:
    """Return the digest of octets."""
    return sha256(octets).digest()
