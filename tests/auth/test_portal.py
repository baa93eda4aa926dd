"""Tests of popserv.auth.portal."""

from itertools import product

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse as Passwords
from twisted.cred.credentials import (
    Anonymous,
    IUsernameHashedPassword,
    IUsernamePassword,
    UsernamePassword,
)
from twisted.cred.error import LoginFailed as CredLoginFailed
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred, fail, succeed
from twisted.mail.interfaces import IMailboxPOP3
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import alsoProvides, directlyProvides, implementer
from zope.interface.verify import verifyObject

from popserv.auth.passwords.file_checker import PasswdFileChecker
from popserv.auth.portal import PortalAuthenticator
from popserv.auth.realm import MaildropRealm
from popserv.auth.throttle.login_delay import LoginDelayRealm
from popserv.core.session import Session, call_release
from popserv.core.user_settings import ConfiguredUser, UserSettings
from popserv.errors import (
    LoginFailed,
    LoginTooSoon,
    MaildropBusy,
    MaildropUnavailable,
    TryLater,
)
from popserv.interfaces import (
    IAPOPCredentials,
    IAPOPTimestamps,
    IConfigurableRealm,
    IMailbox,
    IRelayedCredentials,
    ISASLRelay,
    ITokenCredentials,
)
from popserv.maildrops.memory import MemoryMaildrops
from popserv.messages.downgrade.downgrader import Downgrader
from popserv.testing import read_all
from tests.auth.passwords.test_checker import by_apop
from tests.auth.passwords.test_users_file import UsersFileCase
from tests.auth.test_twisted_mail import ListAvatar
from tests.commands.harness import CREDENTIALS, Checker

ANN = UsernamePassword(b"ann", b"password")
WRONG = UsernamePassword(b"ann", b"wrong")
UNKNOWN = UsernamePassword(b"bob", b"password")


@implementer(IRealm)
class ForeignRealm:
    """A realm of another mail server, whose avatars provide IMailboxPOP3.

    ``log_out`` is called by the logout function and returns its result.
    """

    def __init__(self, avatar, log_out=lambda: None):
        """Store the avatar, which all users share."""
        self.avatar = avatar
        self.log_out = log_out
        self.logouts = 0

    def requestAvatar(self, _avatar_id, _mind, *interfaces):
        """See IRealm."""
        if IMailboxPOP3 not in interfaces:
            raise NotImplementedError
        return succeed((IMailboxPOP3, self.avatar, self.logout))

    def logout(self):
        """Count the logouts."""
        self.logouts += 1
        return self.log_out()


def authenticator(realm, *checkers):
    """Return a PortalAuthenticator; the default checker knows ann only."""
    return PortalAuthenticator(Portal(realm, checkers or [Passwords(ann=b"password")]))


