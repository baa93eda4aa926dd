"""What --metrics changes in a server."""

from twisted.cred.portal import IRealm
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from popserv.auth.realm import MaildropRealm
from popserv.interfaces import IMeasuredStore
from popserv.metrics import catalogue
from popserv.metrics.protocol import MeasuredServer
from popserv.server.factory import POP3Factory
from popserv.server.preauth import PreauthenticatedFactory, PreauthenticatedServer
from popserv.server.protocol import POP3Server
from tests.metrics.harness import MeasuredMixin


class InstrumentsTests(MeasuredMixin, SynchronousTestCase):
    """Instruments."""

    def test_realm(self):
        """The realm that is measured is a realm."""
        verifyObject(IRealm, self.instruments.measure_realm(MaildropRealm(self.store)))

    def test_protocol(self):
        """Connections are of the factory's own kind, and count with the same counters."""
        for kind, protocol, options in [
            (POP3Factory, POP3Server, {}),
            (PreauthenticatedFactory, PreauthenticatedServer, {"identify": None}),
        ]:
            factory = self.make_factory(kind, **options)
            made = factory.buildProtocol(None)
            self.assertIsInstance(made, protocol)
            self.assertIsInstance(made, MeasuredServer)
            self.assertIs(made.counters, self.instruments.counters)
            self.assertIs(made.factory, factory)
            self.assertIs(kind.protocol, protocol)

    def test_store(self):
        """The statements of a store are counted, if it executes any."""

        @implementer(IMeasuredStore)
        class Store:
            def measure(self, observe):
                observe("done", 0.002)
                observe("unknown", 10.5)

        self.instruments.measure_store(self.store)
        self.instruments.measure_store(Store())
        samples = self.instruments.counters.samples
        statements = samples[catalogue.DATABASE_STATEMENTS.name]
        self.assertEqual((statements["done",], statements["unknown",]), (1, 1))
        self.assertEqual(samples[catalogue.DATABASE_SECONDS.name][()][-1], 10.502)

    def test_octets(self):
        """A client sees the same octets as without metrics."""
        lines = b"USER ann\r\nPASS pw\r\nLIST\r\nRETR 1\r\nTOP 2 0\r\nX\r\nDELE 1\r\nQUIT\r\n"
        measured = self.connect().send(lines)
        self.store.deliver(b"bob", b"one\n")
        self.store.deliver(b"bob", b"three\n")
        portal = self.factory.throttle.authenticator._portal
        plain = POP3Factory(
            self.factory.commands, portal, allow_plaintext=True, host=self.factory.host
        )
        self.assertEqual(
            self.connect(factory=plain).send(lines.replace(b"ann", b"bob")),
            measured.replace(b"ann", b"bob"),
        )
