"""Tests of popserv.auth.services.checker."""

from contextvars import copy_context

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv.auth.services import PasswordService, Verified
from popserv.core.connection_details import ConnectionDetails, connection_details
from popserv.core.session import client_address
from popserv.interfaces import IPasswordCache, IReloadable
from tests.auth.harness import ask


class Service(PasswordService):
    """Accepts the password "secret", and records what it was asked."""

    def __init__(self):
        super().__init__()
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
        """It is a checker, has a cache, and can be reloaded."""
        for each in (ICredentialsChecker, IPasswordCache, IReloadable):
            verifyObject(each, Service())

    def test_name(self):
        """The user is the one whom the service names."""
        credentials = UsernamePassword(b"Ann", b"secret")
        self.assertEqual(self.successResultOf(ask(Service(), credentials)), b"ann")
        self.assertEqual(credentials.username, b"ann")

    def ask(self, service, password=b"secret", address="192.0.2.1", *, is_private=True):
        """Ask a service, as a client on a connection does."""

        def call():
            client_address.set(address)
            connection_details.set(lambda: ConnectionDetails(is_private=is_private))
            return ask(service, UsernamePassword(b"Ann", password))

        return copy_context().run(call)

    def test_remembered(self):
        """A password is asked about once in a while, for each address and kind of connection."""
        service = Service()
        for seconds, asked in ((0, 2), (30, 1)):
            service.asked.clear()
            service.cache_seconds = seconds
            for _ in range(2):
                self.assertEqual(self.successResultOf(self.ask(service)), b"ann")
            self.assertEqual(len(service.asked), asked)
        self.failureResultOf(self.ask(service, b"wrong"), UnauthorizedLogin)
        self.failureResultOf(self.ask(service, b"wrong"), UnauthorizedLogin)
        self.assertEqual(len(service.asked), 3)
        for options in ({"address": "192.0.2.2"}, {"address": None}, {"is_private": False}):
            self.successResultOf(self.ask(service, **options))
        self.assertEqual(len(service.asked), 6)

    def test_reload(self):
        """SIGHUP makes it forget."""
        service = Service()
        service.cache_seconds = 30
        self.successResultOf(self.ask(service))
        service.reload()
        self.successResultOf(self.ask(service))
        self.assertEqual(len(service.asked), 2)

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
