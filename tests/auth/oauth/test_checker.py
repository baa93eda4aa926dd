"""The checker of tokens: whose they are, what the refused learn; and its file."""

import ast
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import Portal
from twisted.cred.strcred import AuthOptionMixin, makeChecker
from twisted.internet.defer import Deferred
from twisted.logger import formatEvent, globalLogPublisher
from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from popserv.auth.oauth import checker as oauth
from popserv.auth.oauth import verifiers as tokens
from popserv.auth.oauth.checker import OAuthFileError, TokenChecker
from popserv.auth.oauth.provider import ProviderError
from popserv.auth.oauth.verifiers import InvalidToken, ITokenVerifier
from popserv.auth.realm import MaildropRealm
from popserv.errors import BadCommand, TryLater
from popserv.interfaces import IAPOPCredentials, ICredentialsSupport, IMailbox, ITokenCredentials
from popserv.maildrops.memory import MemoryMaildrops
from tests.auth.oauth.test_provider import ProviderCase, with_object
from tests.auth.oauth.test_verifiers import jwk_of, rsa_key, token_of
from twisted.plugins import popserv_plugin

DISCOVERY = "https://provider.example/.well-known/openid-configuration"


@implementer(ITokenCredentials)
class Credentials:
    """What a client brings; remembers what it is told."""

    def __init__(self, token=b"token", username=b"", breaks_off=False):
        """Bring a token and a name; ``breaks_off`` when told something."""
        self.token, self.username, self.breaks_off = token, username, breaks_off
        self.reasons = []

    async def refuse(self, reason):
        """Remember the reason, which must be fit for JSON."""
        self.reasons.append(json.loads(json.dumps(reason)))
        if self.breaks_off:
            raise BadCommand("exchange broken off")


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
            self.assertIn("names no user: there is no email", self.refusal(claims))
        self.assertIn("there is no upn and no sub", self.refusal({}, user_claims=["upn", "sub"]))
        self.assertIn("has no text in email", self.refusal({"email": "\ud800"}))

    def test_unverified_email(self):
        """An address that the provider has not verified is no name."""
        for verified in (False, None, "false", 0, "", []):
            claims = {"email": "ann", "email_verified": verified}
            self.assertIn("not verified", self.refusal(claims))
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
            self.assertIn("is of ", self.refusal({"email": claimed}, username))

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
        self.refusal(InvalidToken("x"), scope="mail", discovery=DISCOVERY)
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
            self.refusal(answer, username, discovery=DISCOVERY)
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
            self.assertEqual(said, "the token is not for a b")
            self.assertEqual(self.credentials.reasons[0]["scope"], "a b")

    def test_fault(self):
        """If the verifier cannot tell, the client may try later, and is asked for no other."""
        fault = ProviderError("https://x: answered 500")
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


class FileCase(SynchronousTestCase):
    """Has a directory for files."""

    def setUp(self):
        """Make the directory, and a set of keys in it."""
        self.directory = os.path.abspath(self.mktemp())
        os.makedirs(self.directory)
        self.path = os.path.join(self.directory, "oauth.ini")
        self.write_file("keys.json", json.dumps({"keys": [jwk_of(rsa_key(), kid="k1")]}))

    def write_file(self, name, text, mode=0o600):
        """Write a file."""
        with open(os.path.join(self.directory, name), "wb") as file:
            file.write(text if isinstance(text, bytes) else text.encode())
            os.fchmod(file.fileno(), mode)

    def write(self, *changes, without=(), base=None, mode=0o600):
        """Write the INI file: the base's keys, without some, and with more."""
        keys = {**(base or JWKS), **dict(changes)}
        lines = [f"{key} = {value}" for key, value in keys.items() if key not in without]
        self.write_file("oauth.ini", "\n".join(["[oauth]", *lines, ""]), mode)

    def error(self, *changes, **options):
        """Return what is wrong with the file."""
        self.write(*changes, **options)
        return self.error_now()

    def error_now(self):
        """Return what is wrong with the file as it is."""
        failure = self.assertRaises(OAuthFileError, TokenChecker.from_file, self.path)
        said = str(failure)
        self.assertIn(self.path, said)
        self.assertNotIn("\n", said)
        self.assertNotIn("s3cret", said)
        self.assertTrue(failure.__suppress_context__ or failure.__context__ is None)
        return said.replace(self.path, "FILE")


