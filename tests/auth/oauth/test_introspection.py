"""The verifier that asks the provider about each token (RFC 7662), with a real HTTP server."""

import json
from base64 import b64decode
from hashlib import sha256
from urllib.parse import parse_qs, unquote_plus

from twisted.internet.defer import Deferred, gatherResults
from zope.interface.verify import verifyObject

from popserv.auth.oauth.claims import MAX_TOKEN_OCTETS
from popserv.auth.oauth.introspection import IntrospectionVerifier
from popserv.auth.oauth.provider import ProviderError
from popserv.auth.oauth.verifier import InvalidToken, ITokenVerifier
from popserv.errors import TryLater
from tests.auth.oauth.harness import ProviderCase, json_answer, no_answer

OPAQUE = b"2YotnFZFEjr1zCsicMWpAA"
"""The token of RFC 7662 section 2.1."""

RFC7662 = {
    "active": True,
    "client_id": "l238j323ds-23ij4",
    "username": "jdoe",
    "scope": "read write dolphin",
    "sub": "Z5O3upPC88QrAjx00dis",
    "aud": "https://protected.example.net/resource",
    "iss": "https://server.example.com/",
    "exp": 1419356238,
    "iat": 1419350238,
    "extension_field": "twenty-seven",
}
"""The answer of RFC 7662 section 2.2."""


