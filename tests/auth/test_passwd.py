"""The checker of a users file: who gets in, how, and what the refused learn."""

import threading
from hashlib import md5
from itertools import product

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword, UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.strcred import makeChecker
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from popserv.auth import passwd
from popserv.auth.credentials import APOPCredentials
from popserv.auth.passwd import PasswdFileChecker
from popserv.auth.schemes import new_scram_sha256
from popserv.auth.users_file import UsersFileError
from popserv.errors import TryLater
from popserv.interfaces import IAPOPCredentials, IOfferingChecker
from tests.auth.test_credentials import DIGEST, SECRET, TIMESTAMP
from tests.auth.test_users_file import UsersFileCase

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
alien:{CRAM-MD5}s3cret
""" % (new_scram_sha256(b"password", 1), SECRET, SECRET.hex().encode())


def by_password(name, password=b"password"):
    """Return what PASS brings."""
    return UsernamePassword(name, password)


def by_apop(name, digest=DIGEST):
    """Return what APOP brings."""
    return APOPCredentials(name, TIMESTAMP, digest)


def digest_of(secret):
    """Return the digest that a client makes of the secret (RFC 1725 section 7)."""
    return md5(TIMESTAMP + secret, usedforsecurity=False).hexdigest().encode()


class CheckerCase(UsersFileCase):
    """Has a checker that hashes at once, and counts how often."""

    def setUp(self):
        """Write the users; note each hashing and each call that would be a thread's."""
        super().setUp()
        self.write(USERS)
        self.verified, self.ran = [], []

        def verify(field, password):
            self.verified.append(field)
            return real(field, password)

        real = passwd.verify
        self.patch(passwd, "verify", verify)
        self.checker = PasswdFileChecker(self.path, self.run_now)

    async def run_now(self, function, *args):
        """Stand in for a pool of threads."""
        self.ran.append(function)
        return function(*args)

    def refusal(self, credentials, kind=UnauthorizedLogin):
        """Return the text of the error with which the checker must refuse."""
        return repr(self.failureResultOf(self.checker.requestAvatarId(credentials), kind).value)

    def accepts(self, credentials):
        """Tell whether the checker lets in, and as whom it was asked to."""
        outcome = self.checker.requestAvatarId(credentials)
        outcome.addErrback(lambda failure: failure.trap(UnauthorizedLogin) and None)
        return self.successResultOf(outcome) == credentials.username


