"""The verifier of JWTs, with tokens signed by the tests and the examples of RFCs."""

import hmac
import json
import subprocess
import sys

from cryptography.hazmat.primitives.asymmetric import ed448
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from popserv.auth.oauth.claims import MAX_TOKEN_OCTETS
from popserv.auth.oauth.jwks import ALGORITHMS
from popserv.auth.oauth.verifier import InvalidToken, ITokenVerifier
from tests.auth.oauth.tokens import (
    A3_JWK,
    CLAIMS,
    ISSUER,
    NOW,
    VerifierCase,
    base64url,
    from_base64url,
    jwk_of,
    key_for,
    rsa_key,
    token_of,
)


class SignatureTests(VerifierCase):
    """JWTVerifier: signatures and headers."""

    def test_algorithms(self):
        """Each algorithm verifies a signature of its key."""
        for name in ALGORITHMS:
            key = key_for(name)
            self.assertEqual(self.claims(token_of(algorithm=name), jwk_of(key)), CLAIMS, name)
        key = ed448.Ed448PrivateKey.generate()
        self.assertEqual(self.claims(token_of(algorithm="EdDSA", key=key), jwk_of(key)), CLAIMS)

    def test_loaded(self):
        """All that signatures need is loaded with the module: later Python's files may be away."""
        examples = [
            (token_of(algorithm=name).decode(), jwk_of(key_for(name))) for name in ALGORITHMS
        ]
        script = (
            "import json, sys\n"
            "from twisted.internet.defer import ensureDeferred\n"
            "from popserv.auth.oauth.jwt_verifier import JWTVerifier\n"
            "from popserv.auth.oauth.jwks import parse_jwk_set\n"
            "class Keys:\n"
            "    async def find(self, kid, algorithm):\n"
            "        return [key.public_key for key in parse_jwk_set({'keys': [jwk]})]\n"
            "sys.meta_path.clear()\n"
            f"options = {{'issuer': {ISSUER!r}, 'audience': 'mail', 'now': lambda: {NOW}}}\n"
            "verifier = JWTVerifier(Keys(), **options)\n"
            "for token, jwk in json.load(sys.stdin):\n"
            "    ensureDeferred(verifier.verify(token.encode())).addCallbacks(print, sys.exit)\n"
        )
        command = (sys.executable, "-bb", "-W", "error", "-c", script)
        done = subprocess.run(
            command, input=json.dumps(examples), capture_output=True, text=True, check=False
        )
        self.assertEqual((done.stdout, done.stderr), (f"{CLAIMS}\n" * len(ALGORITHMS), ""))

    def test_interface(self):
        """JWTVerifier provides ITokenVerifier."""
        verifyObject(ITokenVerifier, self.verifier())

    def test_key_id(self):
        """Of several keys the one with the key ID is used; without a key ID, each that matches."""
        jwks = [jwk_of(rsa_key(name), kid=name) for name in ("k1", "k2")]
        for header in ({}, {"kid": "k2"}):
            token = token_of(key=rsa_key("k2"), **header)
            self.assertEqual(self.claims(token, *jwks), CLAIMS)
        token = token_of(key=rsa_key("k2"), kid="k1")
        self.assertEqual(self.rejection(token, *jwks), "has an invalid signature")
        token = token_of(key=rsa_key("k2"), kid="k3")
        self.assertIn("not in the provider's JWK Set", self.rejection(token, *jwks))

    def test_tampered(self):
        """A token with a changed header, payload or signature is rejected."""
        header, payload, signed = token_of().split(b".")
        other = base64url(json.dumps(CLAIMS | {"email": "root@example.org"}).encode())
        flipped = base64url(bytes([from_base64url(signed)[0] ^ 1]) + from_base64url(signed)[1:])
        for parts in (
            (header, other, signed),
            (header, payload, flipped),
            (header, payload, b""),
            (header, payload, base64url(b"\0" * 256)),
            (base64url(b'{"alg":"RS256","a":1}'), payload, signed),
            (base64url(b'{"alg":"PS256"}'), payload, signed),
        ):
            self.assertEqual(self.rejection(b".".join(parts)), "has an invalid signature")

    def test_other_key(self):
        """A token that was signed with another key is rejected."""
        token = token_of(key=rsa_key("other"))
        self.assertEqual(self.rejection(token), "has an invalid signature")

    def test_algorithm_confusion(self):
        """A public key in any form is not accepted as a shared secret (RFC 8725 section 2.1)."""
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
                    self.rejection(token), "is signed with an algorithm that is not allowed"
                )

    def test_no_secret_algorithm(self):
        """Algorithms with a shared secret, and "none", cannot be allowed."""
        for name in ("HS256", "none", "None", "RS1", ""):
            self.assertRaises(ValueError, self.verifier, algorithms=["RS256", name])
        self.assertRaises(ValueError, self.verifier, algorithms=[])

    def test_none(self):
        """An unsecured JWT is rejected, however it writes "none" (RFC 7519 section 6)."""
        for name in ("none", "None", "NONE", "nOnE", "", None, 0, [], {}, ["RS256"]):
            for signed in (b"", b"x"):
                token = token_of(algorithm=name, key=b"k", sign=lambda *_, signed=signed: signed)
                self.assertIn("not allowed", self.rejection(token), name)
        header = base64url(b"{}") + b"." + base64url(b"{}") + b"."
        self.assertIn("not allowed", self.rejection(header))

    def test_allowed(self):
        """An algorithm that is not allowed is rejected, even if the key supports it."""
        for name in ("RS256", "PS512"):
            token = token_of(algorithm=name)
            self.assertIn("not allowed", self.rejection(token, algorithms=["RS512", "ES256"]))
        self.assertEqual(self.claims(token_of(), algorithms=["RS256"]), CLAIMS)

    def test_alg_of_a_key(self):
        """A key with an alg parameter is used for that algorithm only."""
        jwk = jwk_of(rsa_key(), alg="PS256")
        self.assertIn("is not in the provider's JWK Set", self.rejection(token_of(), jwk))
        self.assertEqual(self.claims(token_of(algorithm="PS256"), jwk), CLAIMS)

    def test_wrong_curve(self):
        """A key on one curve does not verify signatures of another curve's algorithm."""
        token = token_of(algorithm="ES256", key=key_for("ES384"))
        self.assertIn(
            "is not in the provider's JWK Set", self.rejection(token, jwk_of(key_for("ES384")))
        )

    def test_critical(self):
        """A token with a crit header parameter is rejected (RFC 7515 section 4.1.11)."""
        b64 = {"crit": ["b64"]}
        for more in (
            b64 | {"b64": False},
            b64 | {"b64": True},
            {"crit": ["x"], "x": 1},
            {"crit": []},
        ):
            self.assertRegex(self.rejection(token_of(**more)), "crit|not a signed JWT")

    def test_embedded_key(self):
        """A key in the token, or the URL of one, is ignored."""
        other = rsa_key("other")
        for more in ({"jwk": jwk_of(other)}, {"jku": "http://127.0.0.1:1/"}, {"x5c": ["AA=="]}):
            self.assertEqual(
                self.rejection(token_of(key=other, **more)), "has an invalid signature"
            )

    def test_type(self):
        """A required typ may be written in either form (RFC 7515 section 4.1.9)."""
        for typ in ("at+jwt", "application/at+jwt", "AT+JWT"):
            self.assertEqual(self.claims(token_of(typ=typ), typ="at+jwt"), CLAIMS)
            self.assertEqual(self.claims(token_of(typ=typ), typ="application/at+jwt"), CLAIMS)
            self.assertEqual(self.claims(token_of(typ=typ)), CLAIMS)
        for header in ({}, {"typ": "JWT"}, {"typ": None}, {"typ": ["at+jwt"]}):
            self.assertEqual(self.rejection(token_of(**header), typ="at+jwt"), "has the wrong typ")

    def test_audience_is_required(self):
        """A verifier without an audience is a ValueError."""
        for empty in ("", [], ()):
            self.assertRaises(ValueError, self.verifier, audience=empty)


