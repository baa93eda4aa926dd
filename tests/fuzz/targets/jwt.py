"""JWTs: any octets, and any header and claims with a right signature."""

import json

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from popserv.auth.oauth.jwt_verifier import JWTVerifier
from popserv.auth.oauth.verifier import InvalidToken
from tests.auth.oauth.tokens import CLAIMS, ISSUER, NOW, FixedKeys, base64url, jwk_of
from tests.auth.sasl.harness import result_of
from tests.fuzz.target import Target, selected

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
VERIFIER = JWTVerifier(
    FixedKeys(jwk_of(KEY, kid="k1")), issuer=ISSUER, audience="mail", now=lambda: NOW
)


def claims_of(token):
    """Return the claims of a token, or None if it is rejected."""
    try:
        return result_of(VERIFIER.verify(token))
    except InvalidToken as error:
        assert str(error), "a rejection without a reason"
        return None


def check(data):
    """A token is accepted only with the signature, the issuer, the audience and the times."""
    kind, rest = selected(data, 1)
    if kind % 3 == 0:
        # Nobody finds a signature by chance.
        assert claims_of(rest) is None
        return
    header, _, payload = rest.partition(b"\n")
    signed = base64url(header) + b"." + base64url(payload)
    signature = KEY.sign(signed)
    claims = claims_of(signed + b"." + base64url(signature))
    if claims is not None:
        assert is_valid(json.loads(header), json.loads(payload)), claims
        assert json.dumps(claims) == json.dumps(json.loads(payload))
        damaged = bytes([signature[0] ^ 1]) + signature[1:]
        assert claims_of(signed + b"." + base64url(damaged)) is None


def is_valid(header, claims):
    """Return whether a token with this header and these claims is valid, as an oracle."""
    audience = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
    times = [claims.get("nbf"), claims.get("iat")]
    return (
        header["alg"] == "EdDSA"
        and "crit" not in header
        and header.get("kid") in (None, "k1")
        and claims["iss"] == ISSUER
        and "mail" in audience
        and claims["exp"] > NOW - 30
        and all(each is None or each <= NOW + 30 for each in times)
    )


_HEADER = b'{"alg": "EdDSA", "kid": "k1", "typ": "at+jwt"}\n'

TARGET = Target(
    "jwt",
    check,
    (
        b"\1" + _HEADER + json.dumps(CLAIMS).encode(),
        b"\1" + _HEADER + json.dumps(CLAIMS | {"aud": ["x", "mail"], "nbf": NOW}).encode(),
        b"\1" + _HEADER + json.dumps(CLAIMS | {"iat": NOW + 40, "exp": 1e9}).encode(),
        *(b'\1{"alg": "none"}\n{}', b'\1{"alg": "EdDSA", "crit": ["b64"], "b64": false}\nx'),
        b"\0" + base64url(_HEADER) + b"." + base64url(b"{}") + b"." + base64url(bytes(64)),
        *(b"\0a.b.c", b"\0", b'\1{"alg": ["EdDSA"], "kid": 1}\n[1, NaN, Infinity, "\\ud800"]'),
    ),
    (
        *(b'"alg"', b'"EdDSA"', b'"kid"', b'"crit"', b'"b64": false', b'"exp": 1e999', b'"iss"'),
        *(
            b'"aud"',
            b'"nbf"',
            b'"iat"',
            b"NaN",
            b"-1",
            b"null",
            b"true",
            b"[[[[",
            b'{"a":',
            b"1e400",
        ),
        *(b"\\ud800", b'"zip"', b'"jku"', b'"jwk"', b"RS256", b"ES256", b"none", b"1" * 30),
    ),
    max_octets=1024,
    calls_per_octet=60,
)
