"""Tests of popserv.auth.passwords.checker."""

import sys
import threading
from base64 import b64decode, b64encode
from collections import Counter
from functools import partial
from hashlib import md5
from hmac import HMAC
from itertools import count, product
from unittest.mock import patch

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import (
    IUsernameHashedPassword,
    IUsernamePassword,
    UsernamePassword,
)
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from popserv.auth.credentials import (
    APOPCredentials,
    CertificateCredentials,
    CramMD5Credentials,
    ExchangeAborted,
)
from popserv.auth.hmac_md5 import hmac_md5_context
from popserv.auth.names import CaseInsensitiveNames, prepared_name
from popserv.auth.passwords import checker as passwd
from popserv.auth.passwords import decoys, scram_selection
from popserv.auth.passwords.cram_md5 import CRAM_MD5_SCHEMES
from popserv.auth.passwords.decoys import Decoys
from popserv.auth.passwords.file_checker import PasswdFileChecker
from popserv.auth.passwords.schemes import SCHEMES, SchemeUnavailable, new_scram_sha256, split_field
from popserv.auth.passwords.scram_keys import derive_scram_keys, parse_scram_keys
from popserv.auth.users.extra_fields import _is_in
from popserv.core.connection_details import ConnectionDetails, connection_details
from popserv.core.session import client_is_connected
from popserv.core.user_settings import ConfiguredUser, UserSettings
from popserv.errors import POPError, TryLater
from popserv.interfaces import (
    IAPOPCredentials,
    ICaching,
    ICertificateCredentials,
    ICredentialsSupport,
    IDecoyMaker,
    IScramSHA1Credentials,
    IScramSHA256Credentials,
)
from tests.auth.harness import ask
from tests.auth.passwords.test_users_file import UsersFileCase
from tests.auth.sasl.harness import ScramClient, attributes, begin_scram
from tests.auth.test_credentials import DIGEST, SECRET, TIMESTAMP

USERS = b"""
ann:%b
bob:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=
mrose:{APOP}%b
hexed:{apop.hex}%b
shut:{PLAIN}password:::::: nologin
none:
nobody:{APOP}
bad:{SSHA.hex}s3cret
badapop:{APOP.b64}s3cret
alien:{DIGEST-MD5}s3cret
""" % (new_scram_sha256(b"password", 1), SECRET, SECRET.hex().encode())


def by_password(name, password=b"password"):
    """Return the credentials of PASS."""
    return UsernamePassword(name, password)


def by_apop(name, digest=DIGEST):
    """Return the credentials of APOP."""
    return APOPCredentials(name, TIMESTAMP, digest)


def digest_of(secret):
    """Return APOP's digest of a secret (RFC 1725 section 7)."""
    return md5(TIMESTAMP + secret, usedforsecurity=False).hexdigest().encode()


class CheckerCase(UsersFileCase):
    """Has a checker that calls functions immediately and records them."""

    def setUp(self):
        """Write the users file; record the calls of verify and those for threads."""
        super().setUp()
        self.write(USERS)
        self.verified, self.calls = [], []

        def verify(field, password):
            self.verified.append(field)
            return real(field, password)

        real = passwd.verify
        self.patch(passwd, "verify", verify)
        self.checker = self.new_checker()

    def new_checker(self, **clocks):
        """Return a checker that looks at the file whenever it needs it."""
        seconds = count().__next__
        return PasswdFileChecker(self.path, self.run_now, monotonic=seconds, **clocks)

    async def run_now(self, function, *args):
        """Call a function instead of a thread."""
        self.calls.append(function)
        return function(*args)

    def refusal_of(self, credentials, kind=UnauthorizedLogin):
        """Return the error with which the checker must refuse the credentials, as text."""
        return repr(self.failureResultOf(ask(self.checker, credentials), kind).value)

    def avatar(self, credentials):
        """Return the user whose maildrop is opened, or None if the checker refuses."""
        outcome = ask(self.checker, credentials)
        outcome.addErrback(lambda failure: failure.trap(UnauthorizedLogin) and None)
        return self.successResultOf(outcome)

    def accepts(self, credentials):
        """Tell whether the checker accepts the credentials, and names the user in them."""
        return self.avatar(credentials) == credentials.username

    def changing(self, text):
        """Let the users file get this text while a login waits for a thread."""

        async def run(function, *args):
            result = function(*args)
            self.write(text)
            return result

        self.checker = PasswdFileChecker(self.path, run, monotonic=count().__next__)

    def from_address(self, address):
        """From now on, logins come from this IP address, or from a client without one."""
        remote = None if address is None else (address, 4321)
        token = connection_details.set(lambda: ConnectionDetails(remote))
        self.addCleanup(connection_details.reset, token)


