"""The checker of tokens: whose they are, what the refused learn."""

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
from tests.auth.oauth.harness import DISCOVERY, Credentials, ProviderCase, with_object
from tests.auth.oauth.tokens import jwk_of, rsa_key, token_of


@implementer(ITokenVerifier)
class Says:
    """A verifier that has one answer to all."""

    def __init__(self, answer):
        """Answer this: claims, an exception, or a Deferred."""
        self.answer, self.asked = answer, []

    async def verify(self, token):
        """Give the answer."""
        self.asked.append(token)
        if isinstance(self.answer, Exception):
            raise self.answer
        return await self.answer if isinstance(self.answer, Deferred) else self.answer


class CheckerTests(SynchronousTestCase):
    """TokenChecker."""

    def check(self, answer, credentials=None, **options):
        """Return the Deferred of a checker whose verifier says that."""
        self.credentials = credentials or Credentials()
        checker = TokenChecker(Says(answer), **options)
        return checker.requestAvatarId(self.credentials)

    def name(self, claims, username=b"", **options):
        """Return the name of who is let in by those claims."""
        found = self.successResultOf(self.check(claims, Credentials(username=username), **options))
        self.assertEqual(self.credentials.reasons, [])
        return found

    def refusal(self, answer, username=b"", status="invalid_token", **options):
        """Return the reason for the log; the client has been told the status."""
        outcome = self.check(answer, Credentials(username=username), **options)
        failure = self.failureResultOf(outcome, UnauthorizedLogin)
        self.assertEqual([each["status"] for each in self.credentials.reasons], [status])
        self.assertIsNone(failure.value.__cause__)
        self.assertIsNone(failure.value.__context__)
        return str(failure.value)

    def test_interfaces(self):
        """It is a checker for cred, for tokens alone, and offers what makes them."""
        checker = TokenChecker(Says({}))
        verifyObject(ICredentialsChecker, checker)
        verifyObject(ICredentialsSupport, checker)
        self.assertEqual(checker.credentialInterfaces, (ITokenCredentials,))
        self.assertIs(checker.supports(ITokenCredentials), True)
        self.assertIs(checker.supports(IAPOPCredentials), False)

    def test_let_in(self):
        """Who brings a good token is let in under the name that the token says."""
        verifier = Says({"email": "ann@example.org"})
        outcome = TokenChecker(verifier).requestAvatarId(Credentials(b"t0ken"))
        self.assertEqual(self.successResultOf(outcome), b"ann@example.org")
        self.assertEqual(verifier.asked, [b"t0ken"])

    def test_waits(self):
        """The answer may take its time."""
        answer = Deferred()
        outcome = self.check(answer)
        self.assertNoResult(outcome)
        answer.callback({"email": "ann"})
        self.assertEqual(self.successResultOf(outcome), b"ann")

    def test_claims_in_order(self):
        """The first claim that is there, and is a text, holds the name."""
        options = {"user_claims": ["preferred_username", "upn"]}
        self.assertEqual(self.name({"preferred_username": "a", "upn": "b"}, **options), b"a")
        for nothing in ({}, {"preferred_username": ""}, {"preferred_username": None}):
            self.assertEqual(self.name({"upn": "b", **nothing}, **options), b"b")
        for odd in (1, True, ["a"], {"a": 1}):
            self.assertEqual(self.name({"preferred_username": odd, "upn": "b"}, **options), b"b")

    def test_no_name(self):
        """A token without any of the claims is nobody's."""
        for claims in ({}, {"email": ""}, {"email": 1}, {"email": ["ann"]}, {"Email": "ann"}):
            self.assertIn("has no user name in email", self.refusal(claims))
        self.assertIn(
            "has no user name in upn or sub", self.refusal({}, user_claims=["upn", "sub"])
        )
        self.assertIn("has invalid Unicode in the claim email", self.refusal({"email": "\ud800"}))

    def test_unverified_email(self):
        """An address that the provider has not verified is no name."""
        for verified in (False, None, "false", 0, "", []):
            claims = {"email": "ann", "email_verified": verified}
            self.assertIn("unverified", self.refusal(claims))
            self.assertEqual(self.name(claims | {"sub": "s"}, user_claims=["sub"]), b"s")
        for verified in (True, "true"):
            self.assertEqual(self.name({"email": "ann", "email_verified": verified}), b"ann")

    @given(st.text(min_size=1), st.binary())
    def test_given_name(self, claimed, username):
        """A name that the client gave must be the claimed one, octet for octet."""
        try:
            name = claimed.encode("utf-8")
        except UnicodeEncodeError:
            return
        self.assertEqual(self.name({"email": claimed}, name), name)
        self.assertEqual(self.name({"email": claimed}), name)
        if username not in (b"", name):
            self.assertIn("belongs to the user ", self.refusal({"email": claimed}, username))

    def test_case(self):
        """Names that differ in case, or in how an accent is written, are two."""
        for claimed, given_name in (
            ("ann", b"Ann"),
            ("Ann@Example.org", b"ann@example.org"),
            ("ann", b"ann "),
            ("ann", b"ann\0"),
            ("\u00e9", "e\u0301".encode()),
        ):
            self.assertIn(repr(claimed.encode()), self.refusal({"email": claimed}, given_name))

    def test_invalid(self):
        """A bad token is refused; the client is told so, and the log why."""
        self.assertEqual(self.refusal(InvalidToken("has expired")), "the token has expired")
        self.assertEqual(self.credentials.reasons, [{"status": "invalid_token"}])

    def test_reason(self):
        """The client is told where to get which token, if we know (RFC 7628 section 3.2.2)."""
        self.refusal(InvalidToken("x"), scope="mail", discovery_url=DISCOVERY)
        told = {"status": "invalid_token", "scope": "mail", "openid-configuration": DISCOVERY}
        self.assertEqual(self.credentials.reasons, [told])

    def test_one_reason_for_all(self):
        """What the client is told depends on nobody's name."""
        told = []
        for answer, username in (
            (InvalidToken("x"), b""),
            ({"email": "ann"}, b"bob"),
            ({}, b"ann"),
        ):
            self.refusal(answer, username, discovery_url=DISCOVERY)
            told += self.credentials.reasons
        self.assertEqual(told, [told[0]] * 3)

    def test_scope(self):
        """A token must have every word of the scope, under whichever name, as text or as list."""
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
            said = self.refusal(claims | {"email": "ann"}, scope="a b", status="insufficient_scope")
            self.assertEqual(said, "the token does not have the scope a b")
            self.assertEqual(self.credentials.reasons[0]["scope"], "a b")

    def test_fault(self):
        """If the verifier cannot tell, the client may try later, and is asked for no other."""
        fault = ProviderError("https://x: HTTP status 500")
        error = self.failureResultOf(self.check(fault), TryLater).value
        self.assertIs(error.__cause__, fault)
        self.assertNotIn("500", str(error))
        self.assertEqual(self.credentials.reasons, [])

    def test_other_errors(self):
        """What a verifier raises else comes through, and lets nobody in."""
        for error in (TryLater("busy"), RuntimeError("odd"), KeyError("exp")):
            self.assertIs(self.failureResultOf(self.check(error)).value, error)
            self.assertEqual(self.credentials.reasons, [])

    def test_broken_off(self):
        """A client that breaks off when it is refused gets that for an answer."""
        outcome = self.check(InvalidToken("x"), Credentials(breaks_off=True))
        self.failureResultOf(outcome, BadCommand)


