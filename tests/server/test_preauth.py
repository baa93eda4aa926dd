"""Sessions that begin with a login nobody has to ask for, in memory."""

from twisted.cred.portal import Portal
from twisted.internet.address import UNIXAddress
from twisted.logger import formatEvent

from popserv.auth.preauth import PreauthenticatedChecker
from popserv.auth.realm import MaildropRealm
from popserv.commands import capa, rfc1725, sasl, stls, utf8
from popserv.core.command import CommandTable
from popserv.errors import MaildropUnavailable, NoUser
from popserv.messages.workarounds import OE_NS_EOH
from popserv.server.factory import POP3Factory
from popserv.server.preauth import PreauthenticatedFactory
from popserv.testing import MemoryClient
from tests.server.harness import STRANGER, ProtocolCase

GREETING = b"+OK POP3 server ready, ann's maildrop has 2 messages (10 octets)\r\n"


class PreauthenticatedCase(ProtocolCase):
    """ann is known by her connection."""

    def make_factory(self, **options):
        """A server with every command."""
        self.identified = b"ann"
        portal = Portal(MaildropRealm(self.store), [PreauthenticatedChecker()])
        tables = (rfc1725, capa, stls, sasl, utf8)
        commands = CommandTable(*(table.COMMANDS for table in tables))
        options = {"identify": self.identify, **options}
        return PreauthenticatedFactory(commands, portal, host=b"dewey", **options)

    async def identify(self, transport):
        """Name whom the test wants, or refuse whom it wants refused."""
        await self.store.step("identify")
        if isinstance(self.identified, Exception):
            raise self.identified
        return self.identified

    def assert_free(self):
        """Nobody has the maildrop any more."""
        self.assertEqual(self.store.locked, set())


class GreetingTests(PreauthenticatedCase):
    """The greeting answers the login (RFC 1725 section 4)."""

    def test_greeting(self):
        """It says what a login is answered, without a timestamp, and TRANSACTION has begun."""
        client = MemoryClient(self.factory)
        self.assertEqual(client.received(), GREETING)
        self.assertEqual(client.send(b"STAT\r\n"), b"+OK 2 10\r\n")
        self.assertEqual(client.send(b"DELE 1\r\nQUIT\r\n")[-18:], b"(1 message left)\r\n")
        self.assertTrue(client.closed)
        client.lose()
        self.assertEqual(list(self.store.stored[b"ann"].values()), [b"two\n"])
        self.assert_free()

    def test_own_words(self):
        """The greeting's text is the factory's; a name that cannot be told is not in it."""
        self.factory = self.make_factory(greeting=lambda host: host + b" POP server ready")
        self.identified = "änne".encode()
        client = MemoryClient(self.factory)
        self.assertEqual(
            client.received(), b"+OK dewey POP server ready, maildrop has 0 messages (0 octets)\r\n"
        )
        client.lose()

    def test_strangers_state(self):
        """Whatever logs in or goes before a login is refused by its state."""
        client = MemoryClient(self.factory)
        client.received()
        for line in (b"USER ann", b"PASS x", b"APOP ann x", b"AUTH PLAIN", b"STLS"):
            self.assertEqual(client.send(line + b"\r\n"), b"-ERR already logged in\r\n", line)
        capabilities = client.send(b"CAPA\r\n").split(b"\r\n")
        self.assertFalse({b"USER", b"STLS"} & set(capabilities))
        self.assertFalse([line for line in capabilities if line.startswith(b"SASL")])
        client.lose()
        self.assert_free()

    def test_as_ever(self):
        """Messages are downgraded, and workarounds apply, as after another login."""
        self.store.deliver(b"ann", "Subject: é\n\n".encode())
        self.store.deliver(b"ann", b"header alone\n")
        self.factory = self.make_factory(workarounds=[OE_NS_EOH])
        client = MemoryClient(self.factory)
        client.received()
        self.assertIn(b"=?", client.send(b"RETR 3\r\n"))
        self.assertEqual(client.send(b"RETR 4\r\n"), b"+OK 16 octets\r\nheader alone\r\n\r\n.\r\n")
        client.lose()

    def test_logged(self):
        """The log has the end of the session, and who it was."""
        client = MemoryClient(self.factory, UNIXAddress(b"/s"))
        client.lose()
        self.assertIn("session of b'ann' ended, 0 removed, 2 left", formatEvent(self.log[-1]))

    def test_idle(self):
        """The idle timer runs as ever, and closes without a word or a removal."""
        client = self.connect(b"DELE 1")
        client.clock.advance(601)
        self.assertTrue(client.closed)
        self.assertEqual(client.received(), b"")
        client.lose()
        self.assertEqual(len(self.store.stored[b"ann"]), 2)
        self.assert_free()