class CheckerTests(CheckerCase):
    """PasswdFileChecker.requestAvatarId."""

    def test_interfaces(self):
        """It provides ICredentialsChecker, ICredentialsSupport, ICaching and IDecoyMaker."""
        for interface in (ICredentialsChecker, ICredentialsSupport, ICaching, IDecoyMaker):
            verifyObject(interface, self.checker)
        self.assertTrue(IUsernamePassword.providedBy(by_password(b"x")))

    def test_accepted(self):
        """A user logs in either by password or by APOP, never by both (RFC 1725 section 12)."""
        allowed = {(b"ann", by_password), (b"bob", by_password)}
        allowed |= {(b"ANN", by_password), (b"mrose", by_apop), (b"hexed", by_apop)}
        names = b"ann bob mrose hexed shut none nobody bad badapop alien unknown ANN".split()
        for name, make_credentials in product([*names, b"", b"\xff"], (by_password, by_apop)):
            self.assertIs(
                self.accepts(make_credentials(name)),
                (name, make_credentials) in allowed,
                f"{name!r} {make_credentials}",
            )

    def test_wrong(self):
        """A wrong password, an APOP secret as the password, and a wrong digest are refused."""
        for name, password in product((b"ann", b"mrose"), (b"", b"wrong", SECRET, b"\xff", b"\0")):
            self.assertFalse(self.accepts(by_password(name, password)))
        for name, digest in product((b"mrose", b"ann", b"nobody"), (b"", DIGEST.upper())):
            self.assertFalse(self.accepts(by_apop(name, digest)))

    def test_missing_library(self):
        """If the library of a scheme is missing, the client is told to try later."""

        def fail(field, password):
            raise SchemeUnavailable("no library")

        self.patch(passwd, "verify", fail)
        self.assertIn("TryLater", self.refusal_of(by_password(b"ann"), TryLater))

    def test_empty_apop_secret(self):
        """The digest of an empty secret is refused, for users and for unknown names."""
        digest = digest_of(b"")
        for name in (b"nobody", b"ann", b"none", b"unknown", b"mrose"):
            self.assertFalse(self.accepts(by_apop(name, digest)), f"{name!r}")

    def test_apop_with_unknown_encoding(self):
        """An APOP secret with an unknown encoding is refused, even as it is."""
        self.write(b"ann:{APOP.rot13}gnafgnns\n")
        digest = digest_of(b"{APOP.rot13}gnafgnns")
        self.assertFalse(self.accepts(by_apop(b"ann", digest)))

    def test_same_cost(self):
        """A login is hashed once, also if the user is unknown or must not use a password."""
        self.write(b"\n".join(USERS.splitlines()[:5]))
        for name in (b"ann", b"bob", b"unknown", b"mrose", b"shut", b"", b"\xff"):
            self.verified.clear()
            self.accepts(by_password(name, b"wrong"))
            self.assertEqual(len(self.verified), 1, f"{name!r}")

    def test_same_decoy(self):
        """An unknown name always has the same decoy; different names have different decoys."""
        fields = [b"{PLAIN}%d" % n for n in range(50)]
        self.write(b"\n".join(b"u%d:%b" % user for user in enumerate(fields)))
        names = [b"x%d" % n for n in range(50)]
        for name in names * 2:
            self.assertFalse(self.accepts(by_password(name)))
        self.assertEqual(self.verified[:50], self.verified[50:])
        self.assertGreater(len(set(self.verified)), 1)
        self.assertLessEqual(set(self.verified), set(fields))

    def test_password_of_decoy(self):
        """An unknown user with the password of the decoy is refused."""
        self.write(b"ann:{PLAIN}password\nmrose:{APOP}password\n")
        for name in (b"unknown", b"mrose"):
            self.assertFalse(self.accepts(by_password(name)))
            self.assertEqual(self.verified.pop(), b"{PLAIN}password")

    def test_malformed_decoy(self):
        """A malformed decoy does not change the refusal of an unknown name."""
        for field in (b"{SSHA}!", b"{CRAM-MD5}x", b"{SCRAM-SHA-256}%d,AAAA,AAAA,AAAA" % 10**20):
            self.write(b"bad:" + field)
            self.assertIn("unknown user", self.refusal_of(by_password(b"unknown")))

    def test_nobody(self):
        """Without users, or with APOP secrets only, nobody logs in by password."""
        for text in (b"", b"mrose:{APOP}tanstaaf"):
            self.write(text)
            self.assertIn("unknown user", self.refusal_of(by_password(b"ann")))
        self.assertEqual(self.verified, [])

    def test_changed_meanwhile(self):
        """A user who is changed or disabled while a login waits for a thread is refused."""
        digest = HMAC(b"password", b"<1.2@host>", "md5").hexdigest().encode()
        by_cram = partial(CramMD5Credentials, b"ann", b"<1.2@host>", digest)
        for field, make in (
            (b"{PLAIN}password", partial(by_password, b"ann")),
            (b"{PLAIN}password", by_cram),
            (b"{APOP}" + SECRET, partial(by_apop, b"ann")),
        ):
            line = b"ann:%b" % field
            for text, expected in (
                (line, b"ann"),
                (b"bob:%b" % field, None),
                (b"ANN:%b" % field, None),
                (b"ann:{PLAIN}other", None),
                (line + b"::::::nologin", None),
                (line + b"::::::user=info", b"info"),
            ):
                self.write(line)
                self.changing(text)
                self.assertEqual(self.avatar(make()), expected, text)

    def test_remembered_meanwhile(self):
        """What was verified is remembered for the secret, and not for the user."""
        self.write(b"ann:{PLAIN}password")
        self.changing(b"ann:{PLAIN}other")
        self.assertFalse(self.accepts(by_password(b"ann")))
        self.assertFalse(self.accepts(by_password(b"ann")))
        self.write(b"ann:{PLAIN}password")
        self.assertTrue(self.accepts(by_password(b"ann")))

    def test_run(self):
        """Each login calls ``run`` once, for hashing."""
        for credentials in (by_password(b"ann"), by_password(b"unknown"), by_apop(b"mrose")):
            self.calls.clear()
            self.accepts(credentials)
            self.assertEqual(len(self.calls), 1)
        self.verified.clear()
        pending = Deferred()
        checker = PasswdFileChecker(self.path, lambda *_: pending)
        outcome = ask(checker, by_password(b"ann"))
        self.assertNoResult(outcome)
        pending.callback(True)
        self.assertEqual(self.successResultOf(outcome), b"ann")
        self.assertEqual(self.verified, [])

    def test_hashed_once(self):
        """A verified password is not hashed again until the password field changes."""
        self.assertTrue(self.accepts(by_password(b"ann")))
        self.calls.clear()
        self.assertTrue(self.accepts(by_password(b"ann")))
        self.assertEqual(self.calls, [])
        self.assertFalse(self.accepts(by_password(b"ann", b"no")))
        self.assertEqual(len(self.calls), 1)
        self.write(b"ann:{PLAIN}new")
        self.assertFalse(self.accepts(by_password(b"ann")))
        self.write(b"bob:{PLAIN}password")
        self.assertFalse(self.accepts(by_password(b"ann")))

    def test_busy(self):
        """If the pool of threads is full, TryLater is raised."""

        def busy(*_):
            raise TryLater

        self.checker = PasswdFileChecker(self.path, busy)
        self.refusal_of(by_password(b"ann"), TryLater)

    def test_unusable_file(self):
        """If the file is accessible to other users, TryLater is raised."""
        self.write(USERS, 0o644)
        for credentials in (by_password(b"ann"), by_apop(b"mrose"), by_password(b"unknown")):
            outcome = ask(self.checker, credentials)
            error = self.failureResultOf(outcome, TryLater).value
            self.assertNotIn(self.path, str(error))
            self.assertIn("chmod o=", str(error.__cause__))
        self.assertFalse(self.checker.supports(IAPOPCredentials))
        self.assertIn("chmod o=", self.logged())

    def test_reasons(self):
        """The reason in the log does not quote the secret."""
        for credentials, reason in (
            (by_password(b"ann", b"s3cret"), "unknown user or wrong password"),
            (by_password(b"unknown", b"s3cret"), "unknown user or wrong password"),
            (by_password(b"bad", b"s3cret"), "malformed"),
            (by_apop(b"badapop"), "malformed"),
            (by_apop(b"ann"), "this user must not log in by APOP"),
            (by_password(b"mrose", b"s3cret"), "this user must log in by APOP"),
            (by_password(b"alien", b"s3cret"), "unknown password scheme DIGEST-MD5"),
        ):
            failure = self.failureResultOf(ask(self.checker, credentials))
            self.assertIn(reason, str(failure.value))
            self.assertIsNone(failure.value.__cause__)
            self.assertTrue(failure.value.__suppress_context__ or failure.value.__context__ is None)
        for text in (self.logged(), failure.getTraceback()):
            self.assertNotIn("s3cret", text)

    def test_reread(self):
        """A changed password and a removed user are effective at the next login."""
        self.assertTrue(self.accepts(by_password(b"ann")))
        self.write(b"ann:{PLAIN}other\n")
        self.assertFalse(self.accepts(by_password(b"ann")))
        self.assertTrue(self.accepts(by_password(b"ann", b"other")))
        self.write(b"\n")
        self.assertFalse(self.accepts(by_password(b"ann", b"other")))


