"""The verifier that sends each token to the provider (token introspection, RFC 7662)."""

from __future__ import annotations

import base64
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any
from urllib.parse import quote_plus

from twisted.internet.defer import DeferredSemaphore
from zope.interface import implementer

from popserv.auth.oauth.claims import LEEWAY, RequiredClaims, check_syntax
from popserv.auth.oauth.provider import ProviderClient
from popserv.auth.oauth.verifier import InvalidToken, ITokenVerifier
from popserv.errors import TryLater


@implementer(ITokenVerifier)
class IntrospectionVerifier:
    """Sends each token to the provider's introspection endpoint (RFC 7662).

    ``url`` is the endpoint.  ``client_id`` and ``client_secret`` are the credentials of this
    server at the provider, sent by HTTP Basic authentication.  ``issuer`` and ``audience``, if
    given, are required in the response.  ``leeway`` is the accepted difference between clocks, in
    seconds; ``now`` is a clock in seconds since the epoch.

    The response for an active token is cached for ``cache_seconds``; a cached response does not
    extend the token's lifetime.  With 0 each login sends a request, so that a revoked token is
    rejected immediately.
    """

    MAX_CONCURRENT_REQUESTS = 20

    MAX_QUEUED_REQUESTS = 200
    """Logins that wait until they can send a request; further logins fail with TryLater."""

    MAX_CACHED_RESPONSES = 2000

    def __init__(
        self,
        url: str,
        client_id: str,
        client_secret: str,
        *,
        issuer: str | None = None,
        audience: str | Sequence[str] = (),
        cache_seconds: float = 0,
        leeway: float = LEEWAY,
        client: ProviderClient | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        # Each is URL-encoded, so that it cannot contain the colon (RFC 6749 section 2.3.1).
        user_pass = f"{quote_plus(client_id)}:{quote_plus(client_secret)}".encode("ascii")
        self._headers = {b"Authorization": b"Basic " + base64.b64encode(user_pass)}
        self._url = url
        self._required_claims = RequiredClaims(issuer, audience, leeway)
        self._cache_seconds = cache_seconds
        self._client = client or ProviderClient()
        self._now = now
        self._request_slots = DeferredSemaphore(self.MAX_CONCURRENT_REQUESTS)
        # The end of an entry's validity, and the claims, by the token's digest; oldest first.
        self._cache: OrderedDict[bytes, tuple[float, Mapping[str, Any]]] = OrderedDict()

    async def verify(self, token: bytes) -> Mapping[str, Any]:
        """Return the provider's response for an active token; see :class:`ITokenVerifier`.

        :raises popserv.errors.TryLater: ``MAX_QUEUED_REQUESTS`` logins are waiting.
        """
        check_syntax(token)
        digest = sha256(token).digest()
        valid_until, claims = self._cache.get(digest, (-math.inf, {}))
        # The lower bound: a clock that was set back must not extend the validity.
        if not valid_until - self._cache_seconds <= self._now() < valid_until:
            self._cache.pop(digest, None)
            claims = await self._introspect(token)
            # Only the JSON value true is accepted, not 1 or "true".
            if claims.get("active") is not True:
                raise InvalidToken("is not active")
        self._required_claims.check(claims, self._now())
        if self._cache_seconds and digest not in self._cache:
            self._cache[digest] = self._now() + self._cache_seconds, claims
            if len(self._cache) > self.MAX_CACHED_RESPONSES:
                self._cache.popitem(last=False)
        return claims

    async def _introspect(self, token: bytes) -> Mapping[str, Any]:
        if len(self._request_slots.waiting) >= self.MAX_QUEUED_REQUESTS:
            raise TryLater("server too busy, try again later")
        form = {"token": token.decode("ascii"), "token_type_hint": "access_token"}
        await self._request_slots.acquire()
        try:
            return await self._client.request(self._url, form, self._headers)
        finally:
            self._request_slots.release()
