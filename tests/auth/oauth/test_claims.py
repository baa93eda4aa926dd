"""What a token looks like, and what its claims must say."""

import math

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.oauth.claims import RequiredClaims, check_syntax
from popserv.auth.oauth.verifier import InvalidToken
from tests.auth.oauth.tokens import (
    CLAIMS,
    ISSUER,
    NOW,
    VerifierCase,
    token_of,
)


class SyntaxTests(SynchronousTestCase):
    """check_syntax."""

    def test_bearer(self):
        """A token has the octets of RFC 6750 section 2.1 and no others."""
        for token in (b"a", b"aZ09-._~+/", b"mF_9.B5f-4.1JqM", b"a=", b"YQ=="):
            check_syntax(token)
        for token in (b"", b"=", b"a=b", b"a b", b" a", b"a\n", b"a\0", b"\xff", b"a,b", b"a\x01"):
            self.assertRaises(InvalidToken, check_syntax, token)


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
            self.assertEqual(
                self.why({name: NOW + 31}), f"is not valid yet according to its {name} claim"
            )
            self.assertIsNone(self.why({name: 0}))

    def test_times(self):
        """A time that is no number of seconds is refused."""
        odd = ("1800000000", True, [], {}, math.nan, math.inf, -math.inf, -1, 10**400, NOW * 1000)
        for value in odd:
            for name in ("exp", "nbf", "iat"):
                self.assertEqual(self.why({name: value}), f"has an invalid {name} claim")

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
            RequiredClaims(leeway=leeway).check(times, NOW)
        except InvalidToken:
            self.assertFalse(good)
        else:
            self.assertTrue(good)
