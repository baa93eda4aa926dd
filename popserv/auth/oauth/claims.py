"""The syntax of a bearer token, and the claims that a token must have."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from popserv.auth.oauth.verifier import InvalidToken

MAX_TOKEN_OCTETS = 1 << 16
"""The maximum octets of a token; a longer one is rejected before anything is computed from it."""

LEEWAY = 30.0
"""The accepted difference between the provider's clock and this machine's, in seconds."""

# Later than every time in seconds since the epoch, earlier than today in milliseconds.
_MAX_SECONDS = 1 << 40

_BEARER_TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*")


def check_syntax(token: bytes) -> None:
    """Check that the octets are a bearer token (RFC 6750 section 2.1).

    :raises InvalidToken: they are not, or there are more than ``MAX_TOKEN_OCTETS``.
    """
    if len(token) > MAX_TOKEN_OCTETS:
        raise InvalidToken("is too long")
    if not _BEARER_TOKEN.fullmatch(token):
        raise InvalidToken("is not a bearer token")


class RequiredClaims:
    """The issuer, the audience and the times that a valid token must have.

    ``issuer`` is the required issuer, or None to accept any.  ``audience`` is one audience or
    several; the token must be for at least one of them.  An empty sequence accepts any.
    ``leeway`` is the accepted difference between clocks, in seconds.
    """

    def __init__(
        self,
        issuer: str | None = None,
        audience: str | Sequence[str] = (),
        leeway: float = LEEWAY,
    ) -> None:
        self._issuer = issuer
        self._audiences = (audience,) if isinstance(audience, str) else tuple(audience)
        self._leeway = leeway

    def check(self, claims: Mapping[str, Any], now: float) -> None:
        """Check claims whose origin is verified already; ``now`` is in seconds since the epoch.

        A token is valid before its ``exp``, and from its ``nbf`` and its ``iat`` on (RFC 7519
        section 4.1).  A time that the claims lack is not checked.

        :raises InvalidToken: a claim does not match.
        """
        expires = _time(claims, "exp")
        if expires is not None and now >= expires + self._leeway:
            raise InvalidToken("has expired")
        for name in ("nbf", "iat"):
            valid_from = _time(claims, name)
            if valid_from is not None and now < valid_from - self._leeway:
                raise InvalidToken(f"is not valid yet according to its {name} claim")
        issuer, audience = claims.get("iss"), claims.get("aud")
        if self._issuer is not None and issuer != self._issuer:
            raise InvalidToken(f"has the wrong issuer {issuer!r:.200}")
        if self._audiences:
            audiences = audience if isinstance(audience, list) else [audience]
            if not any(accepted in audiences for accepted in self._audiences):
                raise InvalidToken(f"has the wrong audience {audience!r:.200}")


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    """Return the time in a claim (NumericDate, RFC 7519 section 2), or None if it is missing."""
    value = claims.get(name)
    if value is None:
        return None
    # To Python a bool is an int.  Its JSON decoder accepts NaN, which fails both comparisons.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value < _MAX_SECONDS:
        raise InvalidToken(f"has an invalid {name} claim")
    return float(value)
