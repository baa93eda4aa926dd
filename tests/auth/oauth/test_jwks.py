"""JWK Sets: which of their keys are used, and when a file or a URL is read again."""

import json
import os
from threading import current_thread

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase, TestCase

from popserv.auth.oauth.jwks import JWKSURL, JWKSFile, parse_jwk_set
from popserv.auth.oauth.jwt_verifier import JWTVerifier
from popserv.auth.oauth.provider import MAX_RESPONSE_OCTETS, ProviderError
from popserv.auth.oauth.verifier import InvalidToken
from tests.auth.oauth.harness import ProviderCase, json_answer
from tests.auth.oauth.tokens import A3_JWK, CLAIMS, ISSUER, NOW, jwk_of, key_for, rsa_key, token_of


class ParseJWKSetTests(SynchronousTestCase):
    """parse_jwk_set: which keys of a set are used (RFC 7517 section 5)."""

    def names(self, *jwks):
        """Return the key IDs of the keys that are used."""
        return [key.kid for key in parse_jwk_set({"keys": list(jwks)})]

    def test_unusable_keys(self):
        """Keys that are unknown, invalid, weak, or not for signatures are ignored."""
        good = jwk_of(rsa_key(), kid="good")
        curve = jwk_of(key_for("ES256"), kid="curve")
        edwards = jwk_of(key_for("EdDSA"), kid="edwards")
        unusable = (
            {}, None, [], "x", {"kty": "oct", "k": "AA", "kid": "s"}, {"kty": "RSA"}, {"kty": []},
            good | {"use": "enc"}, good | {"use": []}, good | {"key_ops": ["encrypt"]},
            good | {"key_ops": 1}, good | {"alg": "RSA-OAEP"}, good | {"alg": "HS256"},
            good | {"alg": []}, good | {"kid": 1}, good | {"n": 1}, good | {"n": "!"},
            good | {"e": "AA"}, good | {"kty": "rsa"}, good | {"kty": "EC"},
            jwk_of(rsa_key("weak", 1024), kid="weak"), jwk_of(rsa_key("short", 2047), kid="short"),
            curve | {"crv": "P-384"}, curve | {"crv": "P-192"}, curve | {"crv": []},
            curve | {"x": curve["y"]}, curve | {"x": "AA"}, {"kty": "EC", "crv": "P-256"},
            edwards | {"crv": "X25519"}, edwards | {"x": "AA"}, edwards | {"crv": None},
        )  # fmt: skip
        more = good | {"kid": "more", "use": "sig", "alg": "RS512", "key_ops": ["verify"]}
        self.assertEqual(
            self.names(good, *unusable, curve, edwards, more), ["good", "curve", "edwards", "more"]
        )

    def test_private(self):
        """Only the public part of a private key is kept."""
        (key,) = parse_jwk_set({"keys": [A3_JWK]})
        self.assertFalse(hasattr(key.public_key, "sign"))
        self.assertEqual(key.algorithms, {"ES256"})
        self.assertIsNone(key.kid)

    def test_not_a_set(self):
        """A document that is not a JWK Set is a ValueError."""
        for document in ({}, {"keys": None}, {"keys": {}}, {"keys": "x"}):
            self.assertRaises(ValueError, parse_jwk_set, document)
        self.assertEqual(parse_jwk_set({"keys": []}), ())


class JWKSFileTests(TestCase):
    """JWKSFile."""

    def setUp(self):
        """Write a file with a key."""
        self.path = os.path.abspath(self.mktemp())
        self.write({"keys": [jwk_of(key_for("ES256"), kid="a")]})
        self.source = JWKSFile(self.path)

    def write(self, document):
        """Replace the file."""
        text = document if isinstance(document, bytes) else json.dumps(document).encode()
        with open(self.path + "~", "wb") as file:
            file.write(text)
        os.rename(self.path + "~", self.path)

    async def test_changes(self):
        """A changed file is read again immediately; an unchanged file is not read again."""
        first = await self.source.find("a", "ES256")
        self.assertEqual(len(first), 1)
        self.assertIs((await self.source.find(None, "ES256"))[0], first[0])
        self.assertEqual(await self.source.find("b", "ES256"), [])
        self.assertEqual(await self.source.find("a", "RS256"), [])
        self.write({"keys": [jwk_of(rsa_key(), kid="b")]})
        self.assertEqual(await self.source.find("a", "ES256"), [])
        self.assertEqual(len(await self.source.find("b", "RS256")), 1)

    async def test_invalid(self):
        """An invalid file is a ProviderError with the reason, until the file is corrected."""
        await self.source.find("a", "ES256")
        for text, why in (
            (b"", "not JSON"),
            (b"s3cret", "not JSON"),
            ({"keys": 1}, "not a JWK Set"),
            ({"keys": []}, "no usable signature key"),
            (b" " * MAX_RESPONSE_OCTETS + b"{}", "not JSON"),
        ):
            self.write(text)
            for _ in range(2):
                with self.assertRaisesRegex(ProviderError, why) as caught:
                    await self.source.find("a", "ES256")
            self.assertIn(self.path, str(caught.exception))
            self.assertNotIn("s3cret", str(caught.exception))
        os.unlink(self.path)
        with self.assertRaisesRegex(ProviderError, "No such file"):
            await self.source.find("a", "ES256")
        self.write({"keys": [A3_JWK]})
        self.assertEqual(len(await self.source.find(None, "ES256")), 1)

    async def test_thread(self):
        """The file is read in a thread other than the reactor's."""
        where = []
        self.patch(self.source, "read", lambda: where.append(current_thread().name) or ())
        await self.source.find(None, "ES256")
        self.assertIn("popserv-keys", where[0])


