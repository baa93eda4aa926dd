"""Tests of popserv.auth.users.service."""

from contextvars import copy_context

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv.auth.users import PasswordService, ServerUnavailable
from popserv.auth.users.records import service_user
from popserv.core.connection_details import ConnectionDetails, connection_details
from popserv.core.user_settings import ConfiguredUser, UserSettings
from popserv.errors import TryLater
from popserv.interfaces import ICaching, IPasswordCache, IReloadable
from tests.auth.harness import ask


class Service(PasswordService):
    """Accepts the password "secret", and records what it was asked."""

    def __init__(self, **fields):
        super().__init__("the service")
        self.fields = {name.encode(): value for name, value in fields.items()}
        self.asked = []
        self.error = None

    async def verify(self, name, password):
        """See PasswordService."""
        self.asked.append((name, password))
        if self.error is not None:
            raise self.error
        if password != b"secret":
            raise UnauthorizedLogin("wrong")
        return service_user(name.lower(), self.fields)


class PasswordServiceTests(SynchronousTestCase):
    """What all services have in common."""

    def test_interface(self):
        """It is a checker, has a cache, and can be reloaded."""
        for each in (ICredentialsChecker, ICaching, IPasswordCache, IReloadable):
            verifyObject(each, Service())

    def test_name(self):
        """The user is the one whom the service names."""
        credentials = UsernamePassword(b"Ann", b"secret")
        self.assertEqual(self.successResultOf(ask(Service(), credentials)), b"ann")
        self.assertEqual(credentials.username, b"ann")

    def ask(self, service, password=b"secret", name=b"Ann", **details):
        """Ask a service, as a client on a connection does."""
        details.setdefault("remote", ("192.0.2.1", 4321))

        def call():
            connection_details.set(lambda: ConnectionDetails(**details))
            return ask(service, UsernamePassword(name, password))

        return copy_context().run(call)

    def refusal(self, *arguments, **options):
        """Return why a service refuses."""
        outcome = self.ask(*arguments, **options)
        return str(self.failureResultOf(outcome, UnauthorizedLogin).value)

    def test_fields(self):
        """What it says about a user, by names of fields of popserv, holds for the login."""
        service = Service(popserv_read_only=b"", home=b"/home/ann")
        expected = ConfiguredUser(b"ann", UserSettings(read_only=True))
        self.assertEqual(self.successResultOf(self.ask(service)), expected)
        for field, reason in (
            ("popserv_nologin", "popserv_nologin is set"),
            ("popserv_typo", "unknown extra field popserv_typo; remove it, or correct its name"),
        ):
            self.assertEqual(self.refusal(Service(**{field: b""})), reason)

    def test_rules_each_time(self):
        """Its rules are applied to each login, also if the password is remembered."""
        service = Service(popserv_require_tls=b"")
        service.cache_seconds = 30
        self.successResultOf(self.ask(service, uses_tls=True))
        self.assertIn("popserv_require_tls is set", self.refusal(service, is_local=True))

    def test_remembered(self):
        """A password is asked about once in a while, for each address and kind of connection."""
        service = Service()
        self.assertEqual(service.cache_seconds, 0)
        for seconds, asked in ((0, 2), (30, 1)):
            service.asked.clear()
            service.cache_seconds = seconds
            for _ in range(2):
                self.assertEqual(self.successResultOf(self.ask(service)), b"ann")
            self.assertEqual(len(service.asked), asked)
        self.assertEqual(service.cache_sizes(), {"passwords": 1})
        for _ in range(2):
            self.assertEqual(self.refusal(service, b"wrong"), "wrong")
        self.assertEqual(len(service.asked), 3)
        for details in (
            {"remote": ("192.0.2.2", 1)},
            {"remote": None},
            {"uses_tls": True},
            {"is_local": True},
            {"local": ("192.0.2.3", 110)},
            {"local": ("192.0.2.3", 995)},
            {"local": ("192.0.2.4", 110)},
            {"name": b"ann"},
        ):
            self.successResultOf(self.ask(service, **details))
        self.assertEqual(len(service.asked), 11)
        # The port of the client is another one each time.
        self.successResultOf(self.ask(service, remote=("192.0.2.1", 1)))
        self.assertEqual(len(service.asked), 11)

    def test_poisoning(self):
        """No name, address and kind of connection together look like others."""
        service = Service()
        service.cache_seconds = 30
        self.successResultOf(self.ask(service, name=b"a", remote=("::1", 1)))
        for name, address in ((b"a::1", ""), (b"", "a::1"), (b"a:", ":1"), (b"a0", "::1")):
            service.asked.clear()
            self.ask(service, name=name, remote=(address, 1)).addErrback(lambda _: None)
            self.assertEqual(len(service.asked), 1 if name else 0)

    def test_reload(self):
        """SIGHUP makes it forget."""
        service = Service()
        service.cache_seconds = 30
        self.successResultOf(self.ask(service))
        service.reload()
        self.successResultOf(self.ask(service))
        self.assertEqual(len(service.asked), 2)

    def test_not_asked(self):
        """Nobody is asked about a name or password that is empty or has a NUL, or a huge name."""
        service = Service()
        for name, password in (
            (b"", b"secret"),
            (b"ann", b""),
            (b"a\0nn", b"secret"),
            (b"ann", b"secret\0"),
            (b"\0", b"\0"),
            (b"a" * 513, b"secret"),
        ):
            outcome = ask(service, UsernamePassword(name, password))
            self.failureResultOf(outcome, UnauthorizedLogin)
        self.assertEqual(service.asked, [])
        self.successResultOf(ask(service, UsernamePassword(b"a" * 512, b"secret")))

    def test_outage(self):
        """While nobody can be asked, logins fail as temporary, and one line says why."""
        log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        service = Service()
        service.error = ServerUnavailable("it is away")
        for _ in range(2):
            self.failureResultOf(self.ask(service), TryLater)
        service.error = None
        self.successResultOf(self.ask(service))
        self.assertEqual(
            [formatEvent(event) for event in log],
            [
                "the service cannot be asked, and logins are refused until it can: it is away",
                "the service answers again",
            ],
        )
