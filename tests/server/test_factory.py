"""The factory: greeting, timestamps, host name, the connection limit."""

from twisted.cred.portal import Portal

from popserv.auth.portal import PortalAuthenticator
from popserv.core.command import CommandTable
from popserv.server.factory import POP3Factory
from popserv.testing import MemoryClient
from tests.server.harness import ServerTestCase


class FactoryTests(ServerTestCase):
    """The greeting and its timestamp."""

    def test_no_timestamp(self):
        """If no user can use APOP, the greeting has no timestamp."""
        self.assertEqual(MemoryClient(self.factory).received(), b"+OK POP3 server ready\r\n")

    def test_timestamps(self):
        """Timestamps have the form <digits.digits@host>, and are unique (section 7)."""
        stamps = {self.factory.make_timestamp() for _ in range(100)}
        self.assertEqual(len(stamps), 100)
        for stamp in stamps:
            self.assertRegex(stamp, rb"^<\d+\.\d+@dewey>$")

    def test_timestamp_of_checker(self):
        """A checker may require timestamps of its own."""
        self.patch(PortalAuthenticator, "make_timestamp", lambda _, host: b"<1.2@%b>" % host)
        factory = POP3Factory(CommandTable(), Portal(None), host=b"dewey")
        self.assertEqual(factory.make_timestamp(), b"<1.2@dewey>")

    def test_start(self):
        """When the first port is open, a checker that asks another server connects to it.

        The log does not say that the factory starts and stops.
        """
        asked = []
        self.patch(PortalAuthenticator, "relayed_mechanisms", lambda self: asked.append(self))
        factory = POP3Factory(CommandTable(), Portal(None))
        self.assertEqual(asked, [])
        factory.doStart()
        self.assertEqual(len(asked), 1)
        factory.doStop()
        self.assertEqual(list(self.log), [])

    def test_host(self):
        """The default host name is the machine's."""
        self.assertRegex(POP3Factory(CommandTable(), Portal(None)).host, rb"^[!-~]+$")


class ConnectionLimitTests(ServerTestCase):
    """The limit of connections."""

    def test_evict(self):
        """The oldest unauthenticated connection is evicted for a new one."""
        self.factory = self.make_factory(max_connections=2)
        ann = self.logged_in()
        unauthenticated = self.connect()
        third = MemoryClient(self.factory)
        self.assertTrue(unauthenticated.transport.aborted)
        self.assertFalse(ann.closed)
        self.assertEqual(third.received(), b"+OK POP3 server ready\r\n")

    def test_all_authenticated(self):
        """If all connections are authenticated, a new one is rejected."""
        self.factory = self.make_factory(max_connections=1)
        ann = self.logged_in()
        second = MemoryClient(self.factory)
        self.assertEqual(
            second.received(), b"-ERR [SYS/TEMP] too many connections, try again later\r\n"
        )
        self.assertTrue(second.closed)
        second.server.handshakeCompleted()
        self.assertEqual(second.received(), b"")
        second.lose()
        ann.lose()
        self.assertEqual(MemoryClient(self.factory).received()[:3], b"+OK")
