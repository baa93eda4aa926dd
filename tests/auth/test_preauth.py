"""Tests of popserv.auth.preauth."""

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.portal import Portal
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv.auth.portal import PortalAuthenticator
from popserv.auth.preauth import Preauthenticated, PreauthenticatedChecker
from popserv.auth.realm import MaildropRealm
from popserv.interfaces import IAPOPCredentials, IPreauthenticated
from popserv.maildrops.memory import MemoryMaildrops


class CheckerTests(SynchronousTestCase):
    """PreauthenticatedChecker."""

    def test_interfaces(self):
        """The checker and its credentials provide the interfaces of twisted.cred."""
        self.assertTrue(verifyObject(ICredentialsChecker, PreauthenticatedChecker()))
        self.assertTrue(verifyObject(IPreauthenticated, Preauthenticated(b"ann")))

    def test_name(self):
        """The avatar id is the user's name."""
        outcome = PreauthenticatedChecker().requestAvatarId(Preauthenticated(b"ann"))
        self.assertEqual(self.successResultOf(outcome), b"ann")

    def test_nothing_else(self):
        """A portal with this checker alone supports no credentials that a client can send."""
        login = PortalAuthenticator(
            Portal(MaildropRealm(MemoryMaildrops()), [PreauthenticatedChecker()])
        )
        self.assertTrue(login.supports(IPreauthenticated))
        self.assertFalse(login.supports(IAPOPCredentials))
