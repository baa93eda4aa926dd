"""A server of one process in memory, whose clients are counted."""

from twisted.cred.credentials import IUsernamePassword
from twisted.cred.portal import Portal
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import formatEvent, globalLogPublisher

from popserv.auth.realm import MaildropRealm
from popserv.auth.sasl.mechanisms import MECHANISMS
from popserv.commands import rfc1725, sasl
from popserv.core.command import CommandTable
from popserv.metrics.instruments import Instruments
from popserv.server.connection_limit import CountedConnections
from popserv.server.factory import POP3Factory
from tests.commands.harness import Checker, Client
from tests.server.harness import SlowMaildrops


class MeasuredMixin:
    """A test case with a server on which ann has two messages, and her password is pw."""

    def setUp(self):
        """Create the server."""
        self.store = SlowMaildrops()
        self.store.deliver(b"ann", b"one\n")
        self.store.deliver(b"ann", b"three\n")
        self.instruments = Instruments()
        self.connections = CountedConnections()
        self.checker = Checker(lambda credentials: self.decide(credentials), IUsernamePassword)
        self.factory = self.make_factory()
        self.log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)

    def decide(self, credentials):
        """Return the name if the password is right; a test may replace this."""
        return credentials.username if credentials.password == b"pw" else None

    def make_factory(self, kind=POP3Factory, **options):
        """Return a factory whose clients are counted."""
        realm = self.instruments.measure_realm(MaildropRealm(self.store))
        factory = kind(
            CommandTable((*rfc1725.COMMANDS, *sasl.commands(MECHANISMS))),
            Portal(realm, [self.checker]),
            allow_plaintext=True,
            connections=self.connections,
            **options,
        )
        self.instruments.measure_factory(factory)
        return factory

    def connect(self, *lines, factory=None):
        """Return a client that has sent these lines."""
        client = Client(factory or self.factory)
        for line in lines:
            client.send_and_wait(line + b"\r\n")
        return client

    def logged_in(self, *lines):
        """Return a client that is logged in as ann, and has sent these lines."""
        return self.connect(b"USER ann", b"PASS pw", *lines)

    def value(self, metric, *labels):
        """Return the value of a counter, or the number of observations of a histogram."""
        value = self.instruments.counters.samples[metric.name].get(labels, 0)
        return sum(value[:-1]) if isinstance(value, list) else value

    def nonzero(self, metric):
        """Return the labels whose counter is not 0, with their counters."""
        samples = self.instruments.counters.samples[metric.name]
        return {labels: value for labels, value in samples.items() if value}

    def log_lines(self):
        """Return the texts in the log."""
        return [formatEvent(event) for event in self.log]