class SupportsTests(CheckerCase):
    """PasswdFileChecker.supports."""

    def test_supports_apop(self):
        """APOP is supported while at least one user has an APOP secret (RFC 1725 section 7)."""
        for text, expected in (
            (b"ann:{PLAIN}a\nbob:{APOP}b", True),
            (b"ann:{PLAIN}a", False),
            (b"", False),
            (b"bob:{apop.hex}62", True),
            (b"bob:{APOP}b:::::: nologin", False),
        ):
            self.write(text)
            self.assertIs(self.checker.supports(IAPOPCredentials), expected)
        self.assertEqual(self.calls, [])

    def test_supports_scram(self):
        """SCRAM is supported only if all secrets allow it, as clients try no weaker mechanism."""
        sha256, sha1 = new_scram_sha256(b"a", 1), b"{SCRAM-SHA-1}1,AAAA,AAAA,AAAA"
        for text, expected in (
            (b"", set()),
            (b"mrose:{APOP}x", set()),
            (b"ann:%b" % sha256, {IScramSHA256Credentials}),
            (b"ann:%b" % sha1, {IScramSHA1Credentials}),
            (b"ann:{PLAIN}a", ALL_BY_PASSWORD),
            (b"ann:{cleartext.hex}61", ALL_BY_PASSWORD),
            (b"ann:{PLAIN}a\nbob:%b" % sha256, {IScramSHA256Credentials}),
            (b"ann:{PLAIN}a\nbob:%b" % sha1, {IScramSHA1Credentials}),
            (b"ann:%b\nbob:%b" % (sha256, sha1), set()),
            (b"ann:{PLAIN}a\nbob:{SSHA}x", set()),
            (b"ann:{PLAIN}a\nmrose:{APOP}x", ALL_BY_PASSWORD),
            (b"ann:{PLAIN}a\nbob:{SSHA}x:::::: nologin", ALL_BY_PASSWORD),
        ):
            self.write(text)
            supported = {kind for kind in ALL_BY_PASSWORD if self.checker.supports(kind)}
            self.assertEqual(supported, expected, text)

    def test_supports_certificates(self):
        """Certificates are supported if there are users."""
        for text, expected in ((b"", False), (b"ann:", True), (b"mrose:{APOP}x", True)):
            self.write(text)
            self.assertIs(self.checker.supports(ICertificateCredentials), expected)

    def test_supports_passwords(self):
        """Passwords are not supported if all users have APOP secrets: curl would choose PLAIN."""
        for text, expected in ((b"", True), (b"ann:{SSHA}x", True), (b"mrose:{APOP}x", False)):
            self.write(text)
            self.assertIs(self.checker.supports(IUsernamePassword), expected)

    def test_supports_with_unusable_file(self):
        """While the file cannot be used, only passwords are supported."""
        self.write(USERS, 0o644)
        kinds = PasswdFileChecker.credentialInterfaces
        supported = {kind for kind in kinds if self.checker.supports(kind)}
        self.assertEqual(supported, {IUsernamePassword})

    def test_recent(self):
        """Within a tenth of a second it may not know a change, unless a login reads the file."""
        clock = Clock()
        self.write(b"ann:{PLAIN}password")
        checker = PasswdFileChecker(self.path, self.run_now, monotonic=clock.seconds)
        self.assertFalse(checker.supports(IAPOPCredentials))
        self.write(b"ann:{APOP}%b" % SECRET)
        clock.advance(0.09)
        self.assertFalse(checker.supports(IAPOPCredentials))
        self.failureResultOf(ask(checker, by_password(b"ann")), UnauthorizedLogin)
        self.assertTrue(checker.supports(IAPOPCredentials))
        self.write(b"ann:{PLAIN}password")
        clock.advance(0.09)
        self.assertTrue(checker.supports(IAPOPCredentials))
        clock.advance(0.02)
        self.assertFalse(checker.supports(IAPOPCredentials))

    def test_error_is_logged_once(self):
        """An error of the file is logged once, until the file is corrected."""
        for _ in range(2):
            self.events.clear()
            self.write(USERS, 0o644)
            for _ in range(9):
                self.checker.supports(IAPOPCredentials)
                self.checker.supports(IScramSHA256Credentials)
            self.assertEqual(len(self.events), 1)
            self.write(USERS)
            self.assertTrue(self.checker.supports(IAPOPCredentials))