JWKS = {"jwks": "keys.json", "issuer": "https://provider.example", "audience": "mail"}

INTROSPECTION = {
    "introspection": "https://provider.example/introspect",
    "client-id": "popserv",
    "client-secret": "s3cret",
}


class FileTests(FileCase):
    """TokenChecker.at_start: the file, and what is said of a bad one."""

    def start(self, *changes, **options):
        """Return the checker of a file."""
        self.write(*changes, **options)
        return TokenChecker.from_file(self.path)

    def claim(self, checker, claims, **header):
        """Return whom the checker lets in with a token that has those claims, or the refusal."""
        claims = {"iss": JWKS["issuer"], "aud": "mail", "exp": 1 << 33, **claims}
        credentials = Credentials(token_of(claims, **{"kid": "k1", **header}))
        outcome = Deferred.fromCoroutine(self.check(checker, credentials))
        return self.successResultOf(outcome)

    async def check(self, checker, credentials):
        """Ask, the file of keys being read at once."""

        async def run(function):
            return function()

        checker._verifier._keys._run = run
        try:
            return await checker.requestAvatarId(credentials)
        except UnauthorizedLogin as error:
            return str(error), *credentials.reasons

    def test_smallest(self):
        """Three keys are enough for keys of the provider; the name is the email then."""
        checker = self.start()
        self.assertEqual(self.claim(checker, {"email": "ann"}), b"ann")
        self.assertEqual(
            self.claim(checker, {"aud": "other", "email": "ann"}),
            ("the token is for the audience 'other'", {"status": "invalid_token"}),
        )

    def test_all_keys(self):
        """Every key does what it says."""
        checker = self.start(
            ("jwks", os.path.join(self.directory, "keys.json")),
            ("audience", "imap\n  mail"),
            ("user", "upn sub"),
            ("scope", "mail.read  offline"),
            ("discovery", DISCOVERY),
            ("algorithms", "PS256 ES256"),
            ("typ", "at+jwt"),
        )
        good = {"sub": "100%(x)s", "scope": "offline mail.read"}
        right = {"algorithm": "PS256", "typ": "at+jwt"}
        self.assertEqual(self.claim(checker, good, **right), b"100%(x)s")
        said, told = self.claim(checker, {"sub": "ann"}, **right)
        self.assertEqual(said, "the token is not for mail.read offline")
        self.assertEqual(
            told,
            {
                "status": "insufficient_scope",
                "scope": "mail.read offline",
                "openid-configuration": DISCOVERY,
            },
        )
        for wrong in ({"algorithm": "RS256"}, {"typ": "JWT"}, {"kid": "k2"}):
            said, _ = self.claim(checker, good, **{**right, **wrong})
            self.assertRegex(said, "algorithm|type|does not have")

    def test_public_is_well(self):
        """A file without a secret may be read by everybody."""
        self.start(mode=0o644)

    def test_urls(self):
        """Keys may come from a URL, and the provider may be asked instead."""
        self.start(("jwks", "https://provider.example/keys"))
        self.start(("jwks", "http://127.0.0.1:8080/keys"))
        self.start(base=INTROSPECTION)
        self.start(("issuer", "x"), ("audience", "a b"), ("cache", "60"), base=INTROSPECTION)

    def test_byte_order_mark(self):
        """A mark at the start is passed over, for the editors that write one."""
        self.write()
        with open(self.path, "rb") as file:
            text = file.read()
        self.write_file("oauth.ini", b"\xef\xbb\xbf" + text)
        TokenChecker.from_file(self.path)

    def test_missing(self):
        """A key that is needed and not there is named."""
        for key in ("issuer", "audience"):
            said = self.error(without=[key])
            self.assertEqual(said, f"FILE: {key}: is missing; with jwks it is needed")
        for key in ("client-id", "client-secret"):
            said = self.error(base=INTROSPECTION, without=[key])
            self.assertEqual(said, f"FILE: {key}: is missing; with introspection it is needed")

    def test_ways(self):
        """There must be one way to verify, and only what goes with it."""
        for said in (self.error(without=["jwks"]), self.error(*INTROSPECTION.items())):
            self.assertIn("FILE: jwks: give this or introspection", said)
        for key in ("client-id", "client-secret", "cache"):
            self.assertIn(f"FILE: {key}: goes not with jwks", self.error((key, "s3cret")))
        for key in ("algorithms", "typ"):
            said = self.error((key, "x"), base=INTROSPECTION)
            self.assertIn(f"FILE: {key}: goes not with introspection", said)

    def test_unknown(self):
        """A key that there is not is named, with those that there are."""
        said = self.error(("isuer", "x"))
        self.assertIn("FILE: isuer: no such key; there are algorithms, audience, ", said)
        said = self.error(("client_secret", "s3cret"), base=INTROSPECTION)
        self.assertIn(
            "FILE: client_secret: no such key; there are algorithms, audience, cache, ", said
        )

    def test_empty(self):
        """A key without a value is named."""
        for key in (*JWKS, "user", "scope", "discovery", "algorithms", "typ"):
            self.assertIn(f"FILE: {key}: is empty", self.error((key, "")))

    def test_bad_values(self):
        """A value that cannot be is named, with what it must be."""
        for key, value, why in (
            ("jwks", "http://provider.example/keys", "must be an https URL"),
            ("jwks", "https://", "must be a URL"),
            ("jwks", "nowhere.json", "cannot read"),
            ("discovery", "provider.example", "must be a URL"),
            ("discovery", "http://provider.example/", "must be an https URL"),
            ("algorithms", "HS256", "must be some of RS256 "),
            ("algorithms", "RS256,ES256", "must be some of RS256 "),
        ):
            said = self.error((key, value))
            self.assertTrue(said.startswith(f"FILE: {key}: "), said)
            self.assertIn(why, said)
        for key, value, why in (
            ("introspection", "http://provider.example/", "must be an https URL"),
            ("cache", "-1", "must be seconds, from 0 to 3600"),
            ("cache", "3601", "must be seconds"),
            ("cache", "1.5", "must be seconds"),
            ("cache", "\u0661", "must be seconds"),
            ("cache", "9" * 5000, "must be seconds"),
        ):
            said = self.error((key, value), base=INTROSPECTION)
            self.assertTrue(said.startswith(f"FILE: {key}: "), said)
            self.assertIn(why, said)

    def test_bad_key_file(self):
        """A set of keys that is none, or has none of use, ends the start."""
        for text, why in (("s3cret", "no JSON"), ("{}", "no set of"), ('{"keys": []}', "no key")):
            self.write_file("keys.json", text)
            self.assertIn(why, self.error())

    def test_public(self):
        """A file with a secret that everybody can read ends the start, with what mends it."""
        for mode in (0o644, 0o604, 0o606):
            self.assertIn("chmod o= FILE", self.error(base=INTROSPECTION, mode=mode))

    def test_no_file(self):
        """A file that is not there, or cannot be one, ends the start."""
        self.assertIn("cannot read FILE: No such file", self.error_now())
        self.path = self.directory
        self.assertIn("cannot read FILE: Is a directory", self.error_now())
        error = self.assertRaises(OAuthFileError, TokenChecker.from_file, "")
        self.assertIn("oauth:FILE", str(error))

    def test_no_ini(self):
        """What is no INI file ends the start with the line's number, and never quotes it."""
        for text, why in (
            ("client-secret = s3cret\n", "FILE, line 1: must be"),
            ("[oauth]\ns3cret\n", "FILE, line 2: must be"),
            ("[oauth]\nuser = a\n\nuser = s3cret\n", "FILE, line 4: must be"),
            ("[oauth]\n[oauth]\n", "FILE, line 2: must be"),
            ("[oauth]\n = s3cret\n", "FILE, line 2: must be"),
            ("", "FILE: must have one section, [oauth]"),
            ("[DEFAULT]\nuser = a\n[oauth]\n", "FILE: must have one section"),
            ("[OAuth]\n", "FILE: must have one section"),
            ("[oauth]\n[more]\n", "FILE: must have one section"),
            (b"[oauth]\nuser = \xff\n", "FILE: is not UTF-8"),
        ):
            self.write_file("oauth.ini", text)
            self.assertTrue(self.error_now().startswith(why), text)


