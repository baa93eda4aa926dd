"""The checker of bearer tokens: the user that a token names, and the errors for the client."""

import os

from hypothesis import given
from hypothesis import strategies as st
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import Portal
from twisted.cred.strcred import makeChecker
from twisted.internet.defer import Deferred
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from popserv.auth.oauth.checker import TokenChecker
from popserv.auth.oauth.provider import ProviderError
from popserv.auth.oauth.verifier import InvalidToken, ITokenVerifier
from popserv.auth.realm import MaildropRealm
from popserv.errors import BadCommand, TryLater
from popserv.interfaces import IAPOPCredentials, ICredentialsSupport, IMailbox, ITokenCredentials
from popserv.maildrops.memory import MemoryMaildrops
from tests.auth.oauth.harness import DISCOVERY, Credentials, ProviderCase, json_answer
from tests.auth.oauth.tokens import jwk_of, rsa_key, token_of


@implementer(ITokenVerifier)
class ScriptedVerifier:
    """A verifier with the same result for every token."""

    def __init__(self, answer):
        """The result is claims, an exception, or a Deferred."""
        self.answer, self.asked = answer, []

    async def verify(self, token):
        """Return or raise the result."""
        self.asked.append(token)
        if isinstance(self.answer, Exception):
            raise self.answer
        return await self.answer if isinstance(self.answer, Deferred) else self.answer


