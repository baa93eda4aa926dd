"""The interface of a token verifier, and the errors that it raises.

A verifier decides whether a bearer token is valid, and returns the token's claims.
:class:`popserv.auth.oauth.checker.TokenChecker` finds the user's name in these claims.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any

from zope.interface import Interface


class InvalidToken(Exception):
    """The token is rejected.

    The message is written to the log, where it completes the sentence "the token ...".  It must
    not contain the token or a part of it.  ``status`` is the error code that is sent to the
    client (RFC 6750 section 3.1).
    """

    status = "invalid_token"


class InsufficientScope(InvalidToken):
    """The token is valid, but does not have the required scope."""

    status = "insufficient_scope"


class ITokenVerifier(Interface):
    """Verifies bearer tokens."""

    def verify(token: bytes) -> Awaitable[Mapping[str, Any]]:
        """Return the claims of a valid token (RFC 7519 section 4, RFC 7662 section 2.2).

        :raises InvalidToken: the token is not valid; trying again does not help.
        :raises popserv.auth.oauth.provider.ProviderError: the token cannot be verified now.
        :raises popserv.errors.POPError: the token cannot be verified now; the error has a text
            for the client.
        """