class AuthOptions(usage.Options, AuthOptionMixin):
    """Options with --auth for tokens."""

    supportedInterfaces = (ITokenCredentials,)


class PluginTests(FileCase):
    """``--auth oauth:FILE``."""

    def test_plugin(self):
        """It makes the checker of the file."""
        self.write()
        options = AuthOptions()
        options.parseOptions(["--auth", f"oauth:{self.path}"])
        (checker,) = options["credCheckers"]
        self.assertIsInstance(checker, TokenChecker)

    def test_bad_file(self):
        """A bad file ends the start with its one line."""
        self.write(("isuer", "x"))
        error = self.assertRaises(
            usage.UsageError, AuthOptions().parseOptions, ["--auth", f"oauth:{self.path}"]
        )
        self.assertIn(f"{self.path}: isuer: no such key", str(error))

    def test_without_the_extra(self):
        """Without PyJWT, or without TLS, one line says what to install."""
        self.write()
        for missing in ("jwt", "OpenSSL"):
            gone = {name: None for name in sys.modules if name.split(".")[0] == missing}
            ours = (
                "popserv.auth.oauth.checker",
                "popserv.auth.oauth.verifiers",
                "popserv.auth.oauth.provider",
            )
            with patch.dict(sys.modules, {missing: None, **gone}):
                for name in (*ours, "twisted.internet.ssl"):
                    sys.modules.pop(name, None)
                error = self.assertRaises(ImportError, makeChecker, f"oauth:{self.path}")
            self.assertRegex(str(error), r"^\w+.* pip install 'popserv\[oauth\]'$")
            self.assertNotIn("\n", str(error))

    def test_lazy(self):
        """To list the checkers imports nothing of popserv.auth."""
        self.assertEqual(popserv_plugin.oauth.credentialInterfaces, (ITokenCredentials,))
        code = (
            "import sys, twisted.plugins.popserv_plugin;"
            "sys.exit(any(name.startswith('popserv.auth') for name in sys.modules))"
        )
        done = subprocess.run([sys.executable, "-c", code], check=False)
        self.assertEqual(done.returncode, 0)


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