class ScriptedClient:
    """A ProviderClient whose responses are given by the test."""

    def __init__(self):
        """Start without requests."""
        self.requests = []

    def request(self, url):
        """Return a Deferred of the response."""
        assert url == "https://provider.example/keys"
        self.requests.append(Deferred())
        return self.requests[-1]

    def respond(self, response):
        """Respond to the last request; an exception makes it fail."""
        if isinstance(response, Exception):
            self.requests[-1].errback(response)
        else:
            self.requests[-1].callback(response)


def key_set(*names):
    """Return a JWK Set of keys with these key IDs."""
    return {"keys": [jwk_of(key_for("ES256"), kid=name) for name in names]}


class JWKSURLTests(SynchronousTestCase):
    """JWKSURL: when keys are fetched."""

    def setUp(self):
        """Make a source whose client and clock the test controls."""
        self.clock, self.client = Clock(), ScriptedClient()
        self.clock.advance(1000)
        self.source = JWKSURL("https://provider.example/keys", self.client, self.clock.seconds)
        self.events = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)

    def find(self, kid="a"):
        """Ask for a key."""
        return Deferred.fromCoroutine(self.source.find(kid, "ES256"))

    def finds(self, kid="a"):
        """Return whether the key is found without waiting for a fetch."""
        return bool(self.successResultOf(self.find(kid)))

    def fetched(self):
        """Return the number of requests."""
        return len(self.client.requests)

    def start(self):
        """Fetch the key a."""
        outcome = self.find()
        self.client.respond(key_set("a"))
        self.assertEqual(len(self.successResultOf(outcome)), 1)

    def test_fetched_once(self):
        """The keys are fetched when the first is needed, and cached."""
        self.assertEqual(self.fetched(), 0)
        self.start()
        self.clock.advance(JWKSURL.MAX_AGE - 1)
        self.assertTrue(self.finds())
        self.assertEqual(self.fetched(), 1)

    def test_shared(self):
        """Concurrent lookups share one fetch; cancelling one does not affect the others."""
        outcomes = [self.find() for _ in range(5)]
        outcomes[0].cancel()
        outcomes[2].cancel()
        self.failureResultOf(outcomes[0])
        self.failureResultOf(outcomes[2])
        self.client.respond(key_set("a"))
        for at in (1, 3, 4):
            self.assertEqual(len(self.successResultOf(outcomes[at])), 1)
        self.assertEqual(self.fetched(), 1)

    def test_rotation(self):
        """The keys are fetched again when a token has an unknown key ID."""
        self.start()
        self.clock.advance(JWKSURL.MIN_FETCH_INTERVAL)
        outcome = self.find("b")
        self.client.respond(key_set("a", "b"))
        self.assertEqual(len(self.successResultOf(outcome)), 1)
        self.assertTrue(self.finds("a"))
        self.assertEqual(self.fetched(), 2)

    def test_storm(self):
        """Unknown key IDs cause one fetch in MIN_FETCH_INTERVAL; known keys stay usable."""
        self.start()
        for second in range(int(JWKSURL.MIN_FETCH_INTERVAL * 3)):
            for n in range(5):
                outcome = self.find(f"{second}.{n}")
                if not outcome.called:
                    self.client.respond(key_set("a"))
                self.assertEqual(self.successResultOf(outcome), [])
            self.assertTrue(self.finds())
            self.clock.advance(1)
        self.assertEqual(self.fetched(), 3)

    def test_withdrawn(self):
        """A key that the provider has withdrawn is not used after MAX_AGE."""
        self.start()
        self.clock.advance(JWKSURL.MAX_AGE)
        outcome = self.find()
        self.client.respond({"keys": []})
        self.assertEqual(self.successResultOf(outcome), [])

    def test_stale(self):
        """While fetches fail, the cached keys are used until MAX_STALE_AGE, and no longer."""
        self.start()
        started = self.clock.seconds()
        while self.clock.seconds() - started < JWKSURL.MAX_STALE_AGE - JWKSURL.MAX_AGE:
            self.clock.advance(JWKSURL.MAX_AGE)
            outcome = self.find()
            self.client.respond(ProviderError("out of reach"))
            self.assertEqual(len(self.successResultOf(outcome)), 1)
            before = self.fetched()
            self.assertTrue(self.finds())
            self.failureResultOf(self.find("b"), ProviderError)
            self.assertEqual(self.fetched(), before)
        self.clock.advance(JWKSURL.MAX_AGE)
        outcome = self.find()
        self.client.respond(ProviderError("out of reach"))
        self.failureResultOf(outcome, ProviderError)
        self.clock.advance(JWKSURL.MIN_FETCH_INTERVAL)
        outcome = self.find()
        self.client.respond(key_set("a"))
        self.assertEqual(len(self.successResultOf(outcome)), 1)

    def test_first_fetch_fails(self):
        """A failed first fetch fails all lookups, and is repeated later."""
        outcomes = [self.find() for _ in range(3)]
        self.client.respond(ProviderError("https://x: HTTP status 500"))
        for outcome in outcomes:
            error = self.failureResultOf(outcome, ProviderError).value
            self.assertEqual(str(error), "https://x: HTTP status 500")
        self.failureResultOf(self.find(), ProviderError)
        self.assertEqual(self.fetched(), 1)
        self.clock.advance(JWKSURL.MIN_FETCH_INTERVAL)
        self.start()

    def test_logged(self):
        """Each failed fetch is logged with its reason."""
        for response, why in (
            (ProviderError("https://x: HTTP status 500"), "https://x: HTTP status 500"),
            (RuntimeError("unexpected"), "https://provider.example/keys: unexpected"),
            ({"keys": 1}, "https://provider.example/keys: not a JWK Set"),
        ):
            outcome = self.find()
            self.client.respond(response)
            self.failureResultOf(outcome, ProviderError)
            self.assertIn(f"JWK Set not fetched: {why}", formatEvent(self.events.pop()))
            self.clock.advance(JWKSURL.MIN_FETCH_INTERVAL)
        self.assertEqual(self.events, [])