class WaitingTests(PreauthenticatedCase):
    """What happens while the login is under way."""

    def test_input_waits(self):
        """What the client says before the greeting is answered behind it, in order."""
        self.store.slow.add("login")
        client = MemoryClient(self.factory)
        self.assertEqual(client.transport.producerState, "paused")
        self.assertEqual(client.send(b"STAT\r\nNOOP\r\nQU"), b"")
        self.store.waiting["login"].callback(None)
        client.clock.advance(0)
        self.assertEqual(client.received(), GREETING + b"+OK 2 10\r\n+OK nothing done\r\n")
        self.assertEqual(client.transport.producerState, "producing")
        self.assertIn(b"signing off", client.send(b"IT\r\n"))
        client.lose()

    def test_input_over(self):
        """A client that has said all before the greeting gets all its answers."""
        self.store.slow.add("login")
        client = MemoryClient(self.factory)
        client.server.dataReceived(b"DELE 1\r\n")
        client.server.readConnectionLost()
        self.assertFalse(client.closed)
        self.store.waiting["login"].callback(None)
        self.assertEqual(client.received(), GREETING + b"+OK message 1 deleted\r\n")
        self.assertTrue(client.closed)
        client.lose()
        self.assertEqual(len(self.store.stored[b"ann"]), 2)
        self.assert_free()

    def test_gone(self):
        """If the client goes away meanwhile, the lock that is taken is given up again."""
        for step in ("identify", "login"):
            self.store.slow = {step}
            client = MemoryClient(self.factory)
            client.lose()
            self.store.waiting[step].callback(None)
            self.assertEqual(self.store.locked, set())
            self.assertEqual(len(self.factory.connections), 0)

    def test_gone_refused(self):
        """A refusal that nobody waits for leaks nothing either."""
        self.store.slow = {"login"}
        client = MemoryClient(self.factory)
        client.lose()
        self.store.waiting["login"].errback(MaildropUnavailable())
        self.assertEqual(client.received()[:4], b"-ERR")
        self.assert_free()

    def test_slow_reader(self):
        """The client that does not read its greeting is asked for nothing more."""
        self.store.slow = {"login"}
        client = MemoryClient(self.factory)
        client.server.dataReceived(b"STAT\r\n")
        client.server.pauseProducing()
        self.store.waiting["login"].callback(None)
        self.assertEqual(client.received(), GREETING)
        client.server.resumeProducing()
        self.assertEqual(client.received(), b"+OK 2 10\r\n")
        client.lose()

    def test_idle(self):
        """The idle timer closes a connection whose login takes for ever; the lock goes with it."""
        self.store.slow = {"login"}
        client = MemoryClient(self.factory)
        client.clock.advance(600)
        self.assertTrue(client.closed)
        client.lose()
        self.store.waiting["login"].callback(None)
        self.assert_free()


class RefusedTests(PreauthenticatedCase):
    """A session that cannot begin is greeted -ERR, and closed."""

    def refused(self):
        """Return what a new client is told before the connection is closed."""
        client = MemoryClient(self.factory)
        told = client.received()
        self.assertTrue(client.closed)
        self.assertEqual(client.send(b"STAT\r\n"), b"")
        client.lose()
        return told

    def test_busy(self):
        """A maildrop that is open elsewhere says so, and stays so."""
        first = MemoryClient(self.factory)
        self.assertEqual(self.refused(), b"-ERR [IN-USE] maildrop already locked\r\n")
        self.assertEqual(self.store.locked, {b"ann"})
        first.lose()
        self.assert_free()
        self.assertEqual(len(self.factory.connections), 0)

    def test_nobody(self):
        """A client whom nobody knows is told so; the log knows why."""
        self.identified = NoUser()
        self.identified.__cause__ = Exception("uid 7 has no name")
        self.assertEqual(self.refused(), b"-ERR [AUTH] you are not a user of this system\r\n")
        self.assertIn("uid 7 has no name", formatEvent(self.log[-1]))

    def test_fault(self):
        """Nothing of an unexpected exception reaches the client."""
        self.identified = RuntimeError("a secret of the server's")
        told = self.refused()
        self.assertEqual(told, b"-ERR [SYS/TEMP] temporary failure, try again later\r\n")
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_realm_refuses(self):
        """A realm that wants no such user is heard, after the delay of a failed login."""
        self.factory.throttle.login._portal.checkers.clear()
        client = MemoryClient(self.factory)
        self.assertEqual(client.received(), b"")
        client.clock.advance(2)
        self.assertEqual(client.received(), b"-ERR [AUTH] authentication failed\r\n")
        self.assertTrue(client.closed)
        client.lose()

    def test_later_refusals(self):
        """What is refused later on closes nothing, until there are too many."""
        client = MemoryClient(self.factory)
        client.received()
        self.assertIn(b"-ERR no such message", client.send(b"RETR 3\r\n"))
        self.assertFalse(client.closed)
        client.send(b"?\r\n" * 20)
        self.assertTrue(client.closed)
        client.lose()
        self.assert_free()


class CrowdTests(PreauthenticatedCase):
    """Connections of several factories, one limit."""

    def test_shared(self):
        """Who logs in on one port makes room for who is known, who is no stranger."""
        portal = Portal(MaildropRealm(self.store), [])
        other = POP3Factory(CommandTable(rfc1725.COMMANDS), portal, max_connections=2)
        self.factory = self.make_factory(max_connections=2, connections=other.connections)
        strangers = [MemoryClient(other, STRANGER) for _ in range(2)]
        known = MemoryClient(self.factory)
        self.assertEqual([each.transport.aborted for each in strangers], [True, False])
        self.assertEqual(known.received(), GREETING)
        self.assertEqual(len(other.connections), 2)
        for each in (*strangers, known):
            each.lose()
        self.assertEqual(len(other.connections), 0)