class MaildropRealmTests(UsersFileCase, TestCase):
    """PortalAuthenticator with MaildropRealm."""

    def setUp(self):
        """Deliver a message to ann."""
        super().setUp()
        self.maildrops = MemoryMaildrops()
        self.maildrops.deliver(b"ann", b"hello\n")
        self.realm = MaildropRealm(self.maildrops)

    async def test_mailbox(self):
        """The mailbox is locked until it is released."""
        mailbox, release = await authenticator(self.realm).authenticate(ANN)
        verifyObject(IMailbox, mailbox)
        self.assertEqual(len(mailbox.messages), 1)
        self.assertEqual(self.maildrops.locked, {b"ann"})
        await release()
        self.assertEqual(self.maildrops.locked, set())

    async def test_login_failed(self):
        """All failed logins have the same reply (RFC 1725 section 12), with a cause for the log."""
        login, texts = authenticator(self.realm), set()
        for credentials in (WRONG, UNKNOWN, Anonymous()):
            with self.assertRaises(LoginFailed) as caught:
                await login.authenticate(credentials)
            self.assertIsInstance(caught.exception.__cause__, CredLoginFailed)
            texts.add((caught.exception.code, caught.exception.text))
        self.assertEqual(len(texts), 1)
        self.assertEqual(self.maildrops.locked, set())

    async def test_pop_errors(self):
        """A POPError of the store or of the checker is raised unchanged."""
        login = authenticator(self.realm)
        _, release = await login.authenticate(ANN)
        with self.assertRaises(MaildropBusy):
            await login.authenticate(ANN)
        await release()
        self.write(b"ann:{PLAIN}password", 0o644)
        with self.assertRaises(TryLater):
            await authenticator(self.realm, PasswdFileChecker(self.path)).authenticate(ANN)

    async def test_users_file(self):
        """Users of a users file log in by password or by APOP (RFC 1725 sections 7 and 12)."""
        self.write(b"ann:{PLAIN}password\nmrose:{APOP}tanstaaf\n")
        login = authenticator(self.realm, PasswdFileChecker(self.path))
        for credentials in (ANN, by_apop(b"mrose")):
            _, release = await login.authenticate(credentials)
            self.assertEqual(self.maildrops.locked, {credentials.username})
            await release()
        for credentials in (WRONG, by_apop(b"ann"), UsernamePassword(b"mrose", b"tanstaaf")):
            with self.assertRaises(LoginFailed):
                await login.authenticate(credentials)

    def test_supports_apop(self):
        """APOP is supported if a checker of the portal supports it."""
        for text, expected in ((b"", False), (b"mrose:{APOP}tanstaaf\n", True)):
            self.write(text)
            login = authenticator(self.realm, PasswdFileChecker(self.path))
            self.assertIs(login.supports(IAPOPCredentials), expected)
        self.assertIs(authenticator(self.realm).supports(IAPOPCredentials), False)
        self.assertIs(PortalAuthenticator(Portal(self.realm)).supports(IAPOPCredentials), False)

    def test_supports(self):
        """A checker without ICredentialsSupport supports all its kinds of credentials."""
        says = Checker(lambda credentials: None, IUsernamePassword, ITokenCredentials, supported=())
        for checkers, kinds in [
            ([], set()),
            ([Passwords()], {IUsernamePassword, IUsernameHashedPassword}),
            ([says], set()),
        ]:
            login = PortalAuthenticator(Portal(self.realm, checkers))
            there = {kind for kind in CREDENTIALS if login.supports(kind)}
            self.assertEqual(there, kinds, checkers)
        says.supported = (ITokenCredentials,)
        login = PortalAuthenticator(Portal(self.realm, [says]))
        self.assertIs(login.supports(ITokenCredentials), True)
        self.assertIs(login.supports(IUsernamePassword), False)

    def test_relayed(self):
        """Mechanisms are relayed, and timestamps made, by a checker that does so."""
        both = (IRelayedCredentials, IAPOPCredentials)
        plain = Checker(lambda credentials: None, *both)
        for checkers in ([], [plain]):
            login = authenticator(self.realm, *checkers)
            self.assertEqual((login.relayed_mechanisms(), login.make_timestamp(b"h")), ({}, None))
        directlyProvides(plain, ICredentialsChecker, ISASLRelay, IAPOPTimestamps)
        plain.mechanisms = lambda: {b"NTLM": False}
        plain.make_timestamp = lambda host: b"<1@%b>" % host
        login = authenticator(self.realm, plain)
        self.assertEqual(login.relayed_mechanisms(), {b"NTLM": False})
        self.assertEqual(login.make_timestamp(b"h"), b"<1@h>")

    async def test_too_soon(self):
        """A login within the login delay raises LoginTooSoon."""
        login = authenticator(LoginDelayRealm(self.realm, 60, lambda: 0))
        _, release = await login.authenticate(ANN)
        await release()
        with self.assertRaises(LoginTooSoon):
            await login.authenticate(ANN)
        with self.assertRaises(LoginFailed):
            await login.authenticate(WRONG)
        self.assertEqual(self.maildrops.locked, set())


