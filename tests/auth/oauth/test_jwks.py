"""The provider's keys: which count, in a file, at a URL."""

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
from tests.auth.oauth.harness import ProviderCase, with_object
from tests.auth.oauth.tokens import (
    A3_JWK,
    CLAIMS,
    ISSUER,
    NOW,
    jwk_of,
    key_for,
    rsa_key,
    token_of,
)


class ParseJWKSetTests(SynchronousTestCase):
    """parse_jwk_set: which keys of a set count (RFC 7517 section 5)."""

    def names(self, *jwks):
        """Return the names of those that count."""
        return [key.kid for key in parse_jwk_set({"keys": list(jwks)})]

    def test_odd_ones(self):
        """A key that is unknown, broken, weak, or not for signatures is passed over."""
        good = jwk_of(rsa_key(), kid="good")
        curve = jwk_of(key_for("ES256"), kid="curve")
        edwards = jwk_of(key_for("EdDSA"), kid="edwards")
        odd = (
            {}, None, [], "x", {"kty": "oct", "k": "AA", "kid": "s"}, {"kty": "RSA"}, {"kty": []},
            good | {"use": "enc"}, good | {"use": []}, good | {"key_ops": ["encrypt"]},
            good | {"key_ops": 1}, good | {"alg": "RSA-OAEP"}, good | {"alg": "HS256"},
            good | {"alg": []}, good | {"kid": 1}, good | {"n": 1}, good | {"n": "!"},
            good | {"e": "AA"}, good | {"kty": "rsa"}, good | {"kty": "EC"},
            jwk_of(rsa_key("weak", 1024), kid="weak"),
            curve | {"crv": "P-384"}, curve | {"crv": "P-192"}, curve | {"crv": []},
            curve | {"x": curve["y"]}, curve | {"x": "AA"}, {"kty": "EC", "crv": "P-256"},
            edwards | {"crv": "X25519"}, edwards | {"x": "AA"}, edwards | {"crv": None},
        )  # fmt: skip
        more = good | {"kid": "more", "use": "sig", "alg": "RS512", "key_ops": ["verify"]}
        self.assertEqual(
            self.names(good, *odd, curve, edwards, more), ["good", "curve", "edwards", "more"]
        )

    def test_private(self):
        """Of a private key the public half is taken."""
        (key,) = parse_jwk_set({"keys": [A3_JWK]})
        self.assertFalse(hasattr(key.public_key, "sign"))
        self.assertEqual(key.algorithms, {"ES256"})
        self.assertIsNone(key.kid)

    def test_no_set(self):
        """What is no set is a ValueError."""
        for document in ({}, {"keys": None}, {"keys": {}}, {"keys": "x"}):
            self.assertRaises(ValueError, parse_jwk_set, document)
        self.assertEqual(parse_jwk_set({"keys": []}), ())


class JWKSFileTests(TestCase):
    """JWKSFile."""

    def setUp(self):
        """Have a path, and a file with a key."""
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
        """A changed file counts at once, and an unchanged one is not read again."""
        first = await self.source.find("a", "ES256")
        self.assertEqual(len(first), 1)
        self.assertIs((await self.source.find(None, "ES256"))[0], first[0])
        self.assertEqual(await self.source.find("b", "ES256"), [])
        self.assertEqual(await self.source.find("a", "RS256"), [])
        self.write({"keys": [jwk_of(rsa_key(), kid="b")]})
        self.assertEqual(await self.source.find("a", "ES256"), [])
        self.assertEqual(len(await self.source.find("b", "RS256")), 1)

    async def test_in_disorder(self):
        """A file that cannot be used is a fault with its reason, until it is mended."""
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

    async def test_off_the_reactors_thread(self):
        """The file is read in a thread that is not the reactor's."""
        where = []
        self.patch(self.source, "read", lambda: where.append(current_thread().name) or ())
        await self.source.find(None, "ES256")
        self.assertIn("popserv-keys", where[0])


class Script:
    """A provider whose answers a test gives by hand."""

    def __init__(self):
        """Have heard no question."""
        self.questions = []

    def request(self, url):
        """Return an answer to come."""
        assert url == "https://provider.example/keys"
        self.questions.append(Deferred())
        return self.questions[-1]

    def answer(self, what):
        """Answer the last question; an exception is a fault."""
        if isinstance(what, Exception):
            self.questions[-1].errback(what)
        else:
            self.questions[-1].callback(what)


def key_set(*names):
    """Return a set of keys of those names."""
    return {"keys": [jwk_of(key_for("ES256"), kid=name) for name in names]}