ALL_BY_PASSWORD = {IScramSHA256Credentials, IScramSHA1Credentials, IUsernameHashedPassword}


class ScramTests(CheckerCase):
    """SCRAM."""

    def setUp(self):
        """Lower the iteration count, and set the machine id."""
        super().setUp()
        self.patch(scram_selection, "SCRAM_ITERATIONS", 7)
        self.patch(decoys, "_MACHINE_ID", self.mktemp())
        with open(decoys._MACHINE_ID, "wb") as file:
            file.write(b"0123456789abcdef" * 2 + b"\n")
        self.checker = self.new_checker()

    def login(self, name, password=b"password", hash_name="sha256"):
        """Return the name that an exchange results in, or None; record the challenge."""
        client = ScramClient(hash_name, password, name=name)

        def respond(challenge):
            if challenge:
                self.received = self.received or attributes(challenge)
            return client(challenge)

        self.received = None
        outcome = ask(self.checker, begin_scram(respond, hash_name))
        outcome.addErrback(lambda failure: failure.trap(UnauthorizedLogin) and None)
        return self.successResultOf(outcome)

    def challenge(self, name, hash_name="sha256"):
        """Return the salt and the iteration count that a client with this name receives."""
        self.assertIsNone(self.login(name, b"wrong", hash_name))
        return self.received[b"s"], self.received[b"i"]

    def test_accepted(self):
        """A SCRAM secret works with its hash, a cleartext password with both."""
        self.write(
            b"ann:%b\nbob:{PLAIN}password\ncid:{PLAIN.b64}cGFzc3dvcmQ=\n"
            b"dan:{SSHA}x\nmrose:{APOP}password\nnone:\nshut:{PLAIN}password:::::: nologin\n"
            % new_scram_sha256(b"password", 5)
        )
        for hash_name, allowed in (("sha256", b"ann bob cid ANN"), ("sha1", b"bob cid")):
            for name in b"ann bob cid dan mrose none shut unknown ANN".split():
                expected = name.lower() if name in allowed.split() else None
                self.assertEqual(self.login(name, hash_name=hash_name), expected)
                self.assertIsNone(self.login(name, b"wrong", hash_name))

    def test_sha1_secret(self):
        """A SCRAM-SHA-1 secret works with SCRAM-SHA-1 only."""
        keys = derive_scram_keys("sha1", b"password", b"salt", 9)
        text = b",".join([b"9", *map(b64encode, keys[1:])])
        self.write(b"ann:{SCRAM-SHA-1}" + text)
        self.assertEqual(self.login(b"ann", hash_name="sha1"), b"ann")
        self.assertIsNone(self.login(b"ann", b"wrong", "sha1"))
        self.assertIsNone(self.login(b"ann"))

    def test_empty(self):
        """Empty secrets and empty passwords are refused."""
        self.write(b"none:{PLAIN}\nnull:\nann:{PLAIN}a")
        for name in (b"none", b"null", b"ann", b"unknown"):
            for hash_name in ("sha256", "sha1"):
                self.assertIsNone(self.login(name, b"", hash_name))

    def test_by_user(self):
        """A client receives the salt and the iteration count of its user."""
        keys = parse_scram_keys(split_field(new_scram_sha256(b"password", 5))[1])
        text = b",".join([b"5", *map(b64encode, keys[1:])])
        self.write(b"ann:{SCRAM-SHA-256}" + text)
        self.assertEqual(self.challenge(b"ann"), (b64encode(keys.salt), b"5"))

    def test_unknown(self):
        """For an unknown name, the salt and the iteration count look like a user's."""
        for text, iterations in (
            (b"ann:%b" % new_scram_sha256(b"a", 5), b"5"),
            (b"ann:{PLAIN}a", b"7"),
        ):
            self.write(text)
            seen = {self.challenge(b"x%d" % n) for n in range(20)}
            self.assertEqual({count for _, count in seen}, {iterations})
            self.assertEqual({len(b64decode(salt)) for salt, _ in seen}, {16})
            self.assertEqual(len(seen), 20)
            self.assertEqual({self.challenge(b"x%d" % n) for n in range(20)}, seen)
            self.assertEqual(self.challenge(b"ann")[1], iterations)
        self.assertNotEqual(self.challenge(b"x"), self.challenge(b"x", "sha1"))
        for name in (b"x", b"ann"):
            wide = bytes(name).decode().translate({each: each + 0xFEE0 for each in name}).encode()
            self.assertEqual(self.challenge(wide), self.challenge(name))

    def test_salt_octets(self):
        """For an unknown name, the salt is as long as that of a user."""
        for octets in (8, 16, 36, 0):
            salt = b64encode(b"s" * octets)
            self.write(b"ann:{SCRAM-SHA-256}5,%b,%b,%b" % (salt, *[b64encode(b"k" * 32)] * 2))
            self.assertEqual(self.challenge(b"ann")[0], salt)
            salts = {self.challenge(b"x%d" % n)[0] for n in range(9)}
            self.assertEqual({len(b64decode(salt)) for salt in salts}, {octets})
            self.assertEqual(len(salts), 9 if octets else 1)

    def test_own_keys(self):
        """Each user has the iteration count of its own secret."""
        fields = [new_scram_sha256(b"a", n + 1) for n in range(9)]
        self.write(b"\n".join(b"u%d:%b" % user for user in enumerate(fields)))
        counts = [self.challenge(b"u%d" % n)[1] for n in range(9)]
        self.assertEqual(counts, [b"%d" % (n + 1) for n in range(9)])

    def test_apop_only(self):
        """A user who must log in by APOP gets the challenge of an unknown name."""
        self.write(b"mrose:{APOP}x\nann:%b" % new_scram_sha256(b"a", 5))
        challenge = self.challenge(b"mrose")
        self.assertEqual(challenge[1], b"5")
        self.write(b"ann:%b" % new_scram_sha256(b"a", 5))
        self.assertEqual(self.challenge(b"mrose"), challenge)

    def test_supports_passwords(self):
        """Passwords are supported unless all users who can log in have APOP secrets."""
        for text, expected in (
            (b"ann:{PLAIN}a\nbob:{APOP}b", True),
            (b"bob:{APOP}b\ncid:{APOP}c", False),
            (b"bob:{APOP}b\nann:{PLAIN}a:::::: nologin", False),
            (b"", True),
        ):
            self.write(text)
            self.assertIs(self.checker.supports(IUsernamePassword), expected)

    def test_spellings_of_unknown(self):
        """All spellings of an unknown name result in the same challenge, like those of a user."""
        users = (b"ann:%b" % new_scram_sha256(b"a", 5), b"ann:{PLAIN}a")
        many = [b"u%d:%b" % (n, new_scram_sha256(b"a", n + 1)) for n in range(9)]
        for text in (*users, b"\n".join(many)):
            self.write(text)
            for name in ("ann", "eve", "u3", "x1"):
                self.assertEqual(
                    self.challenge(name.upper().encode()), self.challenge(name.encode())
                )
                wide = "".join(chr(ord(letter) + 0xFEE0) for letter in name)
                self.assertEqual(self.challenge(wide.encode()), self.challenge(name.encode()))

    def test_aborted(self):
        """If the client aborts the exchange after a challenge, the login fails."""
        self.write(b"ann:{PLAIN}a")

        def cancelled(client, challenge):
            raise POPError("authentication cancelled")

        def malformed(client, challenge):
            return b"x"

        for name, abort in product((b"ann", b"unknown"), (cancelled, malformed)):
            client = ScramClient("sha256", b"a", name=name)

            def respond(challenge, client=client, abort=abort):
                return abort(client, challenge) if challenge else client(challenge)

            refusal = self.refusal_of(begin_scram(respond), ExchangeAborted)
            self.assertIn("cancelled" if abort is cancelled else "malformed", refusal)

    def test_other_connection(self):
        """A channel binding of another connection is a failed login, which the log explains."""
        self.write(b"ann:{PLAIN}a")
        kind = {"header": b"p=tls-exporter,,", "bound": b"of the attacker"}
        for password, reason in (
            (b"a", "the channel binding does not match this connection"),
            (b"b", "unknown user or wrong password"),
        ):
            client = ScramClient("sha256", password, name=b"ann", **kind)
            failure = self.failureResultOf(ask(self.checker, begin_scram(client, plus=True)))
            self.assertIs(failure.type, UnauthorizedLogin)
            self.assertEqual(str(failure.value), reason)

    def test_changed_meanwhile(self):
        """If the user is removed or the secret changes during the exchange, the login fails."""
        for text in (b"bob:{PLAIN}a", b"ann:{PLAIN}new"):
            self.write(b"ann:{PLAIN}a")
            client = ScramClient("sha256", b"a", name=b"ann")

            def respond(challenge, text=text, client=client):
                if challenge.startswith(b"r="):
                    self.write(text)
                return client(challenge)

            self.assertIn("wrong password", self.refusal_of(begin_scram(respond)))

    def test_restart(self):
        """The challenge for an unknown name stays the same when the server restarts."""
        many = [b"u%d:%b" % (n, new_scram_sha256(b"a", n + 1)) for n in range(9)]
        for text in (b"ann:{PLAIN}a", b"\n".join(many)):
            self.write(text)
            before = [self.challenge(b"x%d" % n) for n in range(9)]
            self.checker = self.new_checker()
            self.assertEqual([self.challenge(b"x%d" % n) for n in range(9)], before)

    def test_challenge_without_password(self):
        """A challenge does not depend on passwords, so clients cannot guess them offline."""
        self.write(b"ann:{PLAIN}a")
        before = self.challenge(b"x"), self.challenge(b"ann")
        self.write(b"ann:{PLAIN}b")
        self.assertEqual((self.challenge(b"x"), self.challenge(b"ann")), before)

    def test_without_a_machine_id(self):
        """Without a machine id, challenges stay the same until the server restarts."""
        for text in (None, b"", b"uninitialized\n", b"0" * 64):
            path = self.mktemp()
            if text is not None:
                with open(path, "wb") as file:
                    file.write(text)
            self.patch(decoys, "_MACHINE_ID", path)
            self.write(b"ann:{PLAIN}a")
            seen = set()
            for _ in range(2):
                self.checker = self.new_checker()
                seen.add(self.challenge(b"x"))
                self.assertIn(self.challenge(b"x"), seen)
            self.assertEqual(len(seen), 2)

    def test_shared_decoys(self):
        """Decoys that hosts share do not depend on the machine."""
        self.write(b"ann:{PLAIN}a")
        seen = set()
        for _ in range(2):
            self.patch(decoys, "_MACHINE_ID", self.mktemp())
            self.checker = self.new_checker()
            self.checker.use_decoys(Decoys(lambda: succeed(b"key")))
            seen.add((self.challenge(b"x"), self.challenge(b"ann")))
        self.assertEqual(len(seen), 1)

    def test_unknown_decoys(self):
        """While the secret of the hosts is not known, no name is looked up."""
        self.write(b"ann:{PLAIN}a")
        self.checker.use_decoys(Decoys(lambda: fail(TryLater())))
        with patch.object(self.checker, "find") as find:
            for name in (b"ann", b"x"):
                for credentials in (begin_scram(ScramClient(name=name)), by_password(name)):
                    self.failureResultOf(ask(self.checker, credentials), TryLater)
        find.assert_not_called()

    def test_nobody(self):
        """If no user has a password, no challenge is sent."""
        self.write(b"mrose:{APOP}x")
        self.assertIsNone(self.login(b"mrose"))
        self.assertIsNone(self.received)

    def test_malformed(self):
        """A malformed secret is refused and not logged; the challenge looks like any other."""
        for field in (b"{SCRAM-SHA-256}s3cret", b"{PLAIN.b64}s3cret!"):
            self.write(b"ann:" + field)
            for name in (b"ann", b"unknown"):
                salt, iterations = self.challenge(name)
                self.assertEqual((len(b64decode(salt)), iterations), (16, b"7"))
            for name, reason in ((b"ann", "malformed password field"), (b"x", "unknown user")):
                refusal = self.refusal_of(begin_scram(ScramClient(name=name)))
                self.assertIn(reason, refusal)
                self.assertNotIn("s3cret", refusal)
        self.assertNotIn("s3cret", self.logged())

    def test_malformed_among_others(self):
        """The challenge of a user with a malformed secret is that of an unknown name."""
        good = new_scram_sha256(b"a", 5)
        self.patch(self.checker._decoys, "choose", lambda name, fields: good)
        for field in (b"{SCRAM-SHA-256}x", b"{PLAIN.hex}x"):
            self.write(b"ann:%b\nbob:%b" % (field, good))
            for name in (b"ann", b"bob", b"unknown"):
                self.assertEqual(self.challenge(name)[1], b"5")

    def test_run(self):
        """Keys are derived by ``run``; the client's response is awaited outside it."""
        self.write(b"ann:{PLAIN}password")
        self.login(b"ann")
        self.assertEqual(len(self.calls), 1)
        pending = Deferred()
        checker = PasswdFileChecker(self.path, lambda *_: pending)
        outcome = ask(checker, begin_scram(ScramClient(name=b"ann")))
        self.assertNoResult(outcome)
        pending.callback((None, derive_scram_keys("sha256", b"password", b"salt", 1), ""))
        self.failureResultOf(outcome, UnauthorizedLogin)