class ForeignRealmTests(TestCase):
    """PortalAuthenticator with realms whose avatars provide IMailboxPOP3."""

    async def test_adapted(self):
        """The avatar is adapted, without its deleted messages."""
        realm = ForeignRealm(ListAvatar([b"one\n", None, b"three\n"], later=succeed))
        mailbox, release = await authenticator(realm).authenticate(ANN)
        verifyObject(IMailbox, mailbox)
        bodies = [await read_all(await mailbox.open(message)) for message in mailbox.messages]
        self.assertEqual(bodies, [b"one\n", b"three\n"])
        self.assertEqual(realm.logouts, 0)
        await call_release(release)
        self.assertEqual(realm.logouts, 1)

    async def test_logouts(self):
        """The result of a logout may be any value, and is awaited if it is awaitable."""
        waiting = Deferred()
        for result in (None, succeed(None), "done", waiting):
            realm = ForeignRealm(ListAvatar([]), lambda result=result: result)
            _, release = await authenticator(realm).authenticate(ANN)
            outcome = Deferred.fromCoroutine(call_release(release))
            if result is waiting:
                self.assertNoResult(outcome)
                waiting.callback(None)
            self.assertIsNone(self.successResultOf(outcome))
            self.assertEqual(realm.logouts, 1)

    async def test_logout_fails(self):
        """An error of the logout is raised."""
        realm = ForeignRealm(ListAvatar([]), lambda: fail(OSError()))
        _, release = await authenticator(realm).authenticate(ANN)
        with self.assertRaises(OSError):
            await call_release(release)

    async def test_not_adaptable(self):
        """An avatar that cannot be adapted is logged out once."""

        def broken(_):
            raise OSError("no list")

        lists = (broken, lambda _: fail(OSError("no list")), lambda _: [3, 3, 3], lambda _: [3, 3])
        for later, log_out in product(lists, (lambda: None, lambda: succeed(None))):
            realm = ForeignRealm(ListAvatar([b"a\n", None], later=later), log_out)
            with self.assertRaises((OSError, ValueError)):
                await authenticator(realm).authenticate(ANN)
            self.assertEqual(realm.logouts, 1)

    def test_cancelled_while_listing(self):
        """If the login is cancelled while messages are listed, the avatar is logged out."""
        listing = Deferred()
        realm = ForeignRealm(ListAvatar([b"a\n"], later=lambda _: listing))
        outcome = Deferred.fromCoroutine(authenticator(realm).authenticate(ANN))
        self.assertNoResult(outcome)
        outcome.cancel()
        self.failureResultOf(outcome)
        self.assertEqual(realm.logouts, 1)

    async def test_no_such_interface(self):
        """A realm that supports neither interface raises NotImplementedError, not LoginFailed."""
        realm = ForeignRealm(None)
        realm.requestAvatar = lambda *_: fail(NotImplementedError())
        with self.assertRaises(NotImplementedError):
            await authenticator(realm).authenticate(ANN)

    async def test_downgrader(self):
        """Messages have a downgraded form in a server with UTF8 only (RFC 6856)."""
        realm = ForeignRealm(ListAvatar(["Subject: \u00fc\n\n".encode()]), lambda: None)
        checkers = [Passwords(ann=b"password")]
        for downgrader, downgraded in ((None, {}), (Downgrader, {0: 29})):
            opens = PortalAuthenticator(Portal(realm, checkers), downgrader)
            mailbox, _ = await opens.authenticate(ANN)
            self.assertEqual(mailbox.messages.downgraded, downgraded)

    async def test_session(self):
        """In a session, deletions reach the avatar at QUIT, before the logout."""
        avatar = ListAvatar([b"one\n", b"two\n"])
        realm = ForeignRealm(avatar, lambda: avatar.calls.append(("logout",)))
        session = Session(authenticator(realm))
        await session.login(b"ann", ANN)
        session.maildrop.mark(2)
        self.assertEqual(avatar.calls, [])
        await session.update()
        await session.end()
        self.assertEqual(avatar.calls, [("delete", 1), ("sync",), ("logout",)])
        self.assertEqual(avatar.messages, [b"one\n", None])


class OwnPortal(Portal):
    """A portal whose ``login`` is called, because it might not be that of twisted.cred."""


@implementer(IRealm)
class ScriptedRealm:
    """Answers with an outcome, and records its arguments."""

    def __init__(self, outcome):
        self.outcome = outcome
        self.calls = []

    def requestAvatar(self, *args):
        """See IRealm."""
        self.calls.append(args)
        return produce(self.outcome)


async def later(outcome):
    """Return an outcome, as a coroutine function."""
    return outcome


def produce(outcome):
    """Return the outcome, or raise it if it is an exception."""
    if isinstance(outcome, Exception):
        raise outcome
    return outcome() if callable(outcome) else outcome