class CheckerTests(SynchronousTestCase):
    """TokenChecker."""

    def check(self, answer, credentials=None, **options):
        """Return the Deferred of a checker whose verifier has this result."""
        self.credentials = credentials or Credentials()
        checker = TokenChecker(ScriptedVerifier(answer), **options)
        return checker.requestAvatarId(self.credentials)

    def name(self, claims, username=b"", **options):
        """Return the name of the user whom these claims authenticate."""
        found = self.successResultOf(self.check(claims, Credentials(username=username), **options))
        self.assertEqual(self.credentials.errors, [])
        return found

    def rejection(self, answer, username=b"", status="invalid_token", **options):
        """Return the reason for the log; the client was sent the status."""
        outcome = self.check(answer, Credentials(username=username), **options)
        failure = self.failureResultOf(outcome, UnauthorizedLogin)
        self.assertEqual([each["status"] for each in self.credentials.errors], [status])
        self.assertIsNone(failure.value.__cause__)
        self.assertIsNone(failure.value.__context__)
        return str(failure.value)

    def test_interfaces(self):
        """It is a checker for token credentials, and for no others."""
        checker = TokenChecker(ScriptedVerifier({}))
        verifyObject(ICredentialsChecker, checker)
        verifyObject(ICredentialsSupport, checker)
        self.assertEqual(checker.credentialInterfaces, (ITokenCredentials,))
        self.assertIs(checker.supports(ITokenCredentials), True)
        self.assertIs(checker.supports(IAPOPCredentials), False)

    def test_accepted(self):
        """A valid token authenticates the user whom the token names."""
        verifier = ScriptedVerifier({"email": "ann@example.org"})
        credentials = Credentials(b"t0ken")
        outcome = TokenChecker(verifier).requestAvatarId(credentials)
        self.assertEqual(self.successResultOf(outcome), b"ann@example.org")
        self.assertEqual(credentials.username, b"ann@example.org")
        self.assertEqual(verifier.asked, [b"t0ken"])

    def test_waits(self):
        """The verifier may return its result later."""
        answer = Deferred()
        outcome = self.check(answer)
        self.assertNoResult(outcome)
        answer.callback({"email": "ann"})
        self.assertEqual(self.successResultOf(outcome), b"ann")

    def test_claims_in_order(self):
        """The first claim that is a non-empty string is the name."""
        options = {"user_claims": ["preferred_username", "upn"]}
        self.assertEqual(self.name({"preferred_username": "a", "upn": "b"}, **options), b"a")
        for nothing in ({}, {"preferred_username": ""}, {"preferred_username": None}):
            self.assertEqual(self.name({"upn": "b", **nothing}, **options), b"b")
        for other in (1, True, ["a"], {"a": 1}):
            self.assertEqual(self.name({"preferred_username": other, "upn": "b"}, **options), b"b")

    def test_no_name(self):
        """A token without any of the claims is rejected."""
        for claims in ({}, {"email": ""}, {"email": 1}, {"email": ["ann"]}, {"Email": "ann"}):
            self.assertIn("has no user name in email", self.rejection(claims))
        self.assertIn(
            "has no user name in upn or sub", self.rejection({}, user_claims=["upn", "sub"])
        )
        self.assertIn("has invalid Unicode in the claim email", self.rejection({"email": "\ud800"}))

    def test_unverified_email(self):
        """An email address that the provider has not verified is rejected."""
        for verified in (False, None, "false", 0, "", []):
            claims = {"email": "ann", "email_verified": verified}
            self.assertIn("unverified", self.rejection(claims))
            self.assertEqual(self.name(claims | {"sub": "s"}, user_claims=["sub"]), b"s")
        for verified in (True, "true"):
            self.assertEqual(self.name({"email": "ann", "email_verified": verified}), b"ann")

    @given(st.text(min_size=1), st.binary())
    def test_given_name(self, claimed, username):
        """A name from the client must be equal to the claim, octet for octet."""
        try:
            name = claimed.encode("utf-8")
        except UnicodeEncodeError:
            return
        self.assertEqual(self.name({"email": claimed}, name), name)
        self.assertEqual(self.name({"email": claimed}), name)
        if username not in (b"", name):
            self.assertIn("belongs to the user ", self.rejection({"email": claimed}, username))

    def test_case(self):
        """Names that differ in case or in Unicode normalization are different."""
        for claimed, given_name in (
            ("ann", b"Ann"),
            ("Ann@Example.org", b"ann@example.org"),
            ("ann", b"ann "),
            ("ann", b"ann\0"),
            ("\u00e9", "e\u0301".encode()),
        ):
            self.assertIn(f'user "{claimed}"', self.rejection({"email": claimed}, given_name))

    def test_invalid(self):
        """A token that the verifier rejects is rejected, with the reason in the log."""
        self.assertEqual(self.rejection(InvalidToken("has expired")), "the token has expired")
        self.assertEqual(self.credentials.errors, [{"status": "invalid_token"}])

    def test_error_for_client(self):
        """The error for the client has scope and discovery URL if set (RFC 7628 section 3.2.2)."""
        self.rejection(InvalidToken("x"), scope="mail", discovery_url=DISCOVERY)
        sent = {"status": "invalid_token", "scope": "mail", "openid-configuration": DISCOVERY}
        self.assertEqual(self.credentials.errors, [sent])

    def test_same_error_for_all(self):
        """The error for the client does not depend on the user's name."""
        sent = []
        for answer, username in (
            (InvalidToken("x"), b""),
            ({"email": "ann"}, b"bob"),
            ({}, b"ann"),
        ):
            self.rejection(answer, username, discovery_url=DISCOVERY)
            sent += self.credentials.errors
        self.assertEqual(sent, [sent[0]] * 3)

    def test_scope(self):
        """A token must have every word of the scope, in scope or scp, as string or array."""
        for claims in (
            {"scope": "a b"},
            {"scope": "x b a"},
            {"scp": ["a", "b"]},
            {"scp": "b a"},
            {"scope": ["b", "a", 1, None]},
            {"scope": "a", "scp": ["b"]},
        ):
            self.assertEqual(self.name(claims | {"email": "ann"}, scope="a b"), b"ann")
        for claims in (
            {},
            {"scope": "a"},
            {"scope": "ab"},
            {"scope": "A B"},
            {"scope": {"a": 1, "b": 1}},
            {"scope": ["a b"]},
            {"scope": None, "scp": 1},
        ):
            said = self.rejection(
                claims | {"email": "ann"}, scope="a b", status="insufficient_scope"
            )
            self.assertEqual(said, "the token does not have the scope a b")
            self.assertEqual(self.credentials.errors[0]["scope"], "a b")

    def test_provider_error(self):
        """If the token cannot be verified, the login fails with TryLater."""
        provider_error = ProviderError("https://x: HTTP status 500")
        error = self.failureResultOf(self.check(provider_error), TryLater).value
        self.assertIs(error.__cause__, provider_error)
        self.assertNotIn("500", str(error))
        self.assertEqual(self.credentials.errors, [])

    def test_other_errors(self):
        """Other errors of the verifier are passed on."""
        for error in (TryLater("busy"), RuntimeError("bug"), KeyError("exp")):
            self.assertIs(self.failureResultOf(self.check(error)).value, error)
            self.assertEqual(self.credentials.errors, [])

    def test_aborted(self):
        """If the client aborts the exchange, that error is passed on."""
        outcome = self.check(InvalidToken("x"), Credentials(aborts=True))
        self.failureResultOf(outcome, BadCommand)


