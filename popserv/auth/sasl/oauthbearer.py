"""OAUTHBEARER (RFC 7628) and XOAUTH2."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress

from zope.interface import implementer

from popserv.auth.sasl.gs2 import unescape
from popserv.core.session import SendChallenge, Session
from popserv.errors import BadCommand, POPError
from popserv.interfaces import ITokenCredentials


@implementer(ITokenCredentials)
class TokenCredentials:
    """A bearer token, and the dialogue to refuse it in."""

    def __init__(self, username: bytes, token: bytes, send_challenge: SendChallenge) -> None:
        self.username = username
        self.token = token
        self._ask = send_challenge

    async def refuse(self, reason: Mapping[str, str]) -> None:
        """See ITokenCredentials; whatever the client answers, the login has failed."""
        with suppress(POPError):
            await self._ask(json.dumps(dict(reason)).encode("ascii"))


# RFC 5801 section 4, without channel binding; as in SCRAM an authzid may be empty.
_GS2_HEADER = re.compile(rb"[ny],(?:a=((?:[^\x00,=]|=2C|=3D)*))?,")


async def oauthbearer(
    send_challenge: SendChallenge, session: Session, offered: Container[bytes]
) -> TokenCredentials:
    """OAUTHBEARER (RFC 7628 section 3.1)."""
    header, *pairs = (await send_challenge(b"")).split(b"\x01")
    found = _GS2_HEADER.fullmatch(header)
    if found is None:
        raise BadCommand("malformed OAUTHBEARER response")
    return TokenCredentials(unescape(found[1] or b""), _bearer(pairs), send_challenge)


async def xoauth2(
    send_challenge: SendChallenge, session: Session, offered: Container[bytes]
) -> TokenCredentials:
    """XOAUTH2: what OAUTHBEARER grew from, and what Microsoft's and Google's clients speak."""
    first, *pairs = (await send_challenge(b"")).split(b"\x01")
    if not first.startswith(b"user="):
        raise BadCommand("malformed XOAUTH2 response")
    return TokenCredentials(first.removeprefix(b"user="), _bearer(pairs), send_challenge)


def _bearer(pairs: Sequence[bytes]) -> bytes:
    """Return the token among key=value pairs, the last of which have nothing behind them."""
    found = [pair.removeprefix(b"auth=") for pair in pairs if pair.startswith(b"auth=")]
    kind, _, token = found[0].partition(b" ") if len(found) == 1 else (b"", b"", b"")
    if list(pairs[-2:]) != [b"", b""] or kind.lower() != b"bearer" or not token.strip():
        raise BadCommand("malformed bearer token")
    return token.strip()
