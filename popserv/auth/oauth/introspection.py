"""The verifier that asks the provider (RFC 7662)."""

from __future__ import annotations

import base64
import math
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any
from urllib.parse import quote_plus

from twisted.internet.defer import DeferredSemaphore
from zope.interface import implementer

from popserv.auth.oauth.claims import LEEWAY, Demands, Now, _several, check_form
from popserv.auth.oauth.provider import Provider
from popserv.auth.oauth.verifier import InvalidToken, ITokenVerifier
from popserv.errors import TryLater


@implementer(ITokenVerifier)
class IntrospectionVerifier:
    """Asks the provider about each token (RFC 7662), as the client that it knows us by.

    ``issuer`` and ``audience``, if given, must stand in its answers.  Good answers are
    believed again for ``cache`` seconds, and not beyond a token's own end; without it
    each login asks, so that a token that is revoked is so at once.
    """

    MAX_ASKING = 20
    """Questions at a time."""

    MAX_WAITING = 200
    """Logins that wait to ask; one more is told to try later."""

    MAX_CACHED = 2000
    """Answers that are remembered."""

    def __init__(
        self,
        url: str,
        client_id: str,
        client_secret: str,
        *,
        issuer: str | None = None,
        audience: str | Sequence[str] = (),
        cache: float = 0,
        leeway: float = LEEWAY,
        provider: Provider | None = None,
        now: Now = time.time,
    ) -> None:
        # Each is encoded by itself first, so that a colon parts them (RFC 6749 section 2.3.1).
        pair = f"{quote_plus(client_id)}:{quote_plus(client_secret)}".encode("ascii")
        self._headers = {b"Authorization": b"Basic " + base64.b64encode(pair)}
        self._url = url
        self._demands = Demands(issuer, _several(audience), leeway)
        self._cache = cache
        self._provider = provider or Provider()
        self._now = now
        self._turns = DeferredSemaphore(self.MAX_ASKING)
        self._known: OrderedDict[bytes, tuple[float, Mapping[str, Any]]] = OrderedDict()

    async def verify(self, token: bytes) -> Mapping[str, Any]:
        """Return what the provider says of an active token."""
        check_form(token)
        name = sha256(token).digest()
        until, claims = self._known.get(name, (-math.inf, {}))
        # A clock that was set back must not prolong it either.
        if not until - self._cache <= self._now() < until:
            self._known.pop(name, None)
            claims = await self._ask(token)
            # Only true will do, not 1 or "true": what is odd is no yes.
            if claims.get("active") is not True:
                raise InvalidToken("is not active")
        self._demands.check(claims, self._now())
        if self._cache and name not in self._known:
            self._known[name] = self._now() + self._cache, claims
            if len(self._known) > self.MAX_CACHED:
                self._known.popitem(last=False)
        return claims

    async def _ask(self, token: bytes) -> Mapping[str, Any]:
        if len(self._turns.waiting) >= self.MAX_WAITING:
            raise TryLater("server too busy, try again later")
        form = {"token": token.decode("ascii"), "token_type_hint": "access_token"}
        await self._turns.acquire()
        try:
            return await self._provider.request(self._url, form, self._headers)
        finally:
            self._turns.release()
