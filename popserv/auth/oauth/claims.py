"""What a bearer token looks like, and what its claims must say."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from popserv.auth.oauth.verifier import InvalidToken

MAX_TOKEN = 1 << 16
"""The longest token, in octets; longer ones are refused before anything is computed."""

LEEWAY = 30.0
"""Seconds that the provider's clock and ours may differ."""

Now = Callable[[], float]
"""A clock in seconds since the epoch."""


_LAST_SECOND = 1 << 40
"""More than any time in seconds, and less than today's in milliseconds."""


_BEARER = re.compile(rb"[A-Za-z0-9._~+/-]+=*")


def check_form(token: bytes) -> None:
    """Raise InvalidToken if it is no bearer token (RFC 6750 section 2.1), or is a huge one."""
    if len(token) > MAX_TOKEN:
        raise InvalidToken("is too long")
    if not _BEARER.fullmatch(token):
        raise InvalidToken("is of no token's form")


class Demands(NamedTuple):
    """What a token's claims must say besides being in time.

    ``issuer`` is who must have issued it, None for anybody; ``audience`` for whom,
    one of these or, if it is empty, anybody.
    """

    issuer: str | None = None
    audience: tuple[str, ...] = ()
    leeway: float = LEEWAY

    def check(self, claims: Mapping[str, Any], now: float) -> None:
        """Raise InvalidToken unless claims that are known to be true meet the demands.

        ``exp`` is the first second at which the token is no longer good (RFC 7519 section
        4.1.4), ``nbf`` the first at which it is, ``iat`` when it was made.
        """
        expires = _seconds(claims, "exp")
        if expires is not None and now >= expires + self.leeway:
            raise InvalidToken("has expired")
        for name in ("nbf", "iat"):
            since = _seconds(claims, name)
            if since is not None and now < since - self.leeway:
                raise InvalidToken(f"is not valid yet, by its {name}")
        issuer, audience = claims.get("iss"), claims.get("aud")
        if self.issuer is not None and issuer != self.issuer:
            raise InvalidToken(f"is from the issuer {issuer!r:.200}")
        if self.audience:
            among = audience if isinstance(audience, list) else [audience]
            if not any(each in among for each in self.audience):
                raise InvalidToken(f"is for the audience {audience!r:.200}")


def _seconds(claims: Mapping[str, Any], name: str) -> float | None:
    """Return a time that a claim says (RFC 7519 section 2, NumericDate), or None."""
    value = claims.get(name)
    if value is None:
        return None
    # A bool is an int to Python; and NaN, which its JSON knows, is within no bounds.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value < _LAST_SECOND:
        raise InvalidToken(f"has an {name} that is no time")
    return float(value)


def _several(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)
