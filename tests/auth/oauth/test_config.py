"""The file of --auth oauth:FILE: its keys, and the errors for an invalid file."""

import ast
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from unittest.mock import Mock, call, patch

from OpenSSL import SSL
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.strcred import AuthOptionMixin, makeChecker
from twisted.internet.defer import Deferred
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import formatEvent, globalLogPublisher
from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv.auth.oauth import checker, claims, config, introspection, jwks, jwt_verifier, provider
from popserv.auth.oauth.checker import TokenChecker
from popserv.auth.oauth.config import OAuthFileError
from popserv.auth.oauth.introspection import IntrospectionVerifier
from popserv.auth.oauth.jwks import JWKSURL
from popserv.interfaces import IReloadable, ITokenCredentials
from popserv.runtime.extras import how_to_install
from tests.auth.oauth.harness import DISCOVERY, Credentials
from tests.auth.oauth.tokens import jwk_of, rsa_key, token_of
from twisted.plugins import popserv_plugin


class FileCase(SynchronousTestCase):
    """Has a directory for files."""

    def setUp(self):
        """Make the directory, and a JWK Set in it."""
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
        """Write the INI file: the base's keys with changes."""
        keys = {**(base or JWKS), **dict(changes)}
        lines = [f"{key} = {value}" for key, value in keys.items() if key not in without]
        self.write_file("oauth.ini", "\n".join(["[oauth]", *lines, ""]), mode)

    def error(self, *changes, **options):
        """Return the error for a file with changes."""
        self.write(*changes, **options)
        return self.error_now()

    def error_now(self):
        """Return the error for the file as it is: one line, with the path, without secrets."""
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
    """TokenChecker.from_file."""

    def start(self, *changes, **options):
        """Return the checker of a file."""
        self.write(*changes, **options)
        return TokenChecker.from_file(self.path)

    def test_reload(self):
        """Changed settings are used from now on; an unusable file leaves the previous ones."""
        events = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        checker = self.start()
        verifyObject(IReloadable, checker)
        self.assertEqual(self.claim(checker, {"email": "ann"}), b"ann")
        verifier = checker._verifier
        checker.reload()
        self.assertIs(checker._verifier, verifier)
        self.assertEqual(list(events), [])
        self.write(("user", "sub"))
        checker.reload()
        self.assertEqual(self.claim(checker, {"email": "ann", "sub": "bob"}), b"bob")
        self.write(("jwks", "nosuch.json"))
        for _ in range(2):
            checker.reload()
        self.assertEqual(self.claim(checker, {"email": "ann", "sub": "bob"}), b"bob")
        path = os.path.abspath(self.path)
        reloaded, *refused = map(formatEvent, events)
        self.assertEqual(reloaded, f"{path}: OAuth settings reloaded")
        keys = os.path.join(os.path.dirname(path), "nosuch.json")
        self.assertEqual(
            refused,
            [
                "OAuth settings not reloaded, the previous ones stay in use: "
                f"{path}: jwks: cannot read {keys}: No such file or directory"
            ]
            * 2,
        )

    def test_reload_without_file(self):
        """A checker that was not made from a file has nothing to reload."""
        checker = TokenChecker(object())
        checker.reload()
        self.assertIsNone(checker._file)

    def claim(self, checker, claims, **header):
        """Return the user whom a token with these claims authenticates, or the rejection."""
        claims = {"iss": JWKS["issuer"], "aud": "mail", "exp": 1 << 33, **claims}
        credentials = Credentials(token_of(claims, **{"kid": "k1", **header}))
        outcome = Deferred.fromCoroutine(self.check(checker, credentials))
        return self.successResultOf(outcome)

    async def check(self, checker, credentials):
        """Run the checker; the file of keys is read without a thread."""

        async def run(function):
            return function()

        checker._verifier._keys._run = run
        try:
            return await checker.requestAvatarId(credentials)
        except UnauthorizedLogin as error:
            return str(error), *credentials.errors

    def test_minimal(self):
        """With jwks three keys are required; the user's name is the email by default."""
        checker = self.start()
        self.assertEqual(self.claim(checker, {"email": "ann"}), b"ann")
        self.assertEqual(
            self.claim(checker, {"aud": "other", "email": "ann"}),
            ("the token has the wrong audience 'other'", {"status": "invalid_token"}),
        )

    def test_all_keys(self):
        """Each key has its effect."""
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
        self.assertEqual(said, "the token does not have the scope mail.read offline")
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
            self.assertRegex(said, "algorithm|typ|JWK Set")

    def test_public_file(self):
        """A file without a secret may be readable by everybody."""
        self.start(mode=0o644)

    def test_urls(self):
        """The keys may be at a URL, and introspection may be used instead."""
        self.start(("jwks", "https://provider.example/keys"))
        self.start(("jwks", "http://127.0.0.1:8080/keys"))
        self.start(base=INTROSPECTION)
        self.start(("issuer", "x"), ("audience", "a b"), ("cache", "3600"), base=INTROSPECTION)

    def test_prepared(self):
        """The CAs that verify the provider are loaded with the file, unless it is http."""
        creators = Mock(wraps=provider.optionsForClientTLS)
        self.patch(provider, "optionsForClientTLS", creators)
        self.start(("jwks", "http://127.0.0.1:8080/keys"))
        creators.assert_not_called()
        self.start(("jwks", "https://keys.example/keys"))
        self.start(base=INTROSPECTION)
        self.assertEqual(creators.call_args_list, [call("keys.example"), call("provider.example")])

    def test_no_executable_memory(self):
        """MemoryDenyWriteExecute=yes, with which pyOpenSSL cannot work, is named."""
        self.patch(SSL.Context, "set_verify", Mock(side_effect=MemoryError))
        self.assertIn("jwks: an https URL requires", self.error(("jwks", "https://k.example/k")))

    def test_byte_order_mark(self):
        """A byte order mark at the start is ignored."""
        self.write()
        with open(self.path, "rb") as file:
            text = file.read()
        self.write_file("oauth.ini", b"\xef\xbb\xbf" + text)
        TokenChecker.from_file(self.path)

    def test_missing(self):
        """The error names a required key that is missing."""
        for key in ("issuer", "audience"):
            said = self.error(without=[key])
            self.assertEqual(said, f"FILE: {key}: is missing; jwks requires it")
        for key in ("client-id", "client-secret"):
            said = self.error(base=INTROSPECTION, without=[key])
            self.assertEqual(said, f"FILE: {key}: is missing; introspection requires it")

    def test_methods(self):
        """Exactly one verification method must be set, and only its keys."""
        for said in (self.error(without=["jwks"]), self.error(*INTROSPECTION.items())):
            self.assertIn("FILE: jwks: set either jwks or introspection, and not both", said)
        for key in ("client-id", "client-secret", "cache"):
            self.assertIn(f"FILE: {key}: cannot be used with jwks", self.error((key, "s3cret")))
        for key in ("algorithms", "typ"):
            said = self.error((key, "x"), base=INTROSPECTION)
            self.assertIn(f"FILE: {key}: cannot be used with introspection", said)

    def test_unknown(self):
        """The error names an unknown key, and lists the known ones."""
        said = self.error(("isuer", "x"))
        self.assertIn("FILE: isuer: unknown key; the keys are algorithms, audience, ", said)
        said = self.error(("client_secret", "s3cret"), base=INTROSPECTION)
        self.assertIn(
            "FILE: client_secret: unknown key; the keys are algorithms, audience, cache, ", said
        )

    def test_empty(self):
        """The error names a key without a value."""
        for key in (*JWKS, "user", "scope", "discovery", "algorithms", "typ"):
            self.assertIn(f"FILE: {key}: is empty", self.error((key, "")))

    def test_bad_values(self):
        """The error names a key with an invalid value, and says what the value must be."""
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
            ("cache", "-1", "must be a number of seconds from 0 to 3600"),
            ("cache", "3601", "must be a number of seconds"),
            ("cache", "1.5", "must be a number of seconds"),
            ("cache", "\u0661", "must be a number of seconds"),
            ("cache", "9" * 5000, "must be a number of seconds"),
        ):
            said = self.error((key, value), base=INTROSPECTION)
            self.assertTrue(said.startswith(f"FILE: {key}: "), said)
            self.assertIn(why, said)

    def test_bad_jwks_file(self):
        """A file that is not a JWK Set, or without usable keys, is an error."""
        for text, why in (
            ("s3cret", "not JSON"),
            ("{}", "not a JWK Set"),
            ('{"keys": []}', "no usable signature key"),
        ):
            self.write_file("keys.json", text)
            self.assertIn(why, self.error())

    def test_public_secret(self):
        """A file with a secret that everybody can access is an error with the remedy."""
        for mode in (0o644, 0o604, 0o606):
            self.assertIn("chmod o= FILE", self.error(base=INTROSPECTION, mode=mode))

    def test_no_file(self):
        """A file that is missing or cannot be read is an error."""
        self.assertIn("cannot read FILE: No such file", self.error_now())
        self.path = self.directory
        self.assertIn("cannot read FILE: Is a directory", self.error_now())
        error = self.assertRaises(OAuthFileError, TokenChecker.from_file, "")
        self.assertIn("oauth:FILE", str(error))

    def test_not_ini(self):
        """A file that is not an INI file is an error with the line number, without the line."""
        for text, why in (
            ("client-secret = s3cret\n", "FILE, line 1: must be"),
            ("[oauth]\ns3cret\ns3cret\n", "FILE, line 2: must be"),
            ("[oauth]\nuser = a\n\nuser = s3cret\n", "FILE, line 4: must be"),
            ("[oauth]\n[oauth]\n", "FILE, line 2: must be"),
            ("[oauth]\n = s3cret\n", "FILE, line 2: must be"),
            ("", "FILE: must have exactly one section, [oauth]"),
            ("[DEFAULT]\nuser = a\n[oauth]\n", "FILE: must have exactly one section"),
            ("[OAuth]\n", "FILE: must have exactly one section"),
            ("[oauth]\n[more]\n", "FILE: must have exactly one section"),
            (b"[oauth]\nuser = \xff\n", "FILE: is not UTF-8"),
        ):
            self.write_file("oauth.ini", text)
            self.assertTrue(self.error_now().startswith(why), text)