class JWKSURLTests(SynchronousTestCase):
    """JWKSURL: when keys are fetched."""

    def setUp(self):
        """Have a source whose provider and clock are ours."""
        self.clock, self.script = Clock(), Script()
        self.source = JWKSURL("https://provider.example/keys", self.script, self.clock.seconds)
        self.events = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)

    def find(self, kid="a"):
        """Ask for a key."""
        return Deferred.fromCoroutine(self.source.find(kid, "ES256"))

    def finds(self, kid="a"):
        """Tell whether there is such a key, of those that are there or fetched at once."""
        return bool(self.successResultOf(self.find(kid)))

    def fetched(self):
        """Return how often the provider was asked."""
        return len(self.script.questions)

    def start(self):
        """Fetch the key a."""
        outcome = self.find()
        self.script.answer(key_set("a"))
        self.assertEqual(len(self.successResultOf(outcome)), 1)

    def test_fetched_once(self):
        """The keys are fetched when the first is needed, and kept."""
        self.assertEqual(self.fetched(), 0)
        self.start()
        self.clock.advance(JWKSURL.MAX_AGE - 1)
        self.assertTrue(self.finds())
        self.assertEqual(self.fetched(), 1)

    def test_shared(self):
        """All who wait meanwhile wait for one fetch, and one who leaves takes nobody along."""
        outcomes = [self.find() for _ in range(5)]
        outcomes[0].cancel()
        outcomes[2].cancel()
        self.failureResultOf(outcomes[0])
        self.failureResultOf(outcomes[2])
        self.script.answer(key_set("a"))
        for at in (1, 3, 4):
            self.assertEqual(len(self.successResultOf(outcomes[at])), 1)
        self.assertEqual(self.fetched(), 1)

    def test_rotation(self):
        """A key that is new to us is fetched when a token names it."""
        self.start()
        self.clock.advance(JWKSURL.MIN_FETCH_INTERVAL)
        outcome = self.find("b")
        self.script.answer(key_set("a", "b"))
        self.assertEqual(len(self.successResultOf(outcome)), 1)
        self.assertTrue(self.finds("a"))
        self.assertEqual(self.fetched(), 2)

    def test_storm(self):
        """Invented names make one fetch in MIN_FETCH_INTERVAL seconds, and keep nobody out."""
        self.start()
        for second in range(int(JWKSURL.MIN_FETCH_INTERVAL * 3)):
            for guess in range(5):
                outcome = self.find(f"{second}.{guess}")
                if not outcome.called:
                    self.script.answer(key_set("a"))
                self.assertEqual(self.successResultOf(outcome), [])
            self.assertTrue(self.finds())
            self.clock.advance(1)
        self.assertEqual(self.fetched(), 3)

    def test_withdrawn(self):
        """A key that the provider has withdrawn is gone after MAX_AGE seconds."""
        self.start()
        self.clock.advance(JWKSURL.MAX_AGE)
        outcome = self.find()
        self.script.answer({"keys": []})
        self.assertEqual(self.successResultOf(outcome), [])

    def test_stale(self):
        """While the provider is out of reach the keys go on for MAX_STALE_AGE seconds, and no longer."""
        self.start()
        while self.clock.seconds() < JWKSURL.MAX_STALE_AGE - JWKSURL.MAX_AGE:
            self.clock.advance(JWKSURL.MAX_AGE)
            outcome = self.find()
            self.script.answer(ProviderError("out of reach"))
            self.assertEqual(len(self.successResultOf(outcome)), 1)
            before = self.fetched()
            self.assertTrue(self.finds())
            self.failureResultOf(self.find("b"), ProviderError)
            self.assertEqual(self.fetched(), before)
        self.clock.advance(JWKSURL.MAX_AGE)
        outcome = self.find()
        self.script.answer(ProviderError("out of reach"))
        self.failureResultOf(outcome, ProviderError)
        self.clock.advance(JWKSURL.MIN_FETCH_INTERVAL)
        outcome = self.find()
        self.script.answer(key_set("a"))
        self.assertEqual(len(self.successResultOf(outcome)), 1)

    def test_never_had(self):
        """Without any keys yet a fault is a fault, for all who wait, and is tried again."""
        outcomes = [self.find() for _ in range(3)]
        self.script.answer(ProviderError("https://x: HTTP status 500"))
        for outcome in outcomes:
            error = self.failureResultOf(outcome, ProviderError).value
            self.assertEqual(str(error), "https://x: HTTP status 500")
        self.failureResultOf(self.find(), ProviderError)
        self.assertEqual(self.fetched(), 1)
        self.clock.advance(JWKSURL.MIN_FETCH_INTERVAL)
        self.start()

    def test_logged(self):
        """Each fetch that fails is a line in the log, whatever the reason."""
        for fault, why in (
            (ProviderError("https://x: HTTP status 500"), "https://x: HTTP status 500"),
            (RuntimeError("odd"), "https://provider.example/keys: odd"),
            ({"keys": 1}, "https://provider.example/keys: not a JWK Set"),
        ):
            outcome = self.find()
            self.script.answer(fault)
            self.failureResultOf(outcome, ProviderError)
            self.assertIn(f"JWK Set not fetched: {why}", formatEvent(self.events.pop()))
            self.clock.advance(JWKSURL.MIN_FETCH_INTERVAL)
        self.assertEqual(self.events, [])


class RealJWKSURLTests(ProviderCase):
    """JWTVerifier with keys from a real server."""

    def verifier(self, url, clock):
        """Return a verifier."""
        source = JWKSURL(url, clock=clock.seconds)
        return JWTVerifier(source, issuer=ISSUER, audience="mail", now=lambda: NOW)

    async def test_rotation(self):
        """A token by a new key is verified once the provider shows the key."""
        resource, url = await self.serve(with_object({"keys": [jwk_of(rsa_key("a"), kid="a")]}))
        clock = Clock()
        verifier = self.verifier(url, clock)
        token = token_of(key=rsa_key("a"), kid="a")
        self.assertEqual(await gatherResults([
            Deferred.fromCoroutine(verifier.verify(token)) for _ in range(10)
        ]), [CLAIMS] * 10)  # fmt: skip
        self.assertEqual(len(resource.requests), 1)
        resource.answer = with_object({"keys": [jwk_of(rsa_key("b"), kid="b")]})
        clock.advance(JWKSURL.MIN_FETCH_INTERVAL)
        self.assertEqual(await verifier.verify(token_of(key=rsa_key("b"), kid="b")), CLAIMS)
        with self.assertRaisesRegex(InvalidToken, "is not in the provider's JWK Set"):
            await verifier.verify(token)
        self.assertEqual(len(resource.requests), 2)

    async def test_faults(self):
        """No answer of use is a fault; then the provider recovers."""
        resource, url = await self.serve(with_object({}, 500))
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
        resource.answer = with_object({"keys": [jwk_of(rsa_key())]})
        self.assertEqual(await verifier.verify(token), CLAIMS)