class CramMD5Tests(CheckerCase):
    """CRAM-MD5."""

    def accepts_cram(self, name, password=b"password"):
        """Tell whether the digest of this password is accepted."""
        digest = HMAC(password, b"<1.2@host>", "md5").hexdigest().encode()
        return self.accepts(CramMD5Credentials(name, b"<1.2@host>", digest))

    def test_accepted(self):
        """Cleartext passwords and the secrets of CRAM-MD5 work, in any encoding, and no others."""
        context = hmac_md5_context(b"password")
        self.write(
            b"ann:{PLAIN}password\nbob:{clear.hex}%b\ncid:%b\nmrose:{APOP}password\nnone:\n"
            b"empty:{PLAIN}\nshut:{PLAIN}password:::::: nologin\nbad:{PLAIN.hex}s3cret\n"
            b"dan:{CRAM-MD5}%b\neve:{hmac-md5.b64}%b\nworse:{CRAM-MD5}s3cret\nvoid:{CRAM-MD5}\n"
            % (
                b"password".hex().encode(),
                new_scram_sha256(b"password", 1),
                context.hex().encode(),
                b64encode(context),
            )
        )
        names = b"ann bob cid mrose none empty shut bad unknown ANN dan eve DAN worse void".split()
        for name in names:
            allowed = name.lower() in (b"ann", b"bob", b"dan", b"eve")
            self.assertIs(self.accepts_cram(name), allowed, name)
            self.assertFalse(self.accepts_cram(name, b"wrong"))
            self.assertFalse(self.accepts_cram(name, b""))

    def test_supported(self):
        """CRAM-MD5 is supported if each password is in cleartext or a secret of CRAM-MD5."""
        context = hmac_md5_context(b"password").hex().encode()
        for others, expected in ((b"", True), (b"bob:{PLAIN}b", True), (b"bob:{SSHA}x", False)):
            self.write(b"ann:{CRAM-MD5}%b\n%b\n" % (context, others))
            self.assertIs(self.checker.supports(IUsernameHashedPassword), expected)
            self.assertFalse(self.checker.supports(IScramSHA256Credentials))
            self.assertTrue(self.accepts(by_password(b"ann")))

    def test_same_cost(self):
        """For an unknown name, the digest of some user's secret is calculated, too."""
        context = hmac_md5_context(b"password")
        self.write(b"ann:{CRAM-MD5}%b" % context.hex().encode())
        checked = []
        credentials = CramMD5Credentials(b"unknown", b"<1.2@host>", b"")
        self.patch(credentials, "check_context", lambda given: checked.append(given) or True)
        self.assertFalse(self.accepts(credentials))
        self.assertEqual(checked, [context])

    def test_other_schemes(self):
        """No secret of another scheme is taken for a context of HMAC-MD5."""
        for scheme in SCHEMES.keys() - CRAM_MD5_SCHEMES:
            for secret in (b"0" * 32, b"0" * 64):
                self.write(b"ann:{%b}%b" % (scheme, secret))
                credentials = CramMD5Credentials(b"ann", b"<1.2@host>", b"")
                self.patch(credentials, "check_context", lambda context: True)
                self.assertFalse(self.accepts(credentials), scheme)

    def test_other_credentials(self):
        """Credentials that check only cleartext passwords are refused for a CRAM-MD5 secret."""
        self.write(b"ann:{CRAM-MD5}%b" % hmac_md5_context(b"password").hex().encode())

        @implementer(IUsernameHashedPassword)
        class Plain(UsernamePassword):
            """Credentials that are not popserv's."""

        user = self.successResultOf(Deferred.fromCoroutine(self.checker.find(b"ann")))
        self.assertFalse(self.checker._check_cram_md5(Plain(b"ann", b"password"), user))