class IntrospectionTests(ProviderCase):
    """IntrospectionVerifier."""

    async def setUp(self):
        """Start a provider that knows the token, and a clock."""
        super().setUp()
        self.now = 1419350300
        self.resource, self.url = await self.serve(json_answer(RFC7662))

    def verifier(self, **options):
        """Return a verifier that asks this provider."""
        return IntrospectionVerifier(
            self.url, "po pserv", "s3:crét", now=lambda: self.now, **options
        )

    async def rejection(self, found, **options):
        """Return why the token is rejected after this response."""
        self.resource.answer = json_answer(found)
        with self.assertRaises(InvalidToken) as caught:
            await self.verifier(**options).verify(OPAQUE)
        self.assertNotIn(OPAQUE.decode(), str(caught.exception))
        return str(caught.exception)

    async def test_request(self):
        """The token is sent by POST with HTTP Basic authentication (RFC 7662 section 2.1)."""
        verifier = self.verifier()
        verifyObject(ITokenVerifier, verifier)
        self.assertEqual(await verifier.verify(OPAQUE), RFC7662)
        (request,), (body,) = self.resource.requests, self.resource.bodies
        self.assertEqual(request.method, b"POST")
        self.assertEqual(
            parse_qs(body), {b"token": [OPAQUE], b"token_type_hint": [b"access_token"]}
        )
        kind, _, pair = request.getHeader(b"authorization").partition(b" ")
        self.assertEqual(kind, b"Basic")
        parts = b64decode(pair).decode().split(":")
        self.assertEqual([unquote_plus(each) for each in parts], ["po pserv", "s3:crét"])

    async def test_active(self):
        """Only a token whose "active" is the JSON value true is accepted (RFC 7662 section 2.2)."""
        for active in (False, None, 1, "true", "True", [True], {}):
            self.assertEqual(await self.rejection(RFC7662 | {"active": active}), "is not active")
        self.assertEqual(await self.rejection({}), "is not active")

    async def test_required_claims(self):
        """An active token must not be expired, and have the issuer and audience if required."""
        good = {"issuer": RFC7662["iss"], "audience": [RFC7662["aud"]]}
        self.assertEqual(await self.verifier(**good).verify(OPAQUE), RFC7662)
        self.assertIn("issuer", await self.rejection(RFC7662, issuer="https://other.example/"))
        self.assertIn("audience", await self.rejection(RFC7662, audience="mail"))
        self.assertIn("audience", await self.rejection({"active": True}, audience="mail"))
        self.now = RFC7662["exp"] + 30
        self.assertEqual(await self.rejection(RFC7662), "has expired")
        self.now = RFC7662["iat"] - 31
        self.assertIn("not valid yet", await self.rejection(RFC7662))

    async def test_no_exp(self):
        """A response need not have an exp."""
        self.resource.answer = json_answer({"active": True})
        self.assertEqual(await self.verifier().verify(OPAQUE), {"active": True})

    async def test_syntax(self):
        """No request is sent for a token that is not a bearer token."""
        for token in (b"", b"a b", b"\xff", b"x" * (MAX_TOKEN_OCTETS + 1)):
            with self.assertRaises(InvalidToken):
                await self.verifier().verify(token)
        self.assertEqual(self.resource.requests, [])

    async def test_errors(self):
        """Any other response is a ProviderError, which contains no token and no secret."""
        for answer in (
            json_answer({"active": True}, 401),
            json_answer({"active": True}, 500),
            lambda _: b"active",
            json_answer([RFC7662]),
        ):
            self.resource.answer = answer
            with self.assertRaises(ProviderError) as caught:
                await self.verifier().verify(OPAQUE)
            for secret in (OPAQUE.decode(), "s3", "Authorization"):
                self.assertNotIn(secret, str(caught.exception))

    async def test_no_cache(self):
        """By default each login sends a request, and nothing is kept."""
        verifier = self.verifier()
        for _ in range(3):
            await verifier.verify(OPAQUE)
        self.assertEqual(len(self.resource.requests), 3)
        self.assertEqual(len(verifier._cache), 0)

    async def test_cache(self):
        """The response for an active token is cached for cache_seconds, for that token only."""
        verifier = self.verifier(cache_seconds=60)
        for second, asked in ((0, 1), (59, 1), (60, 2), (119, 2), (59, 3), (118, 3), (119, 4)):
            self.now = 1419350300 + second
            self.assertEqual(await verifier.verify(OPAQUE), RFC7662)
            self.assertEqual(len(self.resource.requests), asked, second)
        await verifier.verify(OPAQUE + b"x")
        self.assertEqual(len(self.resource.requests), 5)

    async def test_cache_ends_with_the_token(self):
        """A cached token is rejected once it has expired."""
        verifier = self.verifier(cache_seconds=3600, leeway=0)
        self.now = RFC7662["exp"] - 1
        await verifier.verify(OPAQUE)
        self.now += 1
        with self.assertRaisesRegex(InvalidToken, "has expired"):
            await verifier.verify(OPAQUE)

    async def test_rejections_not_cached(self):
        """A rejection is not cached."""
        verifier = self.verifier(cache_seconds=60)
        self.resource.answer = json_answer({"active": False})
        with self.assertRaises(InvalidToken):
            await verifier.verify(OPAQUE)
        self.resource.answer = json_answer(RFC7662)
        self.assertEqual(await verifier.verify(OPAQUE), RFC7662)

    async def test_cache_is_bounded(self):
        """A full cache evicts the oldest entry; tokens are stored as digests."""
        self.patch(IntrospectionVerifier, "MAX_CACHED_RESPONSES", 3)
        verifier = self.verifier(cache_seconds=60)
        for token in (b"a", b"b", b"c", b"d", b"d"):
            await verifier.verify(token)
        self.assertEqual(len(self.resource.requests), 4)
        self.assertEqual(
            set(verifier._cache), {sha256(each).digest() for each in (b"b", b"c", b"d")}
        )

    async def test_concurrency(self):
        """Concurrent requests and queued logins are limited; another login fails with TryLater."""
        self.patch(IntrospectionVerifier, "MAX_CONCURRENT_REQUESTS", 2)
        self.patch(IntrospectionVerifier, "MAX_QUEUED_REQUESTS", 3)
        held = []
        self.resource.answer = lambda request: held.append(request) or no_answer(request)
        verifier = self.verifier()
        outcomes = [Deferred.fromCoroutine(verifier.verify(b"t%d" % n)) for n in range(5)]
        with self.assertRaisesRegex(TryLater, "too busy"):
            await verifier.verify(b"t5")
        while len(held) < 2:
            await self.resource.next()
        self.resource.answer = json_answer(RFC7662)
        text = json.dumps(RFC7662).encode()
        for request in held:
            request.setHeader(b"content-length", b"%d" % len(text))
            request.write(text)
            request.finish()
        self.assertEqual(await gatherResults(outcomes), [RFC7662] * 5)
        self.assertEqual(len(self.resource.requests), 5)
        await verifier.verify(b"t6")
