"""A faulty server in memory, and its clients."""

from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.trial.unittest import SynchronousTestCase

from popserv.testing import Faults, MemoryClient
from popserv.testing.faulty.connection import FaultyFactory
from popserv.testing.faulty.faults import ActiveFaults
from popserv.testing.faulty.store import FaultyMaildrops, FaultyPortal

GREETING = b"+OK POP3 server ready\r\n"
LOGIN = b"USER ann\r\nPASS secret\r\n"


class FaultyServerTestCase(SynchronousTestCase):
    """A server with the user ann, who has two messages of 19 and 20 octets."""

    def setUp(self):
        """Make the server; it has no faults."""
        self.faults = ActiveFaults(Faults())
        self.maildrops = FaultyMaildrops(self.faults)
        self.maildrops.deliver(b"ann", b"Subject: 1\n\none\n")
        self.maildrops.deliver(b"ann", b"Subject: 2\n\n.two\n")
        checker = InMemoryUsernamePasswordDatabaseDontUse(ann=b"secret")
        self.factory = FaultyFactory(FaultyPortal(self.maildrops, [checker]), self.faults)

    def connect(self, **faults):
        """Set faults, and return a new client."""
        self.faults.set(Faults(**faults))
        return MemoryClient(self.factory)

    def log_in(self, **faults):
        """Set faults, and return a new client that has logged in."""
        client = self.connect(**faults)
        self.assertIn(b"+OK ann's maildrop has 2 messages", client.send(LOGIN))
        return client