class RulesTests(CheckerCase):
    """The rules of the extra fields, with every kind of credentials."""

    EVERY_KIND = b"ann:{PLAIN}password::::::%b\nmrose:{APOP}tanstaaf::::::%b\n"

    def outcomes(self, extra):
        """Return the results of a right login of each kind, for users with these extra fields."""
        self.write(self.EVERY_KIND % (extra, extra))
        digest = HMAC(b"password", b"<1.2@host>", "md5").hexdigest().encode()
        logins = [
            by_password(b"ann"),
            by_apop(b"mrose"),
            CramMD5Credentials(b"ann", b"<1.2@host>", digest),
            CertificateCredentials([b"ann"], b""),
            CertificateCredentials([b"ann"], b"ann"),
            begin_scram(ScramClient("sha256", b"password", name=b"ann"), "sha256"),
            begin_scram(ScramClient("sha1", b"password", name=b"ann"), "sha1"),
        ]
        return {self.avatar(each) for each in logins}

    def test_networks(self):
        """allow_nets and allow_real_nets hold for every kind of login, by the client's address."""
        for field in (b"allow_nets", b"allow_real_nets"):
            for address, networks, allowed in (
                ("192.0.2.1", b"192.0.2.0/24", True),
                ("192.0.2.1", b"198.51.100.0/24", False),
                ("192.0.2.1", b"198.51.100.0/24,local", False),
                (None, b"192.0.2.0/24", False),
                (None, b"192.0.2.0/24,local", True),
                ("2001:db8::1", b"2001:db8::/32", True),
                ("::ffff:192.0.2.1", b"192.0.2.1", True),
            ):
                self.from_address(address)
                expected = {b"ann", b"mrose"} if allowed else {None}
                self.assertEqual(self.outcomes(b"%b=%b" % (field, networks)), expected, networks)

    def test_delay_until(self):
        """delay_until holds for every kind of login, until that time."""
        now = 1_700_000_000
        self.checker = self.new_checker(now=lambda: now)
        for until, allowed in ((now - 1, True), (now, True), (now + 1, False)):
            expected = {b"ann", b"mrose"} if allowed else {None}
            self.assertEqual(self.outcomes(b"delay_until=%d" % until), expected)

    def test_user(self):
        """user=NAME opens that maildrop for every kind of login; the log names the user."""
        self.assertEqual(self.outcomes(b"user=info"), {b"info"})
        credentials = by_password(b"ANN")
        self.assertEqual(self.avatar(credentials), b"info")
        self.assertEqual(credentials.username, b"ann")

    def test_harmless(self):
        """Fields that concern delivery change nothing."""
        self.assertEqual(self.outcomes(b"userdb_quota_rule=*:storage=1G"), {b"ann", b"mrose"})

    def test_refused(self):
        """A field that refuses holds for every kind of login."""
        for field in (b"nologin", b"nopassword", b"surprise=1"):
            self.assertEqual(self.outcomes(field), {None})

    def test_settings(self):
        """Settings of popserv are part of the avatar ID, whatever the kind of login."""
        settings = UserSettings(read_only=True, since=3600)
        self.assertEqual(
            self.outcomes(b"popserv_read_only popserv_since=1h"),
            {ConfiguredUser(b"ann", settings), ConfiguredUser(b"mrose", settings)},
        )
        self.assertEqual(
            self.outcomes(b"user=info popserv_read_only popserv_since=1h"),
            {ConfiguredUser(b"info", settings)},
        )

    def test_require_tls(self):
        """A user who must use TLS is refused without, for every kind of login."""
        self.assertEqual(self.outcomes(b"popserv_require_tls"), {None})
        self.assertIn("does not use TLS", self.refusal_of(by_password(b"ann")))
        token = connection_details.set(lambda: ConnectionDetails(uses_tls=True))
        self.addCleanup(connection_details.reset, token)
        self.assertEqual(self.outcomes(b"popserv_require_tls"), {b"ann", b"mrose"})

    def test_refused_with_a_mechanism(self):
        """The log says why, for every kind of login that names the user."""
        self.from_address("192.0.2.1")
        self.write(self.EVERY_KIND % (b"allow_nets=10.0.0.0/8", b"delay_until=99999999999"))
        reason = "allow_nets does not have the client's address"
        for credentials in (by_password(b"ann"), CertificateCredentials([b"ann"], b"")):
            self.assertIn(reason, self.refusal_of(credentials))
        self.assertIn("delay_until is 5138-", self.refusal_of(by_apop(b"mrose")))

    def test_password_does_not_tell(self):
        """A right and a wrong password cost the same if the rules refuse, also when cached."""
        self.from_address("10.0.0.1")
        self.write(b"ann:{PLAIN}password::::::allow_nets=10.0.0.0/8\nbob:{PLAIN}b")
        self.assertTrue(self.accepts(by_password(b"ann")))
        self.assertTrue(self.accepts(by_password(b"ann")))
        self.from_address("192.0.2.1")
        costs = []
        for password in (b"password", b"wrong", b"password"):
            self.verified.clear()
            self.calls.clear()
            self.assertFalse(self.accepts(by_password(b"ann", password)))
            costs.append((len(self.calls), len(self.verified)))
        self.assertEqual(costs, [(1, 1)] * 3)
        self.from_address("10.0.0.1")
        self.calls.clear()
        self.assertTrue(self.accepts(by_password(b"ann")))
        self.assertEqual(self.calls, [])

    def test_scram_salt(self):
        """A client that the rules refuse gets the salt of a name that no user has."""
        self.write(b"ann:%b::::::allow_nets=10.0.0.0/8\n" % new_scram_sha256(b"password", 5))
        salts = []
        for address in ("10.0.0.1", "192.0.2.1", "192.0.2.2"):
            self.from_address(address)
            client = ScramClient("sha256", b"password", name=b"ann")

            def respond(challenge, client=client):
                if challenge.startswith(b"r="):
                    salts.append(attributes(challenge)[b"s"])
                return client(challenge)

            self.avatar(begin_scram(respond))
        self.assertNotEqual(salts[0], salts[1])
        self.assertEqual(salts[1], salts[2])


