"""JWTs, keys and a JWTVerifier for tests; tokens are signed without the library under test."""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from functools import cache

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.oauth.jwks import parse_jwk_set
from popserv.auth.oauth.jwt_verifier import JWTVerifier
from popserv.auth.oauth.verifier import InvalidToken

NOW = 1_700_000_000
ISSUER = "https://provider.example"
CLAIMS = {"iss": ISSUER, "aud": "mail", "exp": NOW + 300, "email": "ann@example.org"}

HASHES = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}


def base64url(octets):
    """Return the octets in base64url without padding (RFC 7515 section 2)."""
    return urlsafe_b64encode(octets).rstrip(b"=")


def from_base64url(text):
    """Return the octets of a base64url text."""
    return urlsafe_b64decode(text + b"=" * (-len(text) % 4))


@cache
def rsa_key(name="", bits=2048):
    """Return the RSA key with this name."""
    return rsa.generate_private_key(65537, bits)


@cache
def key_for(algorithm):
    """Return a private key for an algorithm."""
    return {
        "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "ES512": lambda: ec.generate_private_key(ec.SECP521R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate,
    }.get(algorithm, rsa_key)()


def jwk_of(key, **more):
    """Return the public JWK of a private key (RFC 7518 section 6, RFC 8037 section 2)."""
    public = key.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        numbers = public.public_numbers()
        names = {"kty": "RSA", "n": number(numbers.n), "e": number(numbers.e)}
    elif isinstance(public, ec.EllipticCurvePublicKey):
        numbers, size = public.public_numbers(), (public.key_size + 7) // 8
        names = {"kty": "EC", "crv": f"P-{public.key_size}"}
        names |= {"x": number(numbers.x, size), "y": number(numbers.y, size)}
    else:
        raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
        names = {"kty": "OKP", "crv": "Ed25519" if len(raw) == 32 else "Ed448"}
        names["x"] = base64url(raw).decode()
    return names | more


def number(value, size=None):
    """Return a number in the encoding of a JWK."""
    return base64url(value.to_bytes(size or (value.bit_length() + 7) // 8, "big")).decode()


def signature(key, algorithm, signed):
    """Return a signature, made without the library that verifies it (RFC 7518 section 3)."""
    if algorithm == "EdDSA":
        return key.sign(signed)
    digest = HASHES[algorithm[2:]]
    if algorithm.startswith("RS"):
        return key.sign(signed, padding.PKCS1v15(), digest)
    if algorithm.startswith("PS"):
        pss = padding.PSS(padding.MGF1(digest), digest.digest_size)
        return key.sign(signed, pss, digest)
    size = (key.key_size + 7) // 8
    pair = decode_dss_signature(key.sign(signed, ec.ECDSA(digest)))
    return b"".join(each.to_bytes(size, "big") for each in pair)


def token_of(claims=CLAIMS, algorithm="RS256", key=None, sign=signature, **header):
    """Return a signed JWT (RFC 7519 section 3)."""
    header = {"alg": algorithm, **header}
    payload = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    signed = base64url(json.dumps(header).encode()) + b"." + base64url(payload)
    return signed + b"." + base64url(sign(key or key_for(algorithm), algorithm, signed))


class FixedKeys:
    """A source of fixed keys that records what it was asked for."""

    def __init__(self, *jwks):
        """Start with these JWKs."""
        self.keys = parse_jwk_set({"keys": list(jwks)})
        self.asked = []

    async def find(self, kid, algorithm):
        """Return the matching keys."""
        self.asked.append((kid, algorithm))
        return [
            key.public_key
            for key in self.keys
            if algorithm in key.algorithms and kid in (None, key.kid)
        ]


class VerifierCase(SynchronousTestCase):
    """Verifies JWTs."""

    def verifier(self, *jwks, **options):
        """Return a verifier with these keys."""
        jwks = jwks or (jwk_of(rsa_key(), kid="k1"),)
        options = {"issuer": ISSUER, "audience": "mail", "now": lambda: NOW, **options}
        return JWTVerifier(FixedKeys(*jwks), **options)

    def claims(self, token, *jwks, **options):
        """Return the claims that the verifier returns for a token."""
        verifier = self.verifier(*jwks, **options)
        return self.successResultOf(Deferred.fromCoroutine(verifier.verify(token)))

    def rejection(self, token, *jwks, **options):
        """Return why a token is rejected; no error may contain a part of the token."""
        verifier = self.verifier(*jwks, **options)
        failure = self.failureResultOf(Deferred.fromCoroutine(verifier.verify(token)), InvalidToken)
        self.assertEqual(failure.value.status, "invalid_token")
        for part in token.split(b"."):
            if len(part) > 8:
                self.assertNotIn(part.decode("latin-1"), failure.getTraceback())
        self.assertTrue(failure.value.__context__ is None or failure.value.__suppress_context__)
        return str(failure.value)


A3_JWK = {
    "kty": "EC",
    "crv": "P-256",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    "d": "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI",
}
