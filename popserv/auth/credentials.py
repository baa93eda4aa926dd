"""What a client brings to prove who it is, beyond what twisted.cred has."""

from __future__ import annotations

from hashlib import md5
from hmac import compare_digest

from zope.interface import implementer

from popserv.interfaces import IAPOPCredentials


@implementer(IAPOPCredentials)
class APOPCredentials:
    """A digest of the greeting's timestamp and a shared secret (RFC 1725 section 7)."""

    def __init__(self, username: bytes, timestamp: bytes, digest: bytes) -> None:
        self.username = username
        self._timestamp = timestamp
        self._digest = digest

    def check_secret(self, secret: bytes) -> bool:
        """Tell whether the digest is the one of this secret: 32 lower-case hex digits."""
        right = md5(self._timestamp + secret, usedforsecurity=False).hexdigest()
        return compare_digest(right.encode("ascii"), self._digest)
