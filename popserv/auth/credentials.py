"""Credentials for APOP, CRAM-MD5, TLS client certificates and RPOP, and their kinds."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import md5
from hmac import HMAC, compare_digest

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernameHashedPassword, IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from zope.interface import implementer

from popserv.auth.hmac_md5 import hmac_md5
from popserv.interfaces import (
    IAPOPCredentials,
    ICertificateCredentials,
    ICramMD5Credentials,
    IRemoteUserCredentials,
    IScramSHA1Credentials,
    IScramSHA256Credentials,
)

FOR_SOME = (IUsernamePassword, IAPOPCredentials, ICertificateCredentials)
FOR_ALL = (IScramSHA256Credentials, IScramSHA1Credentials, IUsernameHashedPassword)
NAMED = (*FOR_SOME, *FOR_ALL)
"""The kinds of credentials that come with the name of a user.

Those for all are supported only if they can work for all users, because clients try no other
mechanism after one that has failed.
"""


def is_named(checker: ICredentialsChecker) -> bool:
    """Return whether a checker accepts a kind of credentials with a name."""
    return any(kind in NAMED for kind in checker.credentialInterfaces)


@implementer(IAPOPCredentials)
class APOPCredentials:
    """APOP's digest of the timestamp in the greeting and a shared secret (RFC 1725 section 7).

    ``digest`` is the digest that the client sent.
    """

    def __init__(self, username: bytes, timestamp: bytes, digest: bytes) -> None:
        self.username = username
        self.timestamp = timestamp
        self.digest = digest

    def check_secret(self, secret: bytes) -> bool:
        """Return whether the client's digest is that of the secret, in lower-case hexadecimal."""
        expected = md5(self.timestamp + secret, usedforsecurity=False).hexdigest()
        return compare_digest(expected.encode("ascii"), self.digest)


@implementer(ICramMD5Credentials)
class CramMD5Credentials:
    """CRAM-MD5's digest of the server's challenge and the password (RFC 2195).

    ``digest`` is the digest that the client sent.
    """

    def __init__(self, username: bytes, challenge: bytes, digest: bytes) -> None:
        self.username = username
        self._challenge = challenge
        self._digest = digest

    def checkPassword(self, password: bytes) -> bool:
        """Return whether the client's digest is that of the password, in lower-case hexadecimal."""
        expected = HMAC(password, self._challenge, "md5").hexdigest()
        return compare_digest(expected.encode("ascii"), self._digest)

    def check_context(self, context: bytes) -> bool:
        """See :class:`popserv.interfaces.ICramMD5Credentials`."""
        expected = hmac_md5(context, self._challenge).hex()
        return compare_digest(expected.encode("ascii"), self._digest)


@implementer(ICertificateCredentials)
class CertificateCredentials:
    """The names by which the owner of a verified TLS client certificate may log in.

    ``username`` is the only one of them, or empty if the client did not name a user.
    """

    def __init__(self, names: Sequence[bytes], username: bytes = b"") -> None:
        self.names = names
        self.username = username


class ExchangeAborted(UnauthorizedLogin):
    """The client has ended an exchange before it proved anything; the message says how."""


IPPORT_RESERVED = 1024
"""Ports below this one can be used by privileged processes only (RFC 1225, RPOP)."""


@implementer(IRemoteUserCredentials)
class RemoteUserCredentials:
    """RPOP's credentials: the name of a user on the client's host (RFC 1225, RPOP).

    ``username`` is the user whose maildrop the client requests.  ``remote_user`` is the user on
    the client's host, according to that host.  ``host`` and ``port`` are the client's IP address
    and TCP port.
    """

    def __init__(self, username: bytes, remote_user: bytes, host: str, port: int) -> None:
        self.username = username
        self.remote_user = remote_user
        self.host = host
        self.port = port
