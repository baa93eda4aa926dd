"""The syntax of a bearer token, and the claims that a token must have."""

import math

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.oauth.claims import RequiredClaims, check_syntax
from popserv.auth.oauth.verifier import InvalidToken
from tests.auth.oauth.tokens import CLAIMS, ISSUER, NOW, VerifierCase, token_of


class SyntaxTests(SynchronousTestCase):
    """check_syntax."""

    def test_bearer(self):
        """A bearer token consists of the octets of RFC 6750 section 2.1 and of no others."""
        for token in (b"a", b"aZ09-._~+/", b"mF_9.B5f-4.1JqM", b"a=", b"YQ=="):
            check_syntax(token)
        for token in (b"", b"=", b"a=b", b"a b", b" a", b"a\n", b"a\0", b"\xff", b"a,b", b"a\x01"):
            self.assertRaises(InvalidToken, check_syntax, token)

    def test_length(self):
        """A token may have 64 KiB, and not an octet more."""
        check_syntax(b"x" * 65_536)
        with self.assertRaisesRegex(InvalidToken, "is too long"):
            check_syntax(b"x" * 65_537)


class ClaimTests(VerifierCase):
    """RequiredClaims, with signed tokens."""

    def why(self, more, **options):
        """Return why a token with changed claims is rejected, or None; "-" removes a claim."""
        claims = {name: value for name, value in (CLAIMS | more).items() if value != "-"}
        verifier = self.verifier(**options)
        outcome = Deferred.fromCoroutine(verifier.verify(token_of(claims)))
        results = []
        outcome.addErrback(lambda failure: results.append(str(failure.value)))
        return results[0] if results else None

    def test_expiry(self):
        """A token expires at its exp plus the leeway (RFC 7519 section 4.1.4)."""
        self.assertIsNone(self.why({"exp": NOW - 29}))
        self.assertIsNone(self.why({"exp": NOW - 29.5}))
        self.assertEqual(self.why({"exp": NOW - 30}), "has expired")
        self.assertEqual(self.why({"exp": NOW}, leeway=0), "has expired")
        self.assertEqual(self.why({"exp": 0}), "has expired")
        for missing in ("-", None):
            self.assertIn("has no exp", self.why({"exp": missing}))

    def test_not_yet(self):
        """A token is not valid before its nbf and its iat, less the leeway."""
        for name in ("nbf", "iat"):
            self.assertIsNone(self.why({name: NOW + 30}))
            self.assertEqual(
                self.why({name: NOW + 31}), f"is not valid yet according to its {name} claim"
            )
            self.assertIsNone(self.why({name: 0}))

    def test_times(self):
        """A time that is not a number of seconds is rejected."""
        invalid = (
            "1800000000",
            True,
            [],
            {},
            math.nan,
            math.inf,
            -math.inf,
            -1,
            10**400,
            NOW * 1000,
        )
        for value in invalid:
            for name in ("exp", "nbf", "iat"):
                self.assertEqual(self.why({name: value}), f"has an invalid {name} claim")

    def test_issuer(self):
        """The issuer must be equal to the required one, character for character."""
        for other in (ISSUER + "/", ISSUER.upper(), "", None, [ISSUER], "-", {ISSUER: 1}):
            self.assertIn("issuer", self.why({"iss": other}), other)

    def test_audience(self):
        """One of the token's audiences must be one of the required ones."""
        for good in ("mail", ["mail"], ["x", "mail"]):
            self.assertIsNone(self.why({"aud": good}))
        self.assertIsNone(self.why({"aud": ["x", "b"]}, audience=["a", "b"]))
        for other in ("Mail", "mai", "mail2", ["x"], [], "", None, "-", {"mail": 1}, [["mail"]]):
            self.assertIn("audience", self.why({"aud": other}), other)

    def test_log_is_bounded(self):
        """A claim that is quoted in the log is truncated."""
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
        """A token is valid from its nbf and iat until its exp, both extended by the leeway."""
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
