"""The mechanisms OAUTHBEARER (RFC 7628) and XOAUTH2, which send a bearer token (RFC 6750)."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress

from zope.interface import implementer

from popserv.auth.sasl.gs2 import SASLNAME, decode_saslname
from popserv.core.session import SendChallenge, Session
from popserv.errors import BadCommand, POPError
from popserv.interfaces import ITokenCredentials

# RFC 5801 section 4, without channel binding.  The authzid may be empty, as in SCRAM.
_GS2_HEADER = re.compile(rb"[ny],(?:a=(%b)?)?," % SASLNAME)


@implementer(ITokenCredentials)
class TokenCredentials:
    """A bearer token, and the exchange in which it can be refused with a reason."""

    def __init__(self, username: bytes, token: bytes, send_challenge: SendChallenge) -> None:
        self.username = username
        self.token = token
        self._send_challenge = send_challenge

    async def refuse(self, reason: Mapping[str, str]) -> None:
        """See :class:`popserv.interfaces.ITokenCredentials`.

        The client's response is ignored: the login has failed already.
        """
        with suppress(POPError):
            await self._send_challenge(json.dumps(dict(reason)).encode("ascii"))


async def oauthbearer_exchange(
    send_challenge: SendChallenge, session: Session, offered: Container[bytes]
) -> TokenCredentials:
    """Run an exchange of OAUTHBEARER (RFC 7628 section 3.1).

    See :data:`popserv.auth.sasl.mechanisms.Exchange`.
    """
    header, *pairs = (await send_challenge(b"")).split(b"\x01")
    match = _GS2_HEADER.fullmatch(header)
    if match is None:
        raise BadCommand("malformed OAUTHBEARER response")
    return TokenCredentials(
        decode_saslname(match[1] or b""), _parse_bearer_token(pairs), send_challenge
    )


async def xoauth2_exchange(
    send_challenge: SendChallenge, session: Session, offered: Container[bytes]
) -> TokenCredentials:
    """Run an exchange of XOAUTH2, the predecessor of OAUTHBEARER.

    The clients of Google and Microsoft use it.  See
    :data:`popserv.auth.sasl.mechanisms.Exchange`.
    """
    user, *pairs = (await send_challenge(b"")).split(b"\x01")
    if not user.startswith(b"user="):
        raise BadCommand("malformed XOAUTH2 response")
    return TokenCredentials(user.removeprefix(b"user="), _parse_bearer_token(pairs), send_challenge)


def _parse_bearer_token(pairs: Sequence[bytes]) -> bytes:
    """Return the token of key=value pairs, which two empty strings must follow."""
    values = [pair.removeprefix(b"auth=") for pair in pairs if pair.startswith(b"auth=")]
    scheme, _, token = values[0].partition(b" ") if len(values) == 1 else (b"", b"", b"")
    if list(pairs[-2:]) != [b"", b""] or scheme.lower() != b"bearer" or not token.strip():
        raise BadCommand("malformed bearer token")
    return token.strip()
