"""The verifier of JWTs (RFC 7519)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from jwt import PyJWS, PyJWTError
from zope.interface import implementer

from popserv.auth.oauth.claims import LEEWAY, Demands, Now, _several, check_form
from popserv.auth.oauth.jwks import ALGORITHMS, KeySource
from popserv.auth.oauth.provider import parse_object
from popserv.auth.oauth.verifier import InvalidToken, ITokenVerifier


@implementer(ITokenVerifier)
class JWTVerifier:
    """Verifies JWTs that are signed by a provider's key (RFC 7519, RFC 7515, RFC 8725).

    ``audience`` is who a token may be for, one or several; ``algorithms`` are the
    names of those allowed, out of :data:`ALGORITHMS`; ``typ``, if given, what the header
    must say of itself, such as ``at+jwt`` (RFC 9068).

    A token costs 60 to 400 microseconds and one of ``MAX_TOKEN`` octets 3 milliseconds,
    about what the way to a thread and back costs, so the reactor's thread verifies it.

    :raises ValueError: nobody is the audience, or an algorithm is none of ours.
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
        now: Now = time.time,
    ) -> None:
        unknown = [name for name in algorithms if name not in ALGORITHMS]
        if unknown or not algorithms:
            raise ValueError(f"algorithms must be some of {' '.join(ALGORITHMS)}")
        if not audience:
            raise ValueError("audience must be somebody")
        self._keys = keys
        self._demands = Demands(issuer, _several(audience), leeway)
        # It has no other algorithm then, whatever a token or a call may say.
        self._jws = PyJWS(algorithms=list(algorithms))
        self._algorithms = frozenset(algorithms)
        self._typ = typ and _media_type(typ)
        self._now = now

    async def verify(self, token: bytes) -> Mapping[str, Any]:
        """Return the claims of a token that is signed, in time, and meant for us."""
        check_form(token)
        kid, algorithm = self._read_header(token)
        keys = await self._keys.find(kid, algorithm)
        if not keys:
            raise InvalidToken("is signed by a key that the provider does not have")
        claims = self._open(token, keys, algorithm)
        if claims.get("exp") is None:
            raise InvalidToken("has no exp: it would be good for ever")
        self._demands.check(claims, self._now())
        return claims

    def _read_header(self, token: bytes) -> tuple[str | None, str]:
        """Return the key's name, if there is one, and the algorithm; nothing of it is proven."""
        # Older releases of PyJWT take more parts than three.
        if token.count(b".") != 2:
            raise InvalidToken("is no signed JWT")
        try:
            header = self._jws.get_unverified_header(token)
        except (PyJWTError, ValueError, RecursionError):
            raise InvalidToken("is no signed JWT") from None
        # Whatever it is, it must be understood (RFC 7515 section 4.1.11), and we know none.
        if "crit" in header:
            raise InvalidToken("has a header 'crit'")
        algorithm = header.get("alg")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            raise InvalidToken("is signed by an algorithm that is not allowed")
        if self._typ:
            given = header.get("typ")
            if not isinstance(given, str) or _media_type(given) != self._typ:
                raise InvalidToken("is of another type")
        return header.get("kid"), algorithm

    def _open(self, token: bytes, keys: Sequence[Any], algorithm: str) -> dict[str, Any]:
        """Return the claims of a token that one of the keys has signed."""
        for key in keys:
            try:
                return parse_object(self._jws.decode(token, key, [algorithm]))
            except PyJWTError:
                continue
            except ValueError:
                raise InvalidToken("holds no claims") from None
        raise InvalidToken("has a wrong signature")


def _media_type(text: str) -> str:
    """Return a ``typ`` in the one of its forms that RFC 7515 section 4.1.9 recommends."""
    return text.lower().removeprefix("application/")
