"""Tests of popserv.auth.realm."""

from twisted.cred.checkers import ANONYMOUS
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm
from twisted.mail.interfaces import IMailboxPOP3
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from popserv.auth.realm import MaildropRealm
from popserv.errors import MaildropBusy
from popserv.interfaces import IMailbox
from popserv.maildrops.memory import MemoryMaildrops


class MaildropRealmTests(TestCase):
    """MaildropRealm."""

    def setUp(self):
        """Make a store with a message, and its realm."""
        self.maildrops = MemoryMaildrops()
        self.maildrops.deliver(b"ann", b"hello\n")
        self.realm = MaildropRealm(self.maildrops)

    def test_interface(self):
        """It provides IRealm."""
        verifyObject(IRealm, self.realm)

    async def test_avatar(self):
        """The avatar is the user's mailbox, which is locked until the logout."""
        interfaces = (IMailboxPOP3, IMailbox)
        interface, avatar, logout = await self.realm.requestAvatar(b"ann", None, *interfaces)
        self.assertIs(interface, IMailbox)
        verifyObject(IMailbox, avatar)
        self.assertEqual([message.octets for message in avatar.messages], [7])
        self.assertEqual(self.maildrops.locked, {b"ann"})
        with self.assertRaises(MaildropBusy):
            await self.realm.requestAvatar(b"ann", None, IMailbox)
        await logout()
        self.assertEqual(self.maildrops.locked, set())

    async def test_text(self):
        """An avatar ID may be text, as some checkers return it."""
        self.maildrops.deliver("zo\xe9".encode(), b"hello\n")
        _, avatar, logout = await self.realm.requestAvatar("zo\xe9", None, IMailbox)
        self.assertEqual(len(avatar.messages), 1)
        await logout()

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
