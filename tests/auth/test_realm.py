"""Tests of popserv.auth.realm."""

from twisted.cred.checkers import ANONYMOUS
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.mail.interfaces import IMailboxPOP3
from twisted.trial.unittest import TestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from popserv.auth.realm import MaildropRealm
from popserv.core.user_settings import ConfiguredUser, UserSettings
from popserv.errors import MaildropBusy, MaildropUnavailable
from popserv.interfaces import IConfigurableRealm, IMailbox, IMaildropFactory, IReadOnlyMailbox
from popserv.maildrops.empty_mailbox import EmptyMailbox
from popserv.maildrops.memory import MemoryMaildrops


class MaildropRealmTests(TestCase):
    """MaildropRealm."""

    def setUp(self):
        """Make a store with a message, and its realm."""
        self.maildrops = MemoryMaildrops()
        self.maildrops.deliver(b"ann", b"hello\n")
        self.realm = MaildropRealm(self.maildrops)

    def avatar(self, avatar_id, *interfaces):
        """Request an avatar as a portal does; return a Deferred."""
        return maybeDeferred(self.realm.requestAvatar, avatar_id, None, *interfaces)

    def test_interface(self):
        """It provides IRealm."""
        verifyObject(IRealm, self.realm)

    async def test_avatar(self):
        """The avatar is the user's mailbox, which is locked until the logout."""
        interfaces = (IMailboxPOP3, IMailbox)
        interface, avatar, logout = await self.avatar(b"ann", *interfaces)
        self.assertIs(interface, IMailbox)
        verifyObject(IMailbox, avatar)
        self.assertEqual([message.octets for message in avatar.messages], [7])
        self.assertEqual(self.maildrops.locked, {b"ann"})
        with self.assertRaises(MaildropBusy):
            await self.avatar(b"ann", IMailbox)
        await logout()
        self.assertEqual(self.maildrops.locked, set())

    async def test_settings(self):
        """A user with settings gets what the store has for them, and is locked out as any other."""
        verifyObject(IConfigurableRealm, self.realm)
        user = ConfiguredUser(b"ann", UserSettings(read_only=True))
        _, avatar, logout = await self.avatar(user, IMailbox)
        self.assertTrue(IReadOnlyMailbox.providedBy(avatar))
        with self.assertRaises(MaildropBusy):
            await self.avatar(b"ann", IMailbox)
        await logout()
        self.assertEqual(self.maildrops.locked, set())

    async def test_unsupported_settings(self):
        """A store that cannot honour a user's settings opens nothing, and the log says why."""

        @implementer(IMaildropFactory)
        class OtherStore:
            open_maildrop = None

        for store, settings, reason in (
            (self.maildrops, UserSettings(since=1), "does not support popserv_since"),
            (OtherStore(), UserSettings(read_only=True), "does not support settings of single"),
        ):
            self.realm = MaildropRealm(store)
            with self.assertRaises(MaildropUnavailable) as refused:
                await self.avatar(ConfiguredUser(b"ann", settings), IMailbox)
            self.assertIn(reason, str(refused.exception.__cause__))
        self.assertEqual(self.maildrops.locked, set())

    async def test_sessions(self):
        """The number of a user's sessions does not concern the store."""
        maildrops = self.maildrops

        @implementer(IMaildropFactory)
        class OtherStore:
            open_maildrop = staticmethod(maildrops.open_maildrop)

        user = ConfiguredUser(b"ann", UserSettings(max_user_sessions=3))
        for store in (maildrops, OtherStore()):
            self.realm = MaildropRealm(store)
            _, avatar, logout = await self.avatar(user, IMailbox)
            self.assertEqual(len(avatar.messages), 1)
            await logout()

    async def test_text(self):
        """An avatar ID may be text, as some checkers return it."""
        self.maildrops.deliver("zo\xe9".encode(), b"hello\n")
        _, avatar, logout = await self.avatar("zo\xe9", IMailbox)
        self.assertEqual(len(avatar.messages), 1)
        await logout()

    async def test_at_once(self):
        """A mailbox that the store opens without waiting is no Deferred."""
        _, avatar, logout = self.realm.requestAvatar(b"ann", None, IMailbox)
        self.assertEqual(len(avatar.messages), 1)
        with self.assertRaises(MaildropBusy):
            self.realm.requestAvatar(b"ann", None, IMailbox)
        await logout()

    def test_waiting(self):
        """Otherwise the Deferred fires when the store has opened it."""
        opened = Deferred()
        self.patch(self.maildrops, "open_maildrop", lambda user: opened)
        outcome = self.realm.requestAvatar(b"ann", None, IMailbox)
        self.assertNoResult(outcome)
        mailbox = EmptyMailbox(lambda: None)
        opened.callback(mailbox)
        self.assertEqual(self.successResultOf(outcome), (IMailbox, mailbox, mailbox.release))

    def test_other_interfaces(self):
        """A request without IMailbox raises NotImplementedError and opens nothing."""
        for interfaces in ((), (IMailboxPOP3,)):
            with self.assertRaises(NotImplementedError):
                self.realm.requestAvatar(b"ann", None, *interfaces)
        self.assertEqual(self.maildrops.locked, set())

    def test_anonymous(self):
        """An anonymous user has no maildrop."""
        with self.assertRaises(UnauthorizedLogin):
            self.realm.requestAvatar(ANONYMOUS, None, IMailbox)