class SyntaxTests(VerifierCase):
    """JWTVerifier: the syntax of tokens."""

    def test_malformed(self):
        """A token that is not a signed JWT is rejected before a key is looked up."""
        deep = base64url(b'{"alg":' + b"[" * 40_000 + b"]" * 40_000 + b"}")[: MAX_TOKEN_OCTETS - 9]
        jwe = b".".join([base64url(b'{"alg":"RSA-OAEP","enc":"A256GCM"}'), b"a", b"a", b"a", b"a"])
        for token in (
            b"opaque", b"a.b", b"a.b.c", b"..", b"e30.e30", jwe, deep + b".e30.e30",
            base64url(b"[]") + b".e30.e30", base64url(b"\xff") + b".e30.e30",
            token_of(kid=1), token_of(kid=["k1"]), token_of() + b".e30", b"." + token_of(),
        ):  # fmt: skip
            verifier = self.verifier()
            outcome = Deferred.fromCoroutine(verifier.verify(token))
            error = self.failureResultOf(outcome, InvalidToken).value
            self.assertIn(str(error), ("is not a signed JWT", "is not a bearer token"))
            self.assertEqual(verifier._keys.asked, [])

    def test_no_claims(self):
        """A signed text that is not a JSON object is rejected."""
        for payload in (b"", b"[]", b"null", b"{", b"\xff", b"[" * 40_000):
            self.assertEqual(
                self.rejection(token_of(payload)), "has claims that are not a JSON object"
            )

    def test_length(self):
        """A token may have MAX_TOKEN_OCTETS, and not one more."""
        room = MAX_TOKEN_OCTETS - len(token_of(CLAIMS | {"x": ""}))
        longest = token_of(CLAIMS | {"x": "y" * (room * 3 // 4 - 2)})
        self.assertGreater(len(longest), MAX_TOKEN_OCTETS - 8)
        self.assertIn("x", self.claims(longest))
        self.assertEqual(self.rejection(b"x" * (MAX_TOKEN_OCTETS + 1)), "is too long")

    @given(st.binary(max_size=200) | st.from_regex(rb"[\w.-]+\.[\w.-]+\.[\w.-]+"))
    def test_anything(self, token):
        """Any other octets are rejected with InvalidToken."""
        self.rejection(token)

    @given(
        st.dictionaries(
            st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "zip", "enc"]),
            st.sampled_from(["RS256", "k1", None, True, False, 0, 1.5, [], {}, ["b64"]]),
        ),
        st.binary(max_size=300),
    )
    def test_any_header(self, header, signed):
        """A token without the provider's signature is rejected, whatever its header."""
        parts = json.dumps(header).encode(), json.dumps(CLAIMS).encode(), signed
        self.rejection(b".".join(map(base64url, parts)))


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
    """JWTVerifier with the example tokens of RFCs.

    They have no audience, and are rejected for that alone: their signatures are valid.

    """

    def why(self, token, *jwks, now=1_300_819_380 - 1):
        """Return why a token is rejected in the last second before its exp."""
        return self.rejection(token, *jwks, issuer="joe", now=lambda: now, leeway=0)

    def test_signed(self):
        """The signatures of RFC 7515 appendices A.2 and A.3 are valid."""
        for header, jwk, signed in (
            (b'{"alg":"RS256"}', A2_JWK, A2_SIGNATURE),
            (b'{"alg":"ES256"}', A3_JWK, A3_SIGNATURE),
        ):
            token = b".".join([base64url(header), PAYLOAD, signed])
            self.assertEqual(self.why(token, jwk), "has the wrong audience None")
            self.assertEqual(self.why(token, jwk, now=1_300_819_380), "has expired")
            cut = b".".join([base64url(header), PAYLOAD[:-1] + b"A", signed])
            self.assertIn(self.why(cut, jwk), ("has an invalid signature", "is not a signed JWT"))

    def test_ed25519(self):
        """The signature of RFC 8037 appendix A.4 is valid; its payload is not a JSON object."""
        self.assertEqual(
            self.why(ED25519_TOKEN, ED25519_JWK), "has claims that are not a JSON object"
        )

    def test_hmac(self):
        """RFC 7515 appendix A.1 is rejected: its algorithm has a shared secret."""
        header = b"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9"
        token = header + b"." + PAYLOAD + b".dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
        secret = {"kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75"}
        self.assertIn("not allowed", self.why(token, secret, A2_JWK))

    def test_unsecured(self):
        """RFC 7519 section 6.1 is rejected: it is not signed."""
        self.assertIn("not allowed", self.why(b"eyJhbGciOiJub25lIn0." + PAYLOAD + b"."))
