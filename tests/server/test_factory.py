"""The factory: host name, timestamps, the connection limit."""

from twisted.cred.portal import Portal

from popserv.core.command import CommandTable
from popserv.server.factory import POP3Factory
from popserv.testing import MemoryClient
from tests.server.harness import ProtocolCase


class GreetingTests(ProtocolCase):
    """What the greeting is made of."""

    def test_no_timestamp(self):
        """Where nobody can use APOP, the greeting does not offer it."""
        self.assertEqual(MemoryClient(self.factory).received(), b"+OK POP3 server ready\r\n")

    def test_timestamps(self):
        """Timestamps are <digits.digits@host>, and all different (section 7)."""
        stamps = {self.factory.make_timestamp() for _ in range(100)}
        self.assertEqual(len(stamps), 100)
        for stamp in stamps:
            self.assertRegex(stamp, rb"^<\d+\.\d+@dewey>$")

    def test_host(self):
        """Without a name given, the server goes by its machine's."""
        self.assertRegex(POP3Factory(CommandTable(), Portal(None)).host, rb"^[!-~]+$")


class CrowdTests(ProtocolCase):
    """Nobody can starve the others."""

    def test_make_room(self):
        """The oldest connection that has not logged in makes room."""
        self.factory = self.make_factory(max_connections=2)
        ann = self.logged_in()
        stranger = self.connect()
        third = MemoryClient(self.factory)
        self.assertTrue(stranger.transport.aborted)
        self.assertFalse(ann.closed)
        self.assertEqual(third.received(), b"+OK POP3 server ready\r\n")

    def test_full(self):
        """When all have logged in, one more is told to come again."""
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
