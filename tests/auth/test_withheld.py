"""Exceptions of checkers that have a password in their messages."""

from base64 import b64encode

from twisted.cred.credentials import IUsernamePassword, UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred, fail
from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.credentials import APOPCredentials
from popserv.auth.portal import PortalAuthenticator
from popserv.auth.realm import MaildropRealm
from popserv.auth.withheld import MessageWithheld, withhold_secrets
from popserv.errors import POPError, TryLater
from popserv.interfaces import IAPOPCredentials, ITokenCredentials
from popserv.maildrops.memory import MemoryMaildrops
from tests.commands.harness import LOGIN_FAILED, TRY_LATER, Checker, CommandTestCase

CANARY = b"Canary-\xc3\xa9-7f3a9c"


class Unprintable(Exception):
    """An exception without a text."""

    def __str__(self):
        raise RuntimeError


class WithholdTests(SynchronousTestCase):
    """withhold_secrets."""

    def withhold(self, error, secret=CANARY):
        """Return what is raised in place of an error, or the error."""
        try:
            withhold_secrets(error, UsernamePassword(b"ann", secret))
        except MessageWithheld as withheld:
            return withheld
        return error

    def test_forms(self):
        """A message is withheld in whatever form it quotes the secret, alone or in other text."""
        encoded = b64encode(CANARY).decode()
        for shown in (CANARY, CANARY.decode(), CANARY.decode("latin-1"), encoded):
            for error in (ValueError(f"got {shown!r}"), KeyError(shown)):
                self.assertIsInstance(self.withhold(error), MessageWithheld, ascii(shown))
        self.assertIsInstance(self.withhold(ValueError("ab\\'c", 1), b"ab\\'c"), MessageWithheld)
        for secret in (CANARY, b"Canary\n\xc3\xa9"):
            for around in (b"<%b>" % secret, f"<{secret.decode()}>"):
                error = ValueError(repr(around))
                self.assertIsInstance(self.withhold(error, secret), MessageWithheld, ascii(around))

    def test_part(self):
        """A message that has only a part of the secret in it stays."""
        for secret in (b"Canary\xc3\xa9", b"Canary\n7", b"word"):
            for part in (secret[1:], secret.decode()[:-1]):
                error = ValueError(f"got {part!r}")
                self.assertIs(self.withhold(error, secret), error)

    def test_others(self):
        """Other messages stay; a secret of less than four octets is in them by chance."""
        for error in (ValueError("connection refused"), Unprintable(), TryLater()):
            self.assertIs(self.withhold(error), error)
        error = ValueError("connection refused")
        self.assertIs(self.withhold(error, b"ref"), error)
        self.assertIsInstance(self.withhold(error, b"refu"), MessageWithheld)
        withhold_secrets(error, object())

    def test_chain(self):
        """The causes of an error count, and their types are told."""
        error = ValueError("bad")
        error.__cause__ = KeyError(CANARY.decode())
        error.__cause__.__context__ = error
        withheld = self.withhold(error)
        self.assertTrue(str(withheld).startswith("ValueError, caused by KeyError: "))
        self.assertTrue(withheld.__suppress_context__)

    def test_reply(self):
        """A POPError stays, and so does its reply; its cause is another one."""
        error = POPError("try another server")
        error.__cause__ = OSError(CANARY.decode())
        self.assertIs(self.withhold(error), error)
        self.assertIsInstance(error.__cause__, MessageWithheld)

    def test_digest(self):
        """The digest of APOP is a secret, too: passwords can be tried on it."""
        credentials = APOPCredentials(b"ann", b"<1@host>", b"0123456789abcdef")
        with self.assertRaises(MessageWithheld):
            withhold_secrets(ValueError("0123456789abcdef"), credentials)


class OtherPortal(Portal):
    """A portal of a class of its own, whose ``login`` asks the checkers."""


class PortalTests(SynchronousTestCase):
    """Portals."""

    def test_any(self):
        """A message is withheld whatever class the portal has."""

        def quote(credentials):
            raise RuntimeError(f"cannot bind with {credentials.password!r}")

        for portal_class in (Portal, OtherPortal):
            checkers = [Checker(quote, IUsernamePassword)]
            portal = portal_class(MaildropRealm(MemoryMaildrops()), checkers)
            opening = PortalAuthenticator(portal).authenticate(UsernamePassword(b"ann", CANARY))
            self.failureResultOf(Deferred.fromCoroutine(opening), MessageWithheld)


class SessionTests(CommandTestCase):
    """Sessions whose checker fails with the password in its message."""

    def test_log(self):
        """The log has the types and the traceback, and no password, token or digest."""
        encoded = b64encode(CANARY)
        for kind, lines in (
            (IUsernamePassword, [b"USER ann", b"PASS " + CANARY]),
            (IUsernamePassword, [b"AUTH PLAIN " + b64encode(b"\0ann\0" + CANARY)]),
            (IUsernamePassword, [b"AUTH LOGIN", b64encode(b"ann"), encoded]),
            (IAPOPCredentials, [b"APOP ann " + b"0123456789abcdef" * 2]),
            (
                ITokenCredentials,
                [b"AUTH XOAUTH2 " + b64encode(b"user=ann\1auth=Bearer %b\1\1" % CANARY)],
            ),
        ):
            for fault in (self.raises, self.fails, self.hides):
                self.serve(Checker(fault, kind))
                client = self.connect(*lines[:-1])
                reply = client.send(lines[-1] + b"\r\n")
                self.assertEqual(reply, TRY_LATER)
                client.lose()
                self.flushLoggedErrors(MessageWithheld)
        text = self.log_text()
        self.assertIn("RuntimeError: the message has a password or a token", text)
        for secret in ("7f3a9c", encoded.decode()[4:-4], "0123456789abcdef"):
            self.assertNotIn(secret, text)

    def test_refusal(self):
        """What a checker says about a refusal is for the log; it is left as it is."""

        def refuse(credentials):
            raise UnauthorizedLogin("password expired")

        self.serve(Checker(refuse, IUsernamePassword))
        client = self.connect(b"USER ann", b"PASS password")
        self.assertEqual(client.send_and_wait(), LOGIN_FAILED)
        self.assertIn("failed: password expired", self.log_text())

    def error(self, credentials):
        """Return an error that quotes the secret of credentials."""
        names = ("password", "token", "digest")
        (secret,) = [getattr(credentials, name) for name in names if hasattr(credentials, name)]
        return RuntimeError(f"cannot bind with {secret.decode()}")

    def raises(self, credentials):
        """Raise an error at once."""
        raise self.error(credentials)

    def fails(self, credentials):
        """Return a Deferred that fails."""
        return fail(self.error(credentials))

    def hides(self, credentials):
        """Tell the client to try later, for a reason that has the secret in it."""
        raise TryLater from self.error(credentials)
