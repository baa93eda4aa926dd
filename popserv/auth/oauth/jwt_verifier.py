"""The verifier of tokens that are signed JWTs (RFC 7519)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cryptography.hazmat.backends import default_backend
from jwt import PyJWS, PyJWTError
from zope.interface import implementer

from popserv.auth.oauth.claims import LEEWAY, RequiredClaims, check_syntax
from popserv.auth.oauth.jwks import ALGORITHMS, KeySource
from popserv.auth.oauth.provider import ProviderError, parse_json_object
from popserv.auth.oauth.verifier import InvalidToken, ITokenVerifier

# Signatures require it; later, the process may not be able to read Python's files.
default_backend()


@implementer(ITokenVerifier)
class JWTVerifier:
    """Verifies JWTs that the provider has signed (RFC 7519, RFC 7515, RFC 8725).

    ``keys`` provides the public keys.  ``issuer`` is the required issuer.  ``audience`` is one
    audience or several; a token must be for at least one of them.  ``algorithms`` are the names
    of the accepted algorithms, out of :data:`popserv.auth.oauth.jwks.ALGORITHMS`.  ``typ``, if
    given, is the type that the header of a token must have, such as ``at+jwt`` (RFC 9068).
    ``leeway`` is the accepted difference between clocks, in seconds; ``now`` is a clock in seconds
    since the epoch.

    Signatures are verified in the reactor's thread.  A typical token takes 60 to 400 microseconds
    and one of the maximum size 3 milliseconds, about as long as to pass it to a thread and back.

    :raises ValueError: the audience is empty, or an algorithm is not supported.
    """

    def __init__(
        self,
        keys: KeySource,
        *,
        issuer: str,
        audience: str | Sequence[str],
        algorithms: Sequence[str] = tuple(ALGORITHMS),
        typ: str | None = None,
        leeway: float = LEEWAY,
        now: Callable[[], float] = time.time,
    ) -> None:
        unsupported = [name for name in algorithms if name not in ALGORITHMS]
        if unsupported or not algorithms:
            raise ValueError(f"algorithms must be some of {' '.join(ALGORITHMS)}")
        if not audience:
            raise ValueError("audience must not be empty")
        self._keys = keys
        self._required_claims = RequiredClaims(issuer, audience, leeway)
        # This object rejects every other algorithm, even if a token or a call names it.
        self._jws = PyJWS(algorithms=list(algorithms))
        self._algorithms = frozenset(algorithms)
        self._typ = typ and _normalized_typ(typ)
        self._now = now

    async def verify(self, token: bytes) -> Mapping[str, Any]:
        """Verify the signature and the claims; see :class:`ITokenVerifier`.

        A token without an expiration time (``exp``) is rejected.
        """
        check_syntax(token)
        kid, algorithm = self._parse_header(token)
        keys = await self._keys.find(kid, algorithm)
        if not keys:
            raise InvalidToken("is signed with a key that is not in the provider's JWK Set")
        claims = self._verify_signature(token, keys, algorithm)
        if claims.get("exp") is None:
            raise InvalidToken("has no exp claim and would never expire")
        self._required_claims.check(claims, self._now())
        return claims

    async def check_keys(self) -> None:
        """Check that there is a key with which a token could be verified.

        :raises ProviderError: there is none, or the keys are unavailable.
        """
        for algorithm in sorted(self._algorithms):
            if await self._keys.find(None, algorithm):
                return
        allowed = ", ".join(sorted(self._algorithms))
        raise ProviderError(f"the provider's JWK Set has no key for the algorithms {allowed}")

    def _parse_header(self, token: bytes) -> tuple[str | None, str]:
        """Return the key ID, if there is one, and the algorithm, which are not verified yet."""
        # Older releases of PyJWT accept more than three parts.
        if token.count(b".") != 2:
            raise InvalidToken("is not a signed JWT")
        try:
            header = self._jws.get_unverified_header(token)
        except (PyJWTError, ValueError, RecursionError):
            raise InvalidToken("is not a signed JWT") from None
        # Critical extensions must be understood (RFC 7515 section 4.1.11); none is supported.
        if "crit" in header:
            raise InvalidToken("has the unsupported header parameter 'crit'")
        algorithm = header.get("alg")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            raise InvalidToken("is signed with an algorithm that is not allowed")
        if self._typ:
            typ = header.get("typ")
            if not isinstance(typ, str) or _normalized_typ(typ) != self._typ:
                raise InvalidToken("has the wrong typ")
        return header.get("kid"), algorithm

    def _verify_signature(
        self, token: bytes, keys: Sequence[Any], algorithm: str
    ) -> dict[str, Any]:
        """Return the claims of a token that was signed with one of the keys."""
        for key in keys:
            try:
                return parse_json_object(self._jws.decode(token, key, [algorithm]))
            except PyJWTError:
                continue
            except ValueError:
                raise InvalidToken("has claims that are not a JSON object") from None
        raise InvalidToken("has an invalid signature")


def _normalized_typ(typ: str) -> str:
    """Return a ``typ`` in the short form that RFC 7515 section 4.1.9 recommends."""
    return typ.lower().removeprefix("application/")
