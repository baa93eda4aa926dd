"""The verifiers: tokens signed by hand and by RFCs, keys that rotate, a provider that is asked."""

import hmac
import json
import math
import os
from base64 import b64decode, urlsafe_b64decode, urlsafe_b64encode
from functools import cache
from hashlib import sha256
from threading import current_thread
from urllib.parse import parse_qs, unquote_plus

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from popserv.auth.oauth.provider import MAX_ANSWER, ProviderError
from popserv.auth.oauth.verifiers import (
    ALGORITHMS,
    MAX_TOKEN,
    Demands,
    IntrospectionVerifier,
    InvalidToken,
    ITokenVerifier,
    JWTVerifier,
    KeyFile,
    KeyURL,
    check_form,
    parse_keys,
)
from popserv.errors import TryLater
from tests.auth.oauth.test_provider import ProviderCase, never, with_object

NOW = 1_700_000_000
ISSUER = "https://provider.example"
CLAIMS = {"iss": ISSUER, "aud": "mail", "exp": NOW + 300, "email": "ann@example.org"}

HASHES = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}


def base64url(octets):
    """Return octets as RFC 7515 section 2 writes them."""
    return urlsafe_b64encode(octets).rstrip(b"=")


def from_base64url(text):
    """Return the octets again."""
    return urlsafe_b64decode(text + b"=" * (-len(text) % 4))


@cache
def rsa_key(name="", bits=2048):
    """Return an RSA key of that name."""
    return rsa.generate_private_key(65537, bits)


@cache
def key_for(algorithm):
    """Return a key that can make such signatures."""
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
    """Return a number as a JWK has it."""
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


class GivenKeys:
    """A source of keys that are there, and which remembers what it was asked for."""

    def __init__(self, *jwks):
        """Have these."""
        self.keys = parse_keys({"keys": list(jwks)})
        self.asked = []

    async def find(self, kid, algorithm):
        """Return those that fit."""
        self.asked.append((kid, algorithm))
        return [
            key.public
            for key in self.keys
            if algorithm in key.algorithms and kid in (None, key.kid)
        ]


class VerifierCase(SynchronousTestCase):
    """Verifies JWTs."""

    def verifier(self, *jwks, **options):
        """Return a verifier that knows these keys."""
        jwks = jwks or (jwk_of(rsa_key(), kid="k1"),)
        options = {"issuer": ISSUER, "audience": "mail", "now": lambda: NOW, **options}
        return JWTVerifier(GivenKeys(*jwks), **options)

    def claims(self, token, *jwks, **options):
        """Return the claims that the token is found to have."""
        verifier = self.verifier(*jwks, **options)
        return self.successResultOf(Deferred.fromCoroutine(verifier.verify(token)))

    def refusal(self, token, *jwks, **options):
        """Return why the token is refused."""
        verifier = self.verifier(*jwks, **options)
        failure = self.failureResultOf(Deferred.fromCoroutine(verifier.verify(token)), InvalidToken)
        self.assertEqual(failure.value.status, "invalid_token")
        for part in token.split(b"."):
            if len(part) > 8:
                self.assertNotIn(part.decode("latin-1"), failure.getTraceback())
        self.assertTrue(failure.value.__context__ is None or failure.value.__suppress_context__)
        return str(failure.value)