class PortalTests(ProviderCase):
    """From a file, with a real provider, through a portal to a mailbox."""

    def setUp(self):
        """Record the log."""
        super().setUp()
        self.events = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)
        self.path = os.path.abspath(self.mktemp())

    def portal(self, **keys):
        """Return a portal whose checker has a file with these keys."""
        lines = [f"{name.replace('_', '-')} = {value}" for name, value in keys.items()]
        with open(self.path, "w") as file:
            file.write("\n".join(["[oauth]", *lines]))
            os.fchmod(file.fileno(), 0o600)
        checker = makeChecker(f"oauth:{self.path}")
        return Portal(MaildropRealm(MemoryMaildrops()), [checker])

    async def log_in(self, portal, token, username=b""):
        """Log in; return the mailbox, or the exception."""
        try:
            _, mailbox, logout = await portal.login(Credentials(token, username), None, IMailbox)
        except Exception as error:
            return error
        await logout()
        return mailbox

    async def test_jwks(self):
        """Tokens are verified with the provider's keys; none is in the log or in an error."""
        keys, url = await self.serve(json_answer({"keys": [jwk_of(rsa_key(), kid="k1")]}))
        portal = self.portal(jwks=url, issuer="https://provider.example", audience="mail")
        claims = {"iss": "https://provider.example", "aud": "mail", "exp": 1 << 33, "email": "ann"}
        good = token_of(claims, kid="k1")
        for username in (b"ann", b""):
            self.assertTrue(IMailbox.providedBy(await self.log_in(portal, good, username)))
        canaries = [good]
        for token in (
            token_of({**claims, "exp": 1}, kid="k1"),
            token_of({**claims, "aud": "other"}, kid="k1"),
            token_of(claims, kid="k2"),
            good[:-40],
            good + b"s3cret",
            b"s3cret-opaque",
        ):
            canaries.append(token)
            error = await self.log_in(portal, token, b"ann")
            self.assertIsInstance(error, UnauthorizedLogin)
            self.events.append({"log_format": "{error!r}", "error": error})
        self.assertEqual(len(keys.requests), 1)
        self.search_log(canaries)

    async def test_introspection(self):
        """The provider is asked; neither token nor secret is in the log or in an error."""
        provider, url = await self.serve(json_answer({"active": True, "username": "ann"}))
        portal = self.portal(
            introspection=url, client_id="popserv", client_secret="s3cret", user="username"
        )
        token = b"0paque-t0ken-0f-ann"
        self.assertTrue(IMailbox.providedBy(await self.log_in(portal, token, b"ann")))
        answers = [
            (json_answer({"active": False}), UnauthorizedLogin),
            (json_answer({}, 401), TryLater),
            (lambda _: b"s3cret", TryLater),
        ]
        for answer, kind in answers:
            provider.answer = answer
            error = await self.log_in(portal, token, b"ann")
            self.assertIsInstance(error, kind)
            cause = error.__cause__
            self.events.append(
                {"log_format": "{error!r} {cause!r}", "error": error, "cause": cause}
            )
        self.search_log([token, b"s3cret"])

    def search_log(self, canaries):
        """Check that no part of a token is in the log."""
        logged = "\n".join(f"{formatEvent(event)} {event!r}" for event in self.events)
        self.assertGreater(len(self.events), 4)
        for canary in canaries:
            for part in canary.split(b"."):
                self.assertNotIn(part.decode(), logged)