REASONS = {
    b"unknown": None,
    b"wrong": b"",
    b"disabled": b"nologin",
    b"not-yet": b"delay_until=99999999999",
    b"elsewhere": b"allow_nets=10.0.0.0/8",
    b"no-tls": b"popserv_require_tls",
}
"""Names of users who cannot log in with a wrong password, and their extra fields."""

HASHES = ("digest", "hexdigest", "hmac_digest", "pbkdf2_hmac", "compare_digest")


class SameWorkTests(CheckerCase):
    """A refusal costs the same work, whatever its reason is, by each mechanism."""

    def work(self, credentials):
        """Return how often credentials let the checker do what takes time."""
        done, calls = Counter(), len(self.calls)

        def details():
            done["details"] += 1
            return ConnectionDetails(("192.0.2.1", 4321))

        def profile(frame, event, argument):
            if event == "c_call" and argument.__name__ in HASHES:
                done[argument.__name__] += 1
            elif event == "call" and frame.f_code in (
                *(prepared_name.__code__, CaseInsensitiveNames.find.__code__),
                *(_is_in.__code__, passwd.split_field.__code__, Decoys.choose.__code__),
                passwd.has_password.__code__,
            ):
                done[frame.f_code.co_name] += 1

        token = connection_details.set(details)
        self.addCleanup(connection_details.reset, token)
        sys.setprofile(profile)
        try:
            outcome = ask(self.checker, credentials)
        finally:
            sys.setprofile(None)
        self.failureResultOf(outcome, UnauthorizedLogin)
        return {**done, "threads": len(self.calls) - calls}

    def assert_same_work(self, field, make_credentials):
        """Fail unless all refusals of users with a password field cost the same."""
        lines = [
            b"%b:%b::::::%b\n" % (name, field, extra)
            for name, extra in REASONS.items()
            if extra is not None
        ]
        self.write(b"".join(lines) + b"other:%b\n" % field)
        # The file is read now.
        self.checker.users()
        costs = {name: self.work(make_credentials(name)) for name in REASONS}
        self.assertGreater(costs[b"wrong"]["compare_digest"], 0)
        self.assertEqual(costs, dict.fromkeys(costs, costs[b"unknown"]))

    def test_password(self):
        """PASS, PLAIN and LOGIN."""
        for field in (b"{PLAIN}password", new_scram_sha256(b"password", 1)):
            self.assert_same_work(field, lambda name: by_password(name, b"wrong"))

    def test_apop(self):
        """APOP."""
        self.assert_same_work(b"{APOP}tanstaaf", lambda name: by_apop(name, b"0" * 32))

    def test_cram_md5(self):
        """CRAM-MD5, with either kind of secret."""
        context = hmac_md5_context(b"password").hex().encode()
        for field in (b"{PLAIN}password", b"{CRAM-MD5}" + context):
            self.assert_same_work(
                field, lambda name: CramMD5Credentials(name, b"<1.2@host>", b"0" * 32)
            )

    def test_scram(self):
        """SCRAM, up to the proof."""
        for hash_name in ("sha256", "sha1"):
            self.assert_same_work(
                b"{PLAIN}password",
                lambda name, kind=hash_name: begin_scram(ScramClient(kind, b"no", name=name), kind),
            )

    def test_other_secrets(self):
        """A password is hashed once for secrets that cannot match, or are malformed."""
        self.patch(self.checker._decoys, "choose", lambda name, fields: b"{PLAIN}x")
        self.write(b"wrong:{PLAIN}x\nnone:\ndigest:{APOP}x\nbad:{SSHA}!\nalien:{X}y\n")
        for name in (b"unknown", b"none", b"digest", b"bad", b"alien"):
            self.verified.clear()
            self.assertFalse(self.accepts(by_password(name)))
            self.assertEqual(self.verified.count(b"{PLAIN}x"), 1, repr(name))