class RealJWKSURLTests(ProviderCase):
    """JWTVerifier with keys from a real HTTP server."""

    def verifier(self, url, clock):
        """Return a verifier."""
        source = JWKSURL(url, clock=clock.seconds)
        return JWTVerifier(source, issuer=ISSUER, audience="mail", now=lambda: NOW)

    async def test_rotation(self):
        """A token with a new key is accepted once the provider publishes the key."""
        resource, url = await self.serve(json_answer({"keys": [jwk_of(rsa_key("a"), kid="a")]}))
        clock = Clock()
        verifier = self.verifier(url, clock)
        token = token_of(key=rsa_key("a"), kid="a")
        self.assertEqual(await gatherResults([
            Deferred.fromCoroutine(verifier.verify(token)) for _ in range(10)
        ]), [CLAIMS] * 10)  # fmt: skip
        self.assertEqual(len(resource.requests), 1)
        resource.answer = json_answer({"keys": [jwk_of(rsa_key("b"), kid="b")]})
        clock.advance(JWKSURL.MIN_FETCH_INTERVAL)
        self.assertEqual(await verifier.verify(token_of(key=rsa_key("b"), kid="b")), CLAIMS)
        with self.assertRaisesRegex(InvalidToken, "is not in the provider's JWK Set"):
            await verifier.verify(token)
        self.assertEqual(len(resource.requests), 2)

    async def test_errors(self):
        """An unusable response is a ProviderError; the next usable one ends the failure."""
        resource, url = await self.serve(json_answer({}, 500))
        clock = Clock()
        verifier = self.verifier(url, clock)
        token = token_of()
        for answer in (
            resource.answer,
            lambda _: b"<html>",
            lambda _: b" " * (MAX_RESPONSE_OCTETS + 1),
        ):
            resource.answer = answer
            with self.assertRaises(ProviderError):
                await verifier.verify(token)
            clock.advance(JWKSURL.MIN_FETCH_INTERVAL)
        resource.answer = json_answer({"keys": [jwk_of(rsa_key())]})
        self.assertEqual(await verifier.verify(token), CLAIMS)
