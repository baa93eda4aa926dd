"""Users for whom somebody else has vouched."""

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
    """PreauthenticatedChecker lets in whoever comes to it, and serves nothing else."""

    def test_interfaces(self):
        """The checker and its credentials are cred's."""
        self.assertTrue(verifyObject(ICredentialsChecker, PreauthenticatedChecker()))
        self.assertTrue(verifyObject(IPreauthenticated, Preauthenticated(b"ann")))

    def test_name(self):
        """The avatar is the name's."""
        asked = PreauthenticatedChecker().requestAvatarId(Preauthenticated(b"ann"))
        self.assertEqual(self.successResultOf(asked), b"ann")

    def test_nothing_else(self):
        """Nobody can log in by anything that a client could say."""
        login = PortalAuthenticator(
            Portal(MaildropRealm(MemoryMaildrops()), [PreauthenticatedChecker()])
        )
        self.assertTrue(login.supports(IPreauthenticated))
        self.assertFalse(login.supports(IAPOPCredentials))
