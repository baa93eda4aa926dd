"""Users for whom somebody else has vouched, and how the system names one."""

import os
import pwd

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.portal import Portal
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from popserv.auth.login import PortalLogin
from popserv.auth.preauth import Preauthenticated, PreauthenticatedChecker, name_of
from popserv.auth.realm import MaildropRealm
from popserv.errors import NoUser
from popserv.interfaces import IAPOPCredentials, IPreauthenticated
from popserv.maildrops.memory import MemoryMaildrops

UNKNOWN_UID = next(
    uid for uid in range(54321, 1 << 16) if uid not in {e.pw_uid for e in pwd.getpwall()}
)
"""A number that is no user's."""


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
        login = PortalLogin(Portal(MaildropRealm(MemoryMaildrops()), [PreauthenticatedChecker()]))
        self.assertTrue(login.offers(IPreauthenticated))
        self.assertFalse(login.offers(IAPOPCredentials))


class NameTests(TestCase):
    """What the system calls the number of a user."""

    async def test_name(self):
        """A user's name is that of the system."""
        uid = os.getuid()
        self.assertEqual(await name_of(uid), pwd.getpwuid(uid).pw_name.encode())

    async def test_no_name(self):
        """A number without a name is refused; the log has the number."""
        with self.assertRaises(NoUser) as caught:
            await name_of(UNKNOWN_UID)
        self.assertEqual(str(caught.exception.__cause__), f"uid {UNKNOWN_UID} has no name")
