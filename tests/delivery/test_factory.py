"""popserv.delivery.factory: the number of connections."""

from socket import gethostname

from zope.interface.verify import verifyObject

from popserv.delivery.factory import LMTPFactory
from popserv.interfaces import IFinalDelivery
from tests.delivery.harness import Client, LMTPCase


class FactoryTests(LMTPCase):
    """LMTPFactory."""

    def test_limit(self):
        """A connection above the limit is refused for now; one that ends makes room."""
        factory = self.make_factory(max_connections=2)
        first, _ = self.connect(factory), self.connect(factory)
        third = Client(factory)
        self.assertEqual(third.received(), b"421 4.3.2 too many connections, try again later\r\n")
        self.assertEqual(third.ask(b"LHLO x"), [])
        third.lose()
        first.lose()
        self.connect(factory)

    def test_host(self):
        """The default name is that of the machine."""
        factory = LMTPFactory(self.store, self.factory.recipients)
        self.assertEqual(factory.host, gethostname().encode())
        verifyObject(IFinalDelivery, self.store)
