"""Tests of popserv.auth.services.checker."""

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv.auth.services import PasswordService, Verified
from tests.auth.harness import ask


class Service(PasswordService):
    """Accepts the password "secret", and records what it was asked."""

    def __init__(self):
        self.asked = []

    async def verify(self, name, password):
        """See PasswordService."""
        self.asked.append((name, password))
        if password != b"secret":
            raise UnauthorizedLogin("wrong")
        return Verified(name.lower(), {b"home": b"/home/ann"})


class PasswordServiceTests(SynchronousTestCase):
    """What all services have in common."""

    def test_interface(self):
        """It is a checker."""
        verifyObject(ICredentialsChecker, Service())

    def test_name(self):
        """The user is the one whom the service names."""
        credentials = UsernamePassword(b"Ann", b"secret")
        self.assertEqual(self.successResultOf(ask(Service(), credentials)), b"ann")
        self.assertEqual(credentials.username, b"ann")

    def test_not_asked(self):
        """A name or a password that is empty or has a NUL is refused before anybody is asked."""
        service = Service()
        for name, password in (
            (b"", b"secret"),
            (b"ann", b""),
            (b"a\0nn", b"secret"),
            (b"ann", b"secret\0"),
            (b"\0", b"\0"),
        ):
            outcome = ask(service, UsernamePassword(name, password))
            self.failureResultOf(outcome, UnauthorizedLogin)
        self.assertEqual(service.asked, [])
