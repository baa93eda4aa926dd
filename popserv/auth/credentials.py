"""What a client brings to prove who it is, beyond what twisted.cred has."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import md5
from hmac import HMAC, compare_digest

from twisted.cred.credentials import IUsernameHashedPassword
from zope.interface import implementer

from popserv.interfaces import IAPOPCredentials, ICertificateCredentials, IRemoteUserCredentials


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


@implementer(IUsernameHashedPassword)
class CramMD5Credentials:
    """A digest of a challenge and a password that the server knows (RFC 2195)."""

    def __init__(self, username: bytes, challenge: bytes, digest: bytes) -> None:
        self.username = username
        self._challenge = challenge
        self._digest = digest

    def checkPassword(self, password: bytes) -> bool:
        """Tell whether the digest is the one of this password: 32 lower-case hex digits."""
        right = HMAC(password, self._challenge, "md5").hexdigest()
        return compare_digest(right.encode("ascii"), self._digest)


@implementer(ICertificateCredentials)
class CertificateCredentials:
    """The names in a verified client certificate, and the one among them to log in as."""

    def __init__(self, names: Sequence[bytes], username: bytes) -> None:
        self.names = names
        self.username = username


@implementer(IRemoteUserCredentials)
class RemoteUserCredentials:
    """A user of the client's host, by that host's word, who asks for a maildrop (RFC 1225, RPOP).

    ``host`` and ``port`` are the client's, as the server sees them.
    """

    def __init__(self, username: bytes, remote_user: bytes, host: str, port: int) -> None:
        self.username = username
        self.remote_user = remote_user
        self.host = host
        self.port = port
