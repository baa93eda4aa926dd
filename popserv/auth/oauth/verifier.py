"""What a verifier of bearer tokens is: its interface, and its errors."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any

from zope.interface import Interface


class InvalidToken(Exception):
    """The token opens nothing.

    The text, for the log, goes on where "the token" begins a sentence; ``status`` is
    the error for the client (RFC 6750 section 3.1).
    """

    status = "invalid_token"


class InsufficientScope(InvalidToken):
    """The token is good, but not for this."""

    status = "insufficient_scope"


class ITokenVerifier(Interface):
    """Tells whether a bearer token is good."""

    def verify(token: bytes) -> Awaitable[Mapping[str, Any]]:
        """Return the claims of a good token (RFC 7519 section 4, RFC 7662 section 2.2).

        :raises InvalidToken: it is not good, and will not be.
        :raises popserv.auth.oauth.provider.ProviderError: nobody can tell now.
        :raises popserv.errors.POPError: likewise, with a text for the client.
        """