class SignatureTests(VerifierCase):
    """JWTVerifier: who signed."""

    def test_algorithms(self):
        """Each algorithm verifies what its key has signed."""
        for name in ALGORITHMS:
            key = key_for(name)
            self.assertEqual(self.claims(token_of(algorithm=name), jwk_of(key)), CLAIMS, name)
        key = ed448.Ed448PrivateKey.generate()
        self.assertEqual(self.claims(token_of(algorithm="EdDSA", key=key), jwk_of(key)), CLAIMS)

    def test_interface(self):
        """It is an ITokenVerifier."""
        verifyObject(ITokenVerifier, self.verifier())

    def test_key_by_name(self):
        """Of several keys the named one counts; without a name all that fit are tried."""
        jwks = [jwk_of(rsa_key(name), kid=name) for name in ("k1", "k2")]
        for header in ({}, {"kid": "k2"}):
            token = token_of(key=rsa_key("k2"), **header)
            self.assertEqual(self.claims(token, *jwks), CLAIMS)
        token = token_of(key=rsa_key("k2"), kid="k1")
        self.assertEqual(self.refusal(token, *jwks), "has a wrong signature")
        token = token_of(key=rsa_key("k2"), kid="k3")
        self.assertIn("provider does not have", self.refusal(token, *jwks))

    def test_tampered(self):
        """A token with a changed bit, in whichever part, is refused."""
        header, payload, signed = token_of().split(b".")
        other = base64url(json.dumps(CLAIMS | {"email": "root@example.org"}).encode())
        turned = base64url(bytes([from_base64url(signed)[0] ^ 1]) + from_base64url(signed)[1:])
        for parts in (
            (header, other, signed),
            (header, payload, turned),
            (header, payload, b""),
            (header, payload, base64url(b"\0" * 256)),
            (base64url(b'{"alg":"RS256","a":1}'), payload, signed),
            (base64url(b'{"alg":"PS256"}'), payload, signed),
        ):
            self.assertEqual(self.refusal(b".".join(parts)), "has a wrong signature")

    def test_other_key(self):
        """What somebody else has signed is refused."""
        token = token_of(key=rsa_key("somebody's"))
        self.assertEqual(self.refusal(token), "has a wrong signature")

    def test_algorithm_confusion(self):
        """A public key is never taken for a secret, in whatever form (RFC 8725 section 2.1)."""
        public = rsa_key().public_key()
        jwk = jwk_of(rsa_key(), kid="k1")
        for secret in (
            public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            from_base64url(jwk["n"].encode()),
            json.dumps(jwk).encode(),
            b"",
        ):
            for kid in ({}, {"kid": "k1"}):
                token = token_of(
                    algorithm="HS256", sign=lambda key, _, text: hmac.digest(key, text, "sha256"),
                    key=secret or b"\0", **kid,
                )  # fmt: skip
                self.assertEqual(
                    self.refusal(token), "is signed by an algorithm that is not allowed"
                )

    def test_no_secret_algorithm(self):
        """No algorithm with a secret, and not none, can be allowed."""
        for name in ("HS256", "none", "None", "RS1", ""):
            self.assertRaises(ValueError, self.verifier, algorithms=["RS256", name])
        self.assertRaises(ValueError, self.verifier, algorithms=[])

    def test_none(self):
        """A token without a signature is refused, however it writes that (RFC 7519 section 6)."""
        for name in ("none", "None", "NONE", "nOnE", "", None, 0, [], {}, ["RS256"]):
            for signed in (b"", b"x"):
                token = token_of(algorithm=name, key=b"k", sign=lambda *_, signed=signed: signed)
                self.assertIn("not allowed", self.refusal(token), name)
        header = base64url(b"{}") + b"." + base64url(b"{}") + b"."
        self.assertIn("not allowed", self.refusal(header))

    def test_allowed(self):
        """An algorithm that the operator has not allowed is refused, though the key could."""
        for name in ("RS256", "PS512"):
            token = token_of(algorithm=name)
            self.assertIn("not allowed", self.refusal(token, algorithms=["RS512", "ES256"]))
        self.assertEqual(self.claims(token_of(), algorithms=["RS256"]), CLAIMS)

    def test_keys_algorithm(self):
        """A key that says what it is for is for nothing else."""
        jwk = jwk_of(rsa_key(), alg="PS256")
        self.assertIn("does not have", self.refusal(token_of(), jwk))
        self.assertEqual(self.claims(token_of(algorithm="PS256"), jwk), CLAIMS)

    def test_wrong_curve(self):
        """A key on one curve verifies no signature of another's algorithm."""
        token = token_of(algorithm="ES256", key=key_for("ES384"))
        self.assertIn("does not have", self.refusal(token, jwk_of(key_for("ES384"))))

    def test_critical(self):
        """A header that must be understood is not, and refused (RFC 7515 section 4.1.11)."""
        b64 = {"crit": ["b64"]}
        for more in (
            b64 | {"b64": False},
            b64 | {"b64": True},
            {"crit": ["x"], "x": 1},
            {"crit": []},
        ):
            self.assertRegex(self.refusal(token_of(**more)), "crit|no signed JWT")

    def test_embedded_key(self):
        """A key or an address of one that the token itself brings is not looked at."""
        stranger = rsa_key("stranger's")
        for more in ({"jwk": jwk_of(stranger)}, {"jku": "http://127.0.0.1:1/"}, {"x5c": ["AA=="]}):
            self.assertEqual(self.refusal(token_of(key=stranger, **more)), "has a wrong signature")

    def test_type(self):
        """If a type is wanted, the header must say it, in either form (RFC 7515 section 4.1.9)."""
        for typ in ("at+jwt", "application/at+jwt", "AT+JWT"):
            self.assertEqual(self.claims(token_of(typ=typ), typ="at+jwt"), CLAIMS)
            self.assertEqual(self.claims(token_of(typ=typ), typ="application/at+jwt"), CLAIMS)
            self.assertEqual(self.claims(token_of(typ=typ)), CLAIMS)
        for header in ({}, {"typ": "JWT"}, {"typ": None}, {"typ": ["at+jwt"]}):
            self.assertEqual(self.refusal(token_of(**header), typ="at+jwt"), "is of another type")