class AuthOptions(usage.Options, AuthOptionMixin):
    """Options with --auth for token credentials."""

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
        """An invalid file is a usage error of one line."""
        self.write(("isuer", "x"))
        error = self.assertRaises(
            usage.UsageError, AuthOptions().parseOptions, ["--auth", f"oauth:{self.path}"]
        )
        self.assertIn(f"{self.path}: isuer: unknown key", str(error))

    def test_without_the_extra(self):
        """Without PyJWT or pyOpenSSL one line says what to install."""
        self.write()
        for library in ("jwt", "OpenSSL"):
            missing_modules = {name: None for name in sys.modules if name.split(".")[0] == library}
            imported = [name for name in sys.modules if name.startswith("popserv.auth.oauth")]
            with patch.dict(sys.modules, {library: None, **missing_modules}):
                for name in (*imported, "twisted.internet.ssl"):
                    sys.modules.pop(name, None)
                error = self.assertRaises(ImportError, makeChecker, f"oauth:{self.path}")
            self.assertTrue(str(error).endswith(f"; run: {how_to_install('oauth')}"))
            self.assertNotIn("\n", str(error))

    def test_lazy(self):
        """Listing the checkers does not import popserv.auth."""
        self.assertEqual(popserv_plugin.oauth.credentialInterfaces, (ITokenCredentials,))
        code = (
            "import sys, twisted.plugins.popserv_plugin;"
            "sys.exit(any(name.startswith('popserv.auth') for name in sys.modules))"
        )
        done = subprocess.run([sys.executable, "-c", code], check=False)
        self.assertEqual(done.returncode, 0)


