"""Connections whose user is preauthenticated before the client sends anything."""

from twisted.cred.portal import Portal
from twisted.internet.address import UNIXAddress
from twisted.logger import formatEvent

from popserv.auth.preauth import PreauthenticatedChecker
from popserv.auth.realm import MaildropRealm
from popserv.commands import capa, rfc1725, sasl, stls, utf8
from popserv.core.command import CommandTable
from popserv.errors import MaildropUnavailable, NoUser
from popserv.messages.downgrade.downgrader import Downgrader
from popserv.messages.workarounds import OE_NS_EOH
from popserv.server.factory import POP3Factory
from popserv.server.preauth import PreauthenticatedFactory
from popserv.testing import MemoryClient
from tests.server.harness import REMOTE_PEER, ServerTestCase

GREETING = b"+OK POP3 server ready, ann's maildrop has 2 messages (10 octets)\r\n"


class PreauthenticatedTestCase(ServerTestCase):
    """A server that identifies each client as ann."""

    def make_factory(self, **options):
        """Return a server with all commands."""
        self.identified = b"ann"
        self.portal = Portal(MaildropRealm(self.store), [PreauthenticatedChecker()])
        tables = (rfc1725, capa, stls, sasl, utf8)
        commands = CommandTable(*(table.COMMANDS for table in tables))
        options = {"identify": self.identify, **options}
        return PreauthenticatedFactory(commands, self.portal, host=b"dewey", **options)

    async def identify(self, transport):
        """Return ``identified``, or raise it."""
        await self.store.step("identify")
        if isinstance(self.identified, Exception):
            raise self.identified
        return self.identified

    def assert_unlocked(self):
        """Check that no maildrop is locked."""
        self.assertEqual(self.store.locked, set())


class GreetingTests(PreauthenticatedTestCase):
    """The greeting contains the reply to the login (RFC 1725 section 4)."""

    def test_greeting(self):
        """The greeting has no timestamp, and the session is in the TRANSACTION state."""
        client = MemoryClient(self.factory)
        self.assertEqual(client.received(), GREETING)
        self.assertEqual(client.send(b"STAT\r\n"), b"+OK 2 10\r\n")
        self.assertEqual(client.send(b"DELE 1\r\nQUIT\r\n")[-18:], b"(1 message left)\r\n")
        self.assertTrue(client.closed)
        client.lose()
        self.assertEqual(list(self.store.stored[b"ann"].values()), [b"two\n"])
        self.assert_unlocked()

    def test_custom_greeting(self):
        """The greeting has the factory's text; an unprintable user name is omitted."""
        self.factory = self.make_factory(greeting=lambda host: host + b" POP server ready")
        self.identified = "änne".encode()
        client = MemoryClient(self.factory)
        self.assertEqual(
            client.received(), b"+OK dewey POP server ready, maildrop has 0 messages (0 octets)\r\n"
        )
        client.lose()

    def test_authorization_commands(self):
        """Commands of the AUTHORIZATION state are rejected, and not announced."""
        client = MemoryClient(self.factory)
        client.received()
        for line in (b"USER ann", b"PASS x", b"APOP ann x", b"AUTH PLAIN", b"STLS"):
            self.assertEqual(client.send(line + b"\r\n"), b"-ERR already logged in\r\n", line)
        capabilities = client.send(b"CAPA\r\n").split(b"\r\n")
        self.assertFalse({b"USER", b"STLS"} & set(capabilities))
        self.assertFalse([line for line in capabilities if line.startswith(b"SASL")])
        client.lose()
        self.assert_unlocked()

    def test_message_filters(self):
        """Messages are downgraded, and workarounds apply, as after a login."""
        self.store.deliver(b"ann", "Subject: é\n\n".encode())
        self.store.deliver(b"ann", b"header alone\n")
        self.store.downgrader = Downgrader
        self.factory = self.make_factory(workarounds=[OE_NS_EOH], downgrader=Downgrader)
        client = MemoryClient(self.factory)
        client.received()
        self.assertIn(b"=?", client.send(b"RETR 3\r\n"))
        self.assertEqual(client.send(b"RETR 4\r\n"), b"+OK 16 octets\r\nheader alone\r\n\r\n.\r\n")
        client.lose()

    def test_log(self):
        """Beginning and end of the session are logged with the user."""
        client = MemoryClient(self.factory, UNIXAddress(b"/s"))
        client.lose()
        begin, end = map(formatEvent, list(self.log)[-2:])
        self.assertEqual(begin, 'UNIX socket: "ann" logged in by preauth, no TLS')
        self.assertIn('UNIX socket: session of "ann" ended, closed by the client: ', end)

    def test_idle(self):
        """The idle timer closes the connection without a reply, and removes nothing."""
        client = self.connect(b"DELE 1")
        client.clock.advance(601)
        self.assertTrue(client.closed)
        self.assertEqual(client.received(), b"")
        client.lose()
        self.assertEqual(len(self.store.stored[b"ann"]), 2)
        self.assert_unlocked()