class WholeTests(ProviderCase):
    """From a file, by a real provider, through a portal to a mailbox."""

    def setUp(self):
        """Have a provider, a portal, and ears for the log."""
        super().setUp()
        self.events = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)
        self.path = os.path.abspath(self.mktemp())

    def portal(self, **keys):
        """Return a portal whose checker's file has those keys."""
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

    async def test_keys(self):
        """With the provider's keys; no token, good or bad, comes into the log or an error."""
        keys, url = await self.serve(with_object({"keys": [jwk_of(rsa_key(), kid="k1")]}))
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
        """By asking the provider; neither token nor secret comes into the log or an error."""
        provider, url = await self.serve(with_object({"active": True, "username": "ann"}))
        portal = self.portal(
            introspection=url, client_id="popserv", client_secret="s3cret", user="username"
        )
        token = b"0paque-t0ken-0f-ann"
        self.assertTrue(IMailbox.providedBy(await self.log_in(portal, token, b"ann")))
        answers = [
            (with_object({"active": False}), UnauthorizedLogin),
            (with_object({}, 401), TryLater),
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
        """Fail if something of a token stands in the log."""
        logged = "\n".join(f"{formatEvent(event)} {event!r}" for event in self.events)
        self.assertGreater(len(self.events), 4)
        for canary in canaries:
            for part in canary.split(b"."):
                self.assertNotIn(part.decode(), logged)