DOCS = Path(__file__).parents[3] / "docs"
PAGES = (DOCS / "howto/oauth.rst", DOCS / "reference/oauth-file.rst")


class DocumentationTests(FileCase):
    """The guide to OAuth, and the reference of the file."""

    def setUp(self):
        """Read the pages."""
        super().setUp()
        self.text = "".join(page.read_text("utf-8") for page in PAGES)

    def test_examples(self):
        """Every example file is valid."""
        blocks = re.findall(r"\.\. code-block:: ini\n\n((?:   .*\n|\n)+)", self.text)
        self.assertEqual(len(blocks), 2)
        for block in blocks:
            self.write_file("oauth.ini", textwrap.dedent(block))
            self.assertIsInstance(TokenChecker.from_file(self.path), TokenChecker)

    def test_keys(self):
        """The page explains every key and every algorithm, and no other key."""
        listed = self.text.partition("\nKeys\n")[2].partition("\nNames\n")[0]
        terms = re.findall(r"^``.*``$", listed, re.MULTILINE)
        explained = {key for term in terms for key in re.findall("``(.+?)``", term)}
        self.assertEqual(explained, set().union(*config.KEYS.values()))
        for name in jwks.ALGORITHMS:
            self.assertIn(name, listed)

    def test_limits(self):
        """The page has the times and the numbers that limit what is asked of a provider."""
        times = JWKSURL.MAX_AGE, JWKSURL.MIN_FETCH_INTERVAL, JWKSURL.MAX_STALE_AGE
        self.assertEqual(times, (3600, 30, 86_400))
        verifier = IntrospectionVerifier
        for told in (
            "again after one hour",
            "at most every 30 seconds",
            "fetched last remain valid for one day",
            f"at most {verifier.MAX_CONCURRENT_REQUESTS} requests are made concurrently",
            f"at most {verifier.MAX_QUEUED_REQUESTS} logins wait",
            f"at most {verifier.MAX_CACHED_RESPONSES:,} answers",
            f"may differ by {claims.LEEWAY:g} seconds",
            f"no complete response within {provider.REQUEST_TIMEOUT:g} seconds",
            f"response exceeds {provider.MAX_RESPONSE_OCTETS} octets",
        ):
            self.assertIn(told, self.text)

    def test_reasons(self):
        """The page explains every reason why a token is rejected."""
        explained = " ".join(self.text.split())
        found = 0
        for module in (checker, claims, introspection, jwt_verifier):
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