class WaitingTests(PreauthenticatedTestCase):
    """While the login is in progress."""

    def test_input_waits(self):
        """Commands that arrive before the greeting are run after it, in order."""
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

    def test_half_closed(self):
        """A client that closes its sending side before the greeting gets all replies."""
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
        self.assert_unlocked()

    def test_disconnected(self):
        """If the client disconnects, the maildrop is released."""
        for step in ("identify", "login"):
            self.store.slow = {step}
            client = MemoryClient(self.factory)
            client.lose()
            self.store.waiting[step].callback(None)
            self.assertEqual(self.store.locked, set())
            self.assertEqual(len(self.factory.connections), 0)

    def test_disconnected_and_rejected(self):
        """If the client disconnects and the login fails, nothing stays locked."""
        self.store.slow = {"login"}
        client = MemoryClient(self.factory)
        client.lose()
        self.store.waiting["login"].errback(MaildropUnavailable())
        self.assertEqual(client.received()[:4], b"-ERR")
        self.assert_unlocked()

    def test_slow_reader(self):
        """If the client does not read the greeting, no commands are run."""
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
        """The idle timer closes the connection; the maildrop is released when it is opened."""
        self.store.slow = {"login"}
        client = MemoryClient(self.factory)
        client.clock.advance(600)
        self.assertTrue(client.closed)
        client.lose()
        self.store.waiting["login"].callback(None)
        self.assert_unlocked()


class RejectedTests(PreauthenticatedTestCase):
    """If the login fails, the greeting is -ERR and the connection closes."""

    def rejected_greeting(self):
        """Return the greeting of a new client, whose connection the server closes."""
        client = MemoryClient(self.factory)
        greeting = client.received()
        self.assertTrue(client.closed)
        self.assertEqual(client.send(b"STAT\r\n"), b"")
        client.lose()
        return greeting

    def test_in_use(self):
        """A maildrop that another session has locked gets [IN-USE]."""
        first = MemoryClient(self.factory)
        self.assertEqual(self.rejected_greeting(), b"-ERR [IN-USE] maildrop already locked\r\n")
        self.assertEqual(self.store.locked, {b"ann"})
        first.lose()
        self.assert_unlocked()
        self.assertEqual(len(self.factory.connections), 0)

    def test_no_user(self):
        """A client without a user is told so; the cause is logged."""
        self.identified = NoUser()
        self.identified.__cause__ = Exception("uid 7 has no name")
        self.assertEqual(
            self.rejected_greeting(), b"-ERR [AUTH] you are not a user of this system\r\n"
        )
        self.assertIn("uid 7 has no name", formatEvent(self.log[-1]))

    def test_unexpected_error(self):
        """An unexpected exception is logged, and the client gets a temporary failure."""
        self.identified = RuntimeError("a secret of the server's")
        greeting = self.rejected_greeting()
        self.assertEqual(greeting, b"-ERR [SYS/TEMP] temporary failure, try again later\r\n")
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_no_checker(self):
        """A portal that rejects the user is a failed login, whose reply is delayed."""
        self.portal.checkers.clear()
        client = MemoryClient(self.factory)
        self.assertEqual(client.received(), b"")
        client.clock.advance(2)
        self.assertEqual(client.received(), b"-ERR [AUTH] authentication failed\r\n")
        self.assertTrue(client.closed)
        client.lose()

    def test_later_errors(self):
        """Later errors do not close the connection, unless there are too many bad commands."""
        client = MemoryClient(self.factory)
        client.received()
        self.assertIn(b"-ERR no such message", client.send(b"RETR 3\r\n"))
        self.assertFalse(client.closed)
        client.send(b"?\r\n" * 20)
        self.assertTrue(client.closed)
        client.lose()
        self.assert_unlocked()


class ConnectionLimitTests(PreauthenticatedTestCase):
    """Factories that share one connection limit."""

    def test_shared(self):
        """A preauthenticated connection evicts an unauthenticated one of another factory."""
        portal = Portal(MaildropRealm(self.store), [])
        other = POP3Factory(CommandTable(rfc1725.COMMANDS), portal, max_connections=2)
        self.factory = self.make_factory(max_connections=2, connections=other.connections)
        unauthenticated = [MemoryClient(other, REMOTE_PEER) for _ in range(2)]
        preauthenticated = MemoryClient(self.factory)
        self.assertEqual([each.transport.aborted for each in unauthenticated], [True, False])
        self.assertEqual(preauthenticated.received(), GREETING)
        self.assertEqual(len(other.connections), 2)
        for each in (*unauthenticated, preauthenticated):
            each.lose()
        self.assertEqual(len(other.connections), 0)