DOCS = Path(__file__).parents[3] / "docs"
PAGES = (DOCS / "howto/oauth.rst", DOCS / "reference/oauth-file.rst")


class DocumentationTests(FileCase):
    """What oauth.rst and oauth-file.rst show and list."""

    def setUp(self):
        """Read it."""
        super().setUp()
        self.text = "".join(page.read_text("utf-8") for page in PAGES)

    def test_examples(self):
        """Every file that is shown can be used."""
        blocks = re.findall(r"\.\. code-block:: ini\n\n((?:   .*\n|\n)+)", self.text)
        self.assertEqual(len(blocks), 2)
        for block in blocks:
            self.write_file("oauth.ini", textwrap.dedent(block))
            self.assertIsInstance(TokenChecker.from_file(self.path), TokenChecker)

    def test_keys(self):
        """Every key is explained, and no other."""
        listed = self.text.partition("\nKeys\n")[2].partition("\nNames\n")[0]
        terms = re.findall(r"^``.*``$", listed, re.MULTILINE)
        explained = {key for term in terms for key in re.findall("``(.+?)``", term)}
        self.assertEqual(explained, set().union(*oauth._KEYS.values()))
        for name in tokens.ALGORITHMS:
            self.assertIn(name, listed)

    def test_reasons(self):
        """Every reason why a token can be refused is explained."""
        explained = " ".join(self.text.split())
        found = 0
        for module in (oauth, tokens):
            for node in ast.walk(ast.parse(Path(module.__file__).read_text("utf-8"))):
                if not isinstance(node, ast.Call) or ast.unparse(node.func) not in (
                    "InvalidToken",
                    "InsufficientScope",
                ):
                    continue
                (said,) = node.args
                parts = said.values if isinstance(said, ast.JoinedStr) else [said]
                for part in parts:
                    if isinstance(part, ast.Constant):
                        found += 1
                        self.assertIn(part.value.strip(), explained)
        self.assertGreater(found, 20)