class CheckerTests(CheckerCase):
    """PasswdFileChecker.requestAvatarId."""

    def test_interfaces(self):
        """It is a checker of all that a record can serve, and knows which can now."""
        verifyObject(ICredentialsChecker, self.checker)
        verifyObject(IOfferingChecker, self.checker)
        self.assertTrue(IUsernamePassword.providedBy(by_password(b"x")))

    def test_who_gets_in(self):
        """A user gets in by password or by APOP, never by both (RFC 1725 section 12)."""
        allowed = {(b"ann", by_password), (b"bob", by_password)}
        allowed |= {(b"mrose", by_apop), (b"hexed", by_apop)}
        names = b"ann bob mrose hexed shut none nobody bad badapop alien unknown ANN".split()
        for name, how in product([*names, b"", b"\xff"], (by_password, by_apop)):
            self.assertIs(self.accepts(how(name)), (name, how) in allowed, f"{name!r} {how}")

    def test_wrong(self):
        """A wrong password, the APOP secret as a password, and a wrong digest are refused."""
        for name, password in product((b"ann", b"mrose"), (b"", b"wrong", SECRET, b"\xff", b"\0")):
            self.assertFalse(self.accepts(by_password(name, password)))
        for name, digest in product((b"mrose", b"ann", b"nobody"), (b"", DIGEST.upper())):
            self.assertFalse(self.accepts(by_apop(name, digest)))

    def test_empty_apop_secret(self):
        """The digest of an empty secret opens nothing, for users and for strangers."""
        digest = digest_of(b"")
        for name in (b"nobody", b"ann", b"none", b"unknown", b"mrose"):
            self.assertFalse(self.accepts(by_apop(name, digest)), f"{name!r}")

    def test_apop_with_unknown_encoding(self):
        """An APOP secret in an encoding that is none opens nothing, not even as it stands."""
        self.write(b"ann:{APOP.rot13}gnafgnns\n")
        digest = digest_of(b"{APOP.rot13}gnafgnns")
        self.assertFalse(self.accepts(by_apop(b"ann", digest)))

    def test_same_cost(self):
        """Whoever is unknown, or may not use a password, costs the one hashing of a user."""
        self.write(b"\n".join(USERS.splitlines()[:5]))
        for name in (b"ann", b"bob", b"unknown", b"mrose", b"shut", b"", b"\xff"):
            self.verified.clear()
            self.accepts(by_password(name, b"wrong"))
            self.assertEqual(len(self.verified), 1, f"{name!r}")

    def test_same_decoy(self):
        """An unknown name is always checked against the same secret, other names against others."""
        fields = [b"{PLAIN}%d" % n for n in range(50)]
        self.write(b"\n".join(b"u%d:%b" % user for user in enumerate(fields)))
        names = [b"x%d" % n for n in range(50)]
        for name in names * 2:
            self.assertFalse(self.accepts(by_password(name)))
        self.assertEqual(self.verified[:50], self.verified[50:])
        self.assertGreater(len(set(self.verified)), 1)
        self.assertLessEqual(set(self.verified), set(fields))

    def test_decoy_never_lets_in(self):
        """An unknown user with somebody's password is refused all the same."""
        self.write(b"ann:{PLAIN}password\nmrose:{APOP}password\n")
        for name in (b"unknown", b"mrose"):
            self.assertFalse(self.accepts(by_password(name)))
            self.assertEqual(self.verified.pop(), b"{PLAIN}password")

    def test_malformed_decoy(self):
        """A malformed secret of somebody else's does not change how an unknown name is refused."""
        for field in (b"{SSHA}!", b"{CRAM-MD5}x", b"{SCRAM-SHA-256}%d,AAAA,AAAA,AAAA" % 10**20):
            self.write(b"bad:" + field)
            self.assertIn("no such user", self.refusal(by_password(b"unknown")))

    def test_nobody(self):
        """Without any users, or with APOP's alone, nobody gets in by password."""
        for text in (b"", b"mrose:{APOP}tanstaaf"):
            self.write(text)
            self.assertIn("no such user", self.refusal(by_password(b"ann")))
        self.assertEqual(self.verified, [])

    def test_in_the_pool(self):
        """All that reads or hashes goes through the ``run`` that it was given, once a login."""
        for credentials in (by_password(b"ann"), by_password(b"unknown"), by_apop(b"mrose")):
            self.ran.clear()
            self.accepts(credentials)
            self.assertEqual(len(self.ran), 1)
        self.verified.clear()
        held = Deferred()
        checker = PasswdFileChecker("/nonexistent/users", lambda *_: held)
        outcome = checker.requestAvatarId(by_password(b"ann"))
        self.assertNoResult(outcome)
        held.callback(b"ann")
        self.assertEqual(self.successResultOf(outcome), b"ann")
        self.assertEqual(self.verified, [])

    def test_busy(self):
        """A pool that takes no more is a TryLater, no wrong password."""

        def busy(*_):
            raise TryLater

        self.checker = PasswdFileChecker(self.path, busy)
        self.refusal(by_password(b"ann"), TryLater)

    def test_unusable_file(self):
        """A file that everybody can read lets nobody in, and is not the user's fault."""
        self.write(USERS, 0o644)
        for credentials in (by_password(b"ann"), by_apop(b"mrose"), by_password(b"unknown")):
            outcome = self.checker.requestAvatarId(credentials)
            error = self.failureResultOf(outcome, TryLater).value
            self.assertNotIn(self.path, str(error))
            self.assertIn("chmod o=", str(error.__cause__))
        self.assertFalse(self.checker.offers(IAPOPCredentials))
        self.assertIn("chmod o=", self.logged())

    def test_reasons(self):
        """The reason, which is for the log, names the trouble and quotes no secret."""
        for credentials, reason in (
            (by_password(b"ann", b"s3cret"), "no such user, or a wrong secret"),
            (by_password(b"unknown", b"s3cret"), "no such user, or a wrong secret"),
            (by_password(b"bad", b"s3cret"), "malformed"),
            (by_apop(b"badapop"), "malformed"),
            (by_password(b"alien", b"s3cret"), "CRAM-MD5 is not known"),
        ):
            failure = self.failureResultOf(self.checker.requestAvatarId(credentials))
            self.assertIn(reason, str(failure.value))
            self.assertIsNone(failure.value.__cause__)
            self.assertTrue(failure.value.__suppress_context__ or failure.value.__context__ is None)
        for text in (self.logged(), failure.getTraceback()):
            self.assertNotIn("s3cret", text)

    def test_reread(self):
        """A changed password, and a user taken out, count from the next login."""
        self.assertTrue(self.accepts(by_password(b"ann")))
        self.write(b"ann:{PLAIN}other\n")
        self.assertFalse(self.accepts(by_password(b"ann")))
        self.assertTrue(self.accepts(by_password(b"ann", b"other")))
        self.write(b"\n")
        self.assertFalse(self.accepts(by_password(b"ann", b"other")))