class CertificateTests(CheckerCase):
    """EXTERNAL."""

    def test_names(self):
        """The first of the names that is a user's is the one who logs in."""
        for names, found in [
            ([b"ann"], b"ann"),
            ([b"unknown", b"bob", b"ann"], b"bob"),
            ([b"ANN"], b"ann"),
            ([b"Bob"], b"bob"),
            ([b"unknown"], None),
            ([b"shut"], None),
            ([], None),
            ([b""], None),
        ]:
            self.assertEqual(self.avatar(CertificateCredentials(names)), found, names)

    def test_any_secret(self):
        """The login does not depend on the user's secret."""
        for name in (b"ann", b"mrose", b"none", b"bad", b"alien"):
            self.assertEqual(self.avatar(CertificateCredentials([name], name)), name)
        self.assertEqual(self.verified, [])


class ThreadsTests(UsersFileCase, TestCase):
    """The checker with its pool of threads."""

    async def test_thread(self):
        """By default, passwords are hashed in threads of the pool."""
        where = []

        def verify(*_):
            where.append(threading.current_thread())
            return True

        self.patch(passwd, "verify", verify)
        self.write(b"ann:{PLAIN}a")
        checker = PasswdFileChecker(self.path)
        self.assertEqual(await ask(checker, by_password(b"ann", b"a")), b"ann")
        self.assertEqual(["popserv-hash" in thread.name for thread in where], [True])

    async def test_disconnected(self):
        """If the client disconnects before a thread is free, the password is not hashed."""
        self.patch(passwd, "verify", lambda *_: self.fail("hashed"))
        self.write(b"ann:{PLAIN}a")
        checker = PasswdFileChecker(self.path)
        token = client_is_connected.set(lambda: False)
        try:
            with self.assertRaises(TryLater):
                await ask(checker, by_password(b"ann", b"a"))
        finally:
            client_is_connected.reset(token)
