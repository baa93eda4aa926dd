"""The verifier that asks the provider."""

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
from tests.auth.oauth.harness import ProviderCase, never, with_object

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
    """IntrospectionVerifier, with a real server."""

    async def setUp(self):
        """Have a server that knows the token, and a clock."""
        super().setUp()
        self.now = 1419350300
        self.resource, self.url = await self.serve(with_object(RFC7662))

    def verifier(self, **options):
        """Return a verifier that asks our server."""
        return IntrospectionVerifier(
            self.url, "po pserv", "s3:crét", now=lambda: self.now, **options
        )

    async def refused(self, found, **options):
        """Return why the token is refused after that answer."""
        self.resource.answer = with_object(found)
        with self.assertRaises(InvalidToken) as caught:
            await self.verifier(**options).verify(OPAQUE)
        self.assertNotIn(OPAQUE.decode(), str(caught.exception))
        return str(caught.exception)

    async def test_question(self):
        """The token goes in a POST, and who asks in HTTP Basic (RFC 7662 section 2.1)."""
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
        """Only a plain true is a yes (RFC 7662 section 2.2)."""
        for active in (False, None, 1, "true", "True", [True], {}):
            self.assertEqual(await self.refused(RFC7662 | {"active": active}), "is not active")
        self.assertEqual(await self.refused({}), "is not active")

    async def test_demands(self):
        """An active token must be in time, and ours if we have said so."""
        good = {"issuer": RFC7662["iss"], "audience": [RFC7662["aud"]]}
        self.assertEqual(await self.verifier(**good).verify(OPAQUE), RFC7662)
        self.assertIn("issuer", await self.refused(RFC7662, issuer="https://other.example/"))
        self.assertIn("audience", await self.refused(RFC7662, audience="mail"))
        self.assertIn("audience", await self.refused({"active": True}, audience="mail"))
        self.now = RFC7662["exp"] + 30
        self.assertEqual(await self.refused(RFC7662), "has expired")
        self.now = RFC7662["iat"] - 31
        self.assertIn("not valid yet", await self.refused(RFC7662))

    async def test_no_end(self):
        """An answer need not say when the token ends."""
        self.resource.answer = with_object({"active": True})
        self.assertEqual(await self.verifier().verify(OPAQUE), {"active": True})

    async def test_form(self):
        """What is no token is not asked about."""
        for token in (b"", b"a b", b"\xff", b"x" * (MAX_TOKEN_OCTETS + 1)):
            with self.assertRaises(InvalidToken):
                await self.verifier().verify(token)
        self.assertEqual(self.resource.requests, [])

    async def test_faults(self):
        """No answer of use is a fault, be it for our own name or secret."""
        for answer in (
            with_object({"active": True}, 401),
            with_object({"active": True}, 500),
            lambda _: b"active",
            with_object([RFC7662]),
        ):
            self.resource.answer = answer
            with self.assertRaises(ProviderError) as caught:
                await self.verifier().verify(OPAQUE)
            for secret in (OPAQUE.decode(), "s3", "Authorization"):
                self.assertNotIn(secret, str(caught.exception))

    async def test_no_cache(self):
        """Unless told otherwise each login asks."""
        verifier = self.verifier()
        for _ in range(3):
            await verifier.verify(OPAQUE)
        self.assertEqual(len(self.resource.requests), 3)

    async def test_cache(self):
        """A good answer is believed for so long, of one token, and no longer."""
        verifier = self.verifier(cache_seconds=60)
        for second, asked in ((0, 1), (59, 1), (60, 2), (119, 2), (59, 3), (118, 3), (119, 4)):
            self.now = 1419350300 + second
            self.assertEqual(await verifier.verify(OPAQUE), RFC7662)
            self.assertEqual(len(self.resource.requests), asked, second)
        await verifier.verify(OPAQUE + b"x")
        self.assertEqual(len(self.resource.requests), 5)

    async def test_cache_ends_with_the_token(self):
        """What is remembered is not good beyond the token's own end."""
        verifier = self.verifier(cache_seconds=3600, leeway=0)
        self.now = RFC7662["exp"] - 1
        await verifier.verify(OPAQUE)
        self.now += 1
        with self.assertRaisesRegex(InvalidToken, "has expired"):
            await verifier.verify(OPAQUE)

    async def test_bad_answers_not_cached(self):
        """A refusal is not remembered."""
        verifier = self.verifier(cache_seconds=60)
        self.resource.answer = with_object({"active": False})
        with self.assertRaises(InvalidToken):
            await verifier.verify(OPAQUE)
        self.resource.answer = with_object(RFC7662)
        self.assertEqual(await verifier.verify(OPAQUE), RFC7662)

    async def test_cache_is_bounded(self):
        """Of too many tokens the oldest is forgotten; none is kept as it is."""
        self.patch(IntrospectionVerifier, "MAX_CACHED_RESPONSES", 3)
        verifier = self.verifier(cache_seconds=60)
        for token in (b"a", b"b", b"c", b"d", b"d"):
            await verifier.verify(token)
        self.assertEqual(len(self.resource.requests), 4)
        self.assertEqual(
            set(verifier._cache), {sha256(each).digest() for each in (b"b", b"c", b"d")}
        )

    async def test_turns(self):
        """So many are asked about at a time, so many wait, and one more is told to try later."""
        self.patch(IntrospectionVerifier, "MAX_CONCURRENT_REQUESTS", 2)
        self.patch(IntrospectionVerifier, "MAX_QUEUED_REQUESTS", 3)
        held = []
        self.resource.answer = lambda request: held.append(request) or never(request)
        verifier = self.verifier()
        outcomes = [Deferred.fromCoroutine(verifier.verify(b"t%d" % n)) for n in range(5)]
        with self.assertRaisesRegex(TryLater, "too busy"):
            await verifier.verify(b"t5")
        while len(held) < 2:
            await self.resource.next()
        self.resource.answer = with_object(RFC7662)
        text = json.dumps(RFC7662).encode()
        for request in held:
            request.setHeader(b"content-length", b"%d" % len(text))
            request.write(text)
            request.finish()
        self.assertEqual(await gatherResults(outcomes), [RFC7662] * 5)
        self.assertEqual(len(self.resource.requests), 5)
        await verifier.verify(b"t6")