class FormTests(VerifierCase):
    """JWTVerifier and check_form: what is a token at all."""

    def test_malformed(self):
        """What is no signed JWT is refused before any key is looked for."""
        deep = base64url(b'{"alg":' + b"[" * 40_000 + b"]" * 40_000 + b"}")[: MAX_TOKEN - 9]
        jwe = b".".join([base64url(b'{"alg":"RSA-OAEP","enc":"A256GCM"}'), b"a", b"a", b"a", b"a"])
        for token in (
            b"opaque", b"a.b", b"a.b.c", b"..", b"e30.e30", jwe, deep + b".e30.e30",
            base64url(b"[]") + b".e30.e30", base64url(b"\xff") + b".e30.e30",
            token_of(kid=1), token_of(kid=["k1"]), token_of() + b".e30", b"." + token_of(),
        ):  # fmt: skip
            verifier = self.verifier()
            outcome = Deferred.fromCoroutine(verifier.verify(token))
            error = self.failureResultOf(outcome, InvalidToken).value
            self.assertIn(str(error), ("is no signed JWT", "is of no token's form"))
            self.assertEqual(verifier._keys.asked, [])

    def test_no_claims(self):
        """A signed text that is no JSON object is refused."""
        for payload in (b"", b"[]", b"null", b"{", b"\xff", b"[" * 40_000):
            self.assertEqual(self.refusal(token_of(payload)), "holds no claims")

    def test_length(self):
        """A token may have MAX_TOKEN octets, and not one more."""
        room = MAX_TOKEN - len(token_of(CLAIMS | {"x": ""}))
        longest = token_of(CLAIMS | {"x": "y" * (room * 3 // 4 - 2)})
        self.assertGreater(len(longest), MAX_TOKEN - 8)
        self.assertIn("x", self.claims(longest))
        self.assertEqual(self.refusal(b"x" * (MAX_TOKEN + 1)), "is too long")

    def test_bearer(self):
        """A token has the octets of RFC 6750 section 2.1 and no others."""
        for token in (b"a", b"aZ09-._~+/", b"mF_9.B5f-4.1JqM", b"a=", b"YQ=="):
            check_form(token)
        for token in (b"", b"=", b"a=b", b"a b", b" a", b"a\n", b"a\0", b"\xff", b"a,b", b"a\x01"):
            self.assertRaises(InvalidToken, check_form, token)

    @given(st.binary(max_size=200) | st.from_regex(rb"[\w.-]+\.[\w.-]+\.[\w.-]+"))
    def test_anything(self, token):
        """Whatever is no token of ours is refused as such, and nothing else happens."""
        self.refusal(token)

    @given(
        st.dictionaries(
            st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "zip", "enc"]),
            st.sampled_from(["RS256", "k1", None, True, False, 0, 1.5, [], {}, ["b64"]]),
        ),
        st.binary(max_size=300),
    )
    def test_any_header(self, header, signed):
        """Whatever stands in a header, a token without our signature is refused."""
        parts = json.dumps(header).encode(), json.dumps(CLAIMS).encode(), signed
        self.refusal(b".".join(map(base64url, parts)))


class ClaimTests(VerifierCase):
    """JWTVerifier: for whom, by whom, when."""

    def why(self, more, **options):
        """Return why a token with more or other claims is refused, or None."""
        claims = {name: value for name, value in (CLAIMS | more).items() if value != "-"}
        verifier = self.verifier(**options)
        outcome = Deferred.fromCoroutine(verifier.verify(token_of(claims)))
        results = []
        outcome.addErrback(lambda failure: results.append(str(failure.value)))
        return results[0] if results else None

    def test_expiry(self):
        """At its exp, and the leeway, a token is no longer good (RFC 7519 section 4.1.4)."""
        self.assertIsNone(self.why({"exp": NOW - 29}))
        self.assertIsNone(self.why({"exp": NOW - 29.5}))
        self.assertEqual(self.why({"exp": NOW - 30}), "has expired")
        self.assertEqual(self.why({"exp": NOW}, leeway=0), "has expired")
        self.assertEqual(self.why({"exp": 0}), "has expired")
        for missing in ("-", None):
            self.assertIn("has no exp", self.why({"exp": missing}))

    def test_not_yet(self):
        """Before its nbf and its iat, less the leeway, a token is not good yet."""
        for name in ("nbf", "iat"):
            self.assertIsNone(self.why({name: NOW + 30}))
            self.assertEqual(self.why({name: NOW + 31}), f"is not valid yet, by its {name}")
            self.assertIsNone(self.why({name: 0}))

    def test_times(self):
        """A time that is no number of seconds is refused."""
        odd = ("1800000000", True, [], {}, math.nan, math.inf, -math.inf, -1, 10**400, NOW * 1000)
        for value in odd:
            for name in ("exp", "nbf", "iat"):
                self.assertEqual(self.why({name: value}), f"has an {name} that is no time")

    def test_issuer(self):
        """The issuer is the one that is wanted, character for character."""
        for other in (ISSUER + "/", ISSUER.upper(), "", None, [ISSUER], "-", {ISSUER: 1}):
            self.assertIn("issuer", self.why({"iss": other}), other)

    def test_audience(self):
        """One of the audiences is one that is wanted."""
        for good in ("mail", ["mail"], ["x", "mail"]):
            self.assertIsNone(self.why({"aud": good}))
        self.assertIsNone(self.why({"aud": ["x", "b"]}, audience=["a", "b"]))
        for other in ("Mail", "mai", "mail2", ["x"], [], "", None, "-", {"mail": 1}, [["mail"]]):
            self.assertIn("audience", self.why({"aud": other}), other)

    def test_audience_is_somebody(self):
        """A verifier for nobody is a mistake."""
        for nobody in ("", [], ()):
            self.assertRaises(ValueError, self.verifier, audience=nobody)

    def test_log_is_bounded(self):
        """A claim that is quoted is cut off."""
        self.assertLess(len(self.why({"aud": "x" * 9999})), 300)

    @given(
        st.fixed_dictionaries(
            {},
            optional={
                name: st.integers(NOW - 100, NOW + 100) | st.floats(NOW - 100, NOW + 100)
                for name in ("exp", "nbf", "iat")
            },
        ),
        st.integers(0, 60),
    )
    def test_window(self, times, leeway):
        """A token is good from its nbf and iat until before its exp, the leeway added at both."""
        good = (
            NOW - leeway < times.get("exp", math.inf)
            and NOW + leeway >= times.get("nbf", 0)
            and NOW + leeway >= times.get("iat", 0)
        )
        try:
            Demands(leeway=leeway).check(times, NOW)
        except InvalidToken:
            self.assertFalse(good)
        else:
            self.assertTrue(good)


PAYLOAD = (
    b"eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFt"
    b"cGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
)
"""The claims of RFC 7515's first three examples."""

A2_JWK = {
    "kty": "RSA",
    "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0"
    "Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5r"
    "exMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXF"
    "vUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
    "e": "AQAB",
}

A2_SIGNATURE = (
    b"cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5"
    b"jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L"
    b"07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUi"
    b"pUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"
)

A3_JWK = {
    "kty": "EC",
    "crv": "P-256",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    "d": "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI",
}

A3_SIGNATURE = (
    b"DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
)

ED25519_JWK = {
    "kty": "OKP",
    "crv": "Ed25519",
    "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
}

ED25519_TOKEN = (
    b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg"
    b"3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
)


class PublishedTests(VerifierCase):
    """JWTVerifier with the RFCs' own tokens.

    They have no audience, and are refused for that alone: their signatures are right.
    """

    def why(self, token, *jwks, now=1_300_819_380 - 1):
        """Return the refusal in the last second of the tokens' lives."""
        return self.refusal(token, *jwks, issuer="joe", now=lambda: now, leeway=0)

    def test_signed(self):
        """RFC 7515 appendices A.2 and A.3."""
        for header, jwk, signed in (
            (b'{"alg":"RS256"}', A2_JWK, A2_SIGNATURE),
            (b'{"alg":"ES256"}', A3_JWK, A3_SIGNATURE),
        ):
            token = b".".join([base64url(header), PAYLOAD, signed])
            self.assertEqual(self.why(token, jwk), "is for the audience None")
            self.assertEqual(self.why(token, jwk, now=1_300_819_380), "has expired")
            cut = b".".join([base64url(header), PAYLOAD[:-1] + b"A", signed])
            self.assertIn(self.why(cut, jwk), ("has a wrong signature", "is no signed JWT"))

    def test_ed25519(self):
        """RFC 8037 appendix A.4; what is signed there is no claims."""
        self.assertEqual(self.why(ED25519_TOKEN, ED25519_JWK), "holds no claims")

    def test_hmac(self):
        """RFC 7515 appendix A.1 is refused: its algorithm has a secret."""
        header = b"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9"
        token = header + b"." + PAYLOAD + b".dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
        secret = {"kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75"}
        self.assertIn("not allowed", self.why(token, secret, A2_JWK))

    def test_unsecured(self):
        """RFC 7519 section 6.1 is refused: it is not signed."""
        self.assertIn("not allowed", self.why(b"eyJhbGciOiJub25lIn0." + PAYLOAD + b"."))


class ParseKeysTests(SynchronousTestCase):
    """parse_keys: which keys of a set count (RFC 7517 section 5)."""

    def names(self, *jwks):
        """Return the names of those that count."""
        return [key.kid for key in parse_keys({"keys": list(jwks)})]

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
        (key,) = parse_keys({"keys": [A3_JWK]})
        self.assertFalse(hasattr(key.public, "sign"))
        self.assertEqual(key.algorithms, {"ES256"})
        self.assertIsNone(key.kid)

    def test_no_set(self):
        """What is no set is a ValueError."""
        for document in ({}, {"keys": None}, {"keys": {}}, {"keys": "x"}):
            self.assertRaises(ValueError, parse_keys, document)
        self.assertEqual(parse_keys({"keys": []}), ())


class KeyFileTests(TestCase):
    """KeyFile."""

    def setUp(self):
        """Have a path, and a file with a key."""
        self.path = os.path.abspath(self.mktemp())
        self.write({"keys": [jwk_of(key_for("ES256"), kid="a")]})
        self.source = KeyFile(self.path)

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
            (b"", "no JSON"),
            (b"s3cret", "no JSON"),
            ({"keys": 1}, "no set of keys"),
            ({"keys": []}, "no key that verifies signatures"),
            (b" " * MAX_ANSWER + b"{}", "no JSON"),
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


class KeyURLTests(SynchronousTestCase):
    """KeyURL: when keys are fetched."""

    def setUp(self):
        """Have a source whose provider and clock are ours."""
        self.clock, self.script = Clock(), Script()
        self.source = KeyURL("https://provider.example/keys", self.script, self.clock.seconds)
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
        self.clock.advance(KeyURL.FRESH - 1)
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
        self.clock.advance(KeyURL.PAUSE)
        outcome = self.find("b")
        self.script.answer(key_set("a", "b"))
        self.assertEqual(len(self.successResultOf(outcome)), 1)
        self.assertTrue(self.finds("a"))
        self.assertEqual(self.fetched(), 2)

    def test_storm(self):
        """Invented names make one fetch in PAUSE seconds, and keep nobody out."""
        self.start()
        for second in range(int(KeyURL.PAUSE * 3)):
            for guess in range(5):
                outcome = self.find(f"{second}.{guess}")
                if not outcome.called:
                    self.script.answer(key_set("a"))
                self.assertEqual(self.successResultOf(outcome), [])
            self.assertTrue(self.finds())
            self.clock.advance(1)
        self.assertEqual(self.fetched(), 3)

    def test_withdrawn(self):
        """A key that the provider has withdrawn is gone after FRESH seconds."""
        self.start()
        self.clock.advance(KeyURL.FRESH)
        outcome = self.find()
        self.script.answer({"keys": []})
        self.assertEqual(self.successResultOf(outcome), [])

    def test_stale(self):
        """While the provider is out of reach the keys go on for STALE seconds, and no longer."""
        self.start()
        while self.clock.seconds() < KeyURL.STALE - KeyURL.FRESH:
            self.clock.advance(KeyURL.FRESH)
            outcome = self.find()
            self.script.answer(ProviderError("out of reach"))
            self.assertEqual(len(self.successResultOf(outcome)), 1)
            before = self.fetched()
            self.assertTrue(self.finds())
            self.failureResultOf(self.find("b"), ProviderError)
            self.assertEqual(self.fetched(), before)
        self.clock.advance(KeyURL.FRESH)
        outcome = self.find()
        self.script.answer(ProviderError("out of reach"))
        self.failureResultOf(outcome, ProviderError)
        self.clock.advance(KeyURL.PAUSE)
        outcome = self.find()
        self.script.answer(key_set("a"))
        self.assertEqual(len(self.successResultOf(outcome)), 1)

    def test_never_had(self):
        """Without any keys yet a fault is a fault, for all who wait, and is tried again."""
        outcomes = [self.find() for _ in range(3)]
        self.script.answer(ProviderError("https://x: answered 500"))
        for outcome in outcomes:
            error = self.failureResultOf(outcome, ProviderError).value
            self.assertEqual(str(error), "https://x: answered 500")
        self.failureResultOf(self.find(), ProviderError)
        self.assertEqual(self.fetched(), 1)
        self.clock.advance(KeyURL.PAUSE)
        self.start()

    def test_logged(self):
        """Each fetch that fails is a line in the log, whatever the reason."""
        for fault, why in (
            (ProviderError("https://x: answered 500"), "https://x: answered 500"),
            (RuntimeError("odd"), "https://provider.example/keys: odd"),
            ({"keys": 1}, "https://provider.example/keys: no set of keys"),
        ):
            outcome = self.find()
            self.script.answer(fault)
            self.failureResultOf(outcome, ProviderError)
            self.assertIn(f"keys not fetched: {why}", formatEvent(self.events.pop()))
            self.clock.advance(KeyURL.PAUSE)
        self.assertEqual(self.events, [])


class RealKeyURLTests(ProviderCase):
    """JWTVerifier with keys from a real server."""

    def verifier(self, url, clock):
        """Return a verifier."""
        source = KeyURL(url, clock=clock.seconds)
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
        clock.advance(KeyURL.PAUSE)
        self.assertEqual(await verifier.verify(token_of(key=rsa_key("b"), kid="b")), CLAIMS)
        with self.assertRaisesRegex(InvalidToken, "does not have"):
            await verifier.verify(token)
        self.assertEqual(len(resource.requests), 2)

    async def test_faults(self):
        """No answer of use is a fault; then the provider recovers."""
        resource, url = await self.serve(with_object({}, 500))
        clock = Clock()
        verifier = self.verifier(url, clock)
        token = token_of()
        for answer in (resource.answer, lambda _: b"<html>", lambda _: b" " * (MAX_ANSWER + 1)):
            resource.answer = answer
            with self.assertRaises(ProviderError):
                await verifier.verify(token)
            clock.advance(KeyURL.PAUSE)
        resource.answer = with_object({"keys": [jwk_of(rsa_key())]})
        self.assertEqual(await verifier.verify(token), CLAIMS)


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
        for token in (b"", b"a b", b"\xff", b"x" * (MAX_TOKEN + 1)):
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
        verifier = self.verifier(cache=60)
        for second, asked in ((0, 1), (59, 1), (60, 2), (119, 2), (59, 3), (118, 3), (119, 4)):
            self.now = 1419350300 + second
            self.assertEqual(await verifier.verify(OPAQUE), RFC7662)
            self.assertEqual(len(self.resource.requests), asked, second)
        await verifier.verify(OPAQUE + b"x")
        self.assertEqual(len(self.resource.requests), 5)

    async def test_cache_ends_with_the_token(self):
        """What is remembered is not good beyond the token's own end."""
        verifier = self.verifier(cache=3600, leeway=0)
        self.now = RFC7662["exp"] - 1
        await verifier.verify(OPAQUE)
        self.now += 1
        with self.assertRaisesRegex(InvalidToken, "has expired"):
            await verifier.verify(OPAQUE)

    async def test_bad_answers_not_cached(self):
        """A refusal is not remembered."""
        verifier = self.verifier(cache=60)
        self.resource.answer = with_object({"active": False})
        with self.assertRaises(InvalidToken):
            await verifier.verify(OPAQUE)
        self.resource.answer = with_object(RFC7662)
        self.assertEqual(await verifier.verify(OPAQUE), RFC7662)

    async def test_cache_is_bounded(self):
        """Of too many tokens the oldest is forgotten; none is kept as it is."""
        self.patch(IntrospectionVerifier, "MAX_CACHED", 3)
        verifier = self.verifier(cache=60)
        for token in (b"a", b"b", b"c", b"d", b"d"):
            await verifier.verify(token)
        self.assertEqual(len(self.resource.requests), 4)
        self.assertEqual(
            set(verifier._known), {sha256(each).digest() for each in (b"b", b"c", b"d")}
        )

    async def test_turns(self):
        """So many are asked about at a time, so many wait, and one more is told to try later."""
        self.patch(IntrospectionVerifier, "MAX_ASKING", 2)
        self.patch(IntrospectionVerifier, "MAX_WAITING", 3)
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