class OffersTests(CheckerCase):
    """PasswdFileChecker.offers."""

    def test_offers_apop(self):
        """APOP is offered exactly while some user has a secret for it (RFC 1725 section 7)."""
        for text, offered in (
            (b"ann:{PLAIN}a\nbob:{APOP}b", True),
            (b"ann:{PLAIN}a", False),
            (b"", False),
            (b"bob:{apop.hex}62", True),
            (b"bob:{APOP}b:::::: nologin", False),
        ):
            self.write(text)
            self.assertIs(self.checker.offers(IAPOPCredentials), offered)
        self.assertEqual(self.ran, [])


class AtStartTests(CheckerCase):
    """PasswdFileChecker.at_start, and the plugin that calls it."""

    def test_in_order(self):
        """With users there is nothing to say."""
        self.write(b"ann:{PLAIN}a")
        self.assertIsInstance(PasswdFileChecker.at_start(self.path), PasswdFileChecker)
        self.assertEqual(self.events, [])

    def test_no_users_yet(self):
        """Without users the server starts, and the log has the command that adds the first."""
        self.path += " of mine"
        for _ in range(2):
            self.events.clear()
            PasswdFileChecker.at_start(self.path)
            self.assertIn(f"popserv user add --users '{self.path}' NAME", self.logged())
            self.write(b"# nobody yet\n")

    def test_in_disorder(self):
        """With a file that everybody can read the server does not start."""
        self.write(USERS, 0o644)
        self.assertIn("chmod o=", self.error_of(PasswdFileChecker.at_start, self.path))
        self.assertRaises(UsersFileError, makeChecker, "passwd-file:" + self.path)

    def test_no_path(self):
        """Without a path the server does not start, and says how to give one."""
        self.assertIn("passwd-file:PATH", self.error_of(PasswdFileChecker.at_start, ""))

    def test_plugin(self):
        """``--auth passwd-file:FILE`` makes one."""
        checker = makeChecker("passwd-file:" + self.path)
        self.assertIsInstance(checker, PasswdFileChecker)


class RealThreadsTests(UsersFileCase, TestCase):
    """The checker on its own pool of threads."""

    async def test_off_the_reactors_thread(self):
        """Unless told otherwise it hashes in threads that are not the reactor's."""
        where = []

        def verify(*_):
            where.append(threading.current_thread())
            return True

        self.patch(passwd, "verify", verify)
        self.write(b"ann:{PLAIN}a")
        checker = PasswdFileChecker(self.path)
        self.assertEqual(await checker.requestAvatarId(by_password(b"ann", b"a")), b"ann")
        self.assertEqual(["popserv-hash" in thread.name for thread in where], [True])