WRONG_LOGIN = UnauthorizedLogin("wrong")
AVATAR_IDS = (
    *(b"ann", "ann", (), WRONG_LOGIN, TryLater(), KeyError("a bug"), None),
    *(lambda: succeed(b"ann"), lambda: fail(WRONG_LOGIN), lambda: fail(KeyError("a bug"))),
    *(lambda: Failure(WRONG_LOGIN), lambda: later(b"ann"), lambda: later(())),
)


class LikePortalTests(SynchronousTestCase):
    """PortalAuthenticator does what Portal.login does, for any checker and any realm."""

    def outcome(self, portal_class, avatar_id, avatar, credentials=ANN):
        """Return what the authenticator returns or raises, and the calls of the realm."""
        realm = ScriptedRealm(avatar)
        portal = portal_class(realm, [Checker(lambda _: produce(avatar_id), IUsernamePassword)])
        result = Deferred.fromCoroutine(PortalAuthenticator(portal).authenticate(credentials))
        result.addErrback(lambda failure: repr((failure.value, failure.value.__cause__)))
        return self.successResultOf(result), realm.calls

    def test_outcomes(self):
        """The results, the errors and the calls of the realm are the same."""
        avatar = (IMailbox, object(), lambda: None)
        avatars = (
            *(avatar, MaildropBusy(), WRONG_LOGIN, KeyError("a bug"), lambda: succeed(avatar)),
            *(lambda: fail(MaildropBusy()), lambda: fail(WRONG_LOGIN), lambda: Failure(TryLater())),
        )
        outcomes = []
        for avatar_id, answer in product(AVATAR_IDS, avatars):
            expected = self.outcome(OwnPortal, avatar_id, answer)
            self.assertEqual(self.outcome(Portal, avatar_id, answer), expected)
            outcomes.append(expected)
        self.assertIn((avatar[1:], [(b"ann", None, IMailbox, IMailboxPOP3)]), outcomes)
        self.assertIn((avatar[1:], [((), None, IMailbox, IMailboxPOP3)]), outcomes)

    def test_waiting(self):
        """A checker and a realm may be waited for."""
        avatar_id, avatar = Deferred(), Deferred()
        realm = ScriptedRealm(lambda: avatar)
        login = authenticator(realm, Checker(lambda _: avatar_id, IUsernamePassword))
        result = Deferred.fromCoroutine(login.authenticate(ANN))
        self.assertNoResult(result)
        avatar_id.callback(b"ann")
        self.assertNoResult(result)
        avatar.callback((IMailbox, "mailbox", len))
        self.assertEqual(self.successResultOf(result), ("mailbox", len))

    def test_settings(self):
        """A realm that does not know of settings gets no user who has some."""
        user = ConfiguredUser(b"ann", UserSettings(read_only=True))
        realm = ScriptedRealm((IMailbox, "avatar", len))
        portal = Portal(realm, [Checker(lambda credentials: user, IUsernamePassword)])
        refused = Deferred.fromCoroutine(PortalAuthenticator(portal).authenticate(ANN))
        error = self.failureResultOf(refused, MaildropUnavailable).value
        self.assertIn("the realm does not support settings", str(error.__cause__))
        self.assertEqual(realm.calls, [])
        alsoProvides(realm, IConfigurableRealm)
        opened = Deferred.fromCoroutine(PortalAuthenticator(portal).authenticate(ANN))
        self.assertEqual(self.successResultOf(opened), ("avatar", len))
        self.assertEqual([call[0] for call in realm.calls], [user])

    def test_no_checker(self):
        """Credentials of another kind fail, and the realm is not called."""
        for credentials in (Anonymous(), by_apop(b"ann")):
            outcome, calls = self.outcome(Portal, b"ann", None, credentials)
            self.assertIn("UnhandledCredentials", outcome)
            self.assertEqual((outcome, calls), self.outcome(OwnPortal, b"ann", None, credentials))

    def test_other_portals(self):
        """The login of another class of portals is used as it is."""
        portal = OwnPortal(ScriptedRealm(None))
        portal.login = lambda *args: succeed((IMailbox, args, len))
        result = Deferred.fromCoroutine(PortalAuthenticator(portal).authenticate(ANN))
        expected = (ANN, None, IMailbox, IMailboxPOP3)
        self.assertEqual(self.successResultOf(result), (expected, len))
