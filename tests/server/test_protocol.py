"""The shell: input, output, time, and connections that end in every way."""

import socket

from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import Portal
from twisted.internet import reactor
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer, ISSLTransport
from twisted.internet.task import Clock
from twisted.internet.testing import EventLoggingObserver
from twisted.internet.threads import deferToThread
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import directlyProvides
from zope.interface.verify import verifyObject

from popserv.auth.realm import MaildropRealm
from popserv.commands import rfc1725
from popserv.core.command import CommandTable, command
from popserv.core.grammar import no_arguments
from popserv.core.replies import Reply
from popserv.core.session import State
from popserv.maildrops.memory import MemoryMaildrops
from popserv.server import idle
from popserv.server.factory import POP3Factory
from popserv.testing import MemoryClient, MemoryTransport

STRANGER = IPv4Address("TCP", "192.0.2.1", 4321)

ONE_AND_NOOP = b"+OK 5 octets\r\none\r\n.\r\n+OK nothing done\r\n"


class SlowMaildrops(MemoryMaildrops):
    """A store that opens, reads, removes and releases when the test says so."""

    def __init__(self):
        super().__init__()
        self.waiting = {}
        self.slow = set()
        self.released = 0

    async def step(self, name):
        """Wait here if the test wants that."""
        if name in self.slow:
            self.waiting[name] = Deferred()
            await self.waiting[name]

    async def open_maildrop(self, user):
        """Open, and make the mailbox slow, too."""
        await self.step("login")
        mailbox = await super().open_maildrop(user)
        opened, remove, release = mailbox.open, mailbox.remove, mailbox.release

        async def slow_open(message):
            await self.step("open")
            return await opened(message)

        async def slow_remove(messages):
            await self.step("remove")
            await remove(messages)

        async def count_release():
            self.released += 1
            await release()

        mailbox.open, mailbox.remove, mailbox.release = slow_open, slow_remove, count_release
        return mailbox


@command(b"FAIL", State.TRANSACTION, no_arguments)
def fail(session):
    """A command with a bug."""
    raise RuntimeError("a secret of the server's")


@command(b"HUGE", State.TRANSACTION, no_arguments)
def huge(session):
    """A body without end."""
    return Reply(b"huge", iter(lambda: b"x" * 1000 + b"\r\n", None))


@command(b"STUMP", State.TRANSACTION, no_arguments)
def stump(session):
    """A body that cannot be read to its end."""

    def body():
        yield b"half a message\n"
        raise OSError("a secret of the disk's")

    return Reply(b"stump", body())


class ProtocolCase(SynchronousTestCase):
    """ann's maildrop has two messages, and every step of it can be held up."""

    def setUp(self):
        """Make the server."""
        self.store = SlowMaildrops()
        self.store.deliver(b"ann", b"one\n")
        self.store.deliver(b"ann", b"two\n")
        self.factory = self.make_factory()
        self.log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)

    def make_factory(self, **options):
        """A server with a few odd commands beside RFC 1725's."""
        checker = InMemoryUsernamePasswordDatabaseDontUse(ann=b"pw")
        portal = Portal(MaildropRealm(self.store), [checker])
        commands = CommandTable(rfc1725.COMMANDS, [fail, huge, stump])
        return POP3Factory(commands, portal, host=b"dewey", **options)

    def connect(self, *lines, peer=None):
        """A conversation that has said these lines, its answers read."""
        conversation = MemoryClient(self.factory, peer)
        for line in lines:
            conversation.send(line + b"\r\n")
        conversation.received()
        return conversation

    def logged_in(self):
        """A conversation in the TRANSACTION state."""
        return self.connect(b"USER ann", b"PASS pw")

    def fill(self, conversation):
        """Let each write fill the transport's buffer, as if the client did not read."""
        write = conversation.transport.write

        def full(octets):
            write(octets)
            conversation.server.pauseProducing()

        conversation.transport.write = full

    def assertReleased(self, times=1):
        """The lock was given up, so many times."""
        self.assertEqual((self.store.released, self.store.locked), (times, set()))


class GreetingTests(ProtocolCase):
    """RFC 1725 section 4."""

    def test_interfaces(self):
        """The protocol is what its transport takes it for."""
        server = MemoryClient(self.factory).server
        self.assertTrue(verifyObject(IHalfCloseableProtocol, server))
        self.assertTrue(verifyObject(IPushProducer, server))

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

    def test_passwords_need_privacy(self):
        """A password from elsewhere is not taken in the clear, and the session lives."""
        stranger = self.connect(peer=STRANGER)
        for line in (b"USER ann", b"PASS pw"):
            self.assertEqual(
                stranger.send(line + b"\r\n"),
                b"-ERR cleartext passwords are not allowed without TLS\r\n",
            )
        self.factory = self.make_factory(allow_plaintext=True)
        stranger = self.connect(b"USER ann", peer=STRANGER)
        self.assertIn(b"+OK", stranger.send(b"PASS pw\r\n"))
        stranger.lose()

    def test_tls(self):
        """Over TLS the greeting waits for the handshake, and passwords are private."""
        server = self.factory.buildProtocol(None)
        server.callLater = Clock().callLater
        transport = MemoryTransport(peerAddress=STRANGER)
        directlyProvides(transport, ISSLTransport)
        transport.getHandle = lambda: None
        server.makeConnection(transport)
        self.assertEqual((transport.value(), transport.producer), (b"", None))
        server.handshakeCompleted()
        self.assertEqual(transport.value(), b"+OK POP3 server ready\r\n")
        self.assertIs(transport.producer, server)
        server.dataReceived(b"USER ann\r\nPASS pw\r\n")
        self.assertIn(b"maildrop has 2 messages", transport.value())

    def test_no_tls(self):
        """Why a handshake failed is logged, but not that a client went away in it."""
        for error, told in [
            (ValueError("odd"), "odd"),
            (ValueError(), "ValueError"),
            (ConnectionLost(), None),
        ]:
            server = self.factory.buildProtocol(None)
            transport = MemoryTransport(peerAddress=STRANGER)
            directlyProvides(transport, ISSLTransport)
            transport.getHandle = lambda: None
            server.makeConnection(transport)
            server.connectionLost(Failure(error))
            logged = [event["reason"] for event in self.log if "reason" in event]
            self.assertEqual(logged, [told] if told else [])
            self.log._events.clear()


class InputTests(ProtocolCase):
    """One command at a time, whatever comes."""

    def test_pipelined_behind_a_wait(self):
        """What is sent while a command waits is kept, in order, and not read further."""
        self.store.slow = {"login"}
        ann = self.connect(b"USER ann")
        self.assertEqual(ann.send(b"PASS pw\r\nSTAT\r\n"), b"")
        self.assertEqual(ann.transport.producerState, "paused")
        self.assertEqual(ann.send(b"QUIT\r\n"), b"")
        self.store.waiting["login"].callback(None)
        self.assertEqual(
            ann.received(),
            b"+OK ann's maildrop has 2 messages (10 octets)\r\n+OK 2 10\r\n"
            b"+OK dewey POP3 server signing off (2 messages left)\r\n",
        )
        self.assertTrue(ann.closed)

    def test_turns(self):
        """However much is pipelined, other sessions have their turn after some commands."""
        ann = self.logged_in()
        ann.server.dataReceived(b"NOOP\r\n" * 118)
        self.assertEqual(ann.received().count(b"+OK"), 50)
        ann.clock.advance(0)
        self.assertEqual(ann.received().count(b"+OK"), 68)
        ann.server.dataReceived(b"UIDL\r\n" * 6)
        self.assertEqual(ann.received().count(b"+OK"), 5)

    def test_turns_of_packets(self):
        """A client that waits for its answers is never held up, however many it had."""
        ann = self.logged_in()
        for _ in range(200):
            self.assertEqual(ann.send(b"NOOP\r\n"), b"+OK nothing done\r\n")
            self.assertEqual(ann.transport.producerState, "producing")

    def test_turn_of_the_lost(self):
        """A connection that is lost between two turns has no further one."""
        ann = self.logged_in()
        ann.server.dataReceived(b"DELE 1\r\n" + b"NOOP\r\n" * 60 + b"QUIT\r\n")
        ann.lose()
        ann.clock.advance(0)
        self.assertReleased()
        self.assertEqual(len(self.store.stored[b"ann"]), 2)

    def test_input_after_closing(self):
        """What TLS still reads after the server closed is not kept."""
        ann = self.logged_in()
        ann.send(b"QUIT\r\n" + b"x" * 500)
        ann.send(b"y" * 100_000)
        self.assertEqual(ann.server.clearLineBuffer(), b"")

    def test_bare_lf(self):
        """People at a terminal may end lines by LF."""
        self.assertEqual(self.connect(b"USER ann").send(b"PASS pw\nSTAT\n")[-10:], b"+OK 2 10\r\n")

    def test_long_line(self):
        """A line too long is answered once, and what follows it is not obeyed."""
        for octets in (b"USER " + b"x" * 1020 + b"\r\nQUIT\r\n", b"x" * 100_000):
            ann = self.connect()
            self.assertEqual(ann.send(octets), b"-ERR line too long\r\n")
            self.assertTrue(ann.closed)
            self.assertEqual(ann.send(b"y" * 100_000), b"")

    def test_longest_line(self):
        """RFC 2449 section 4 wants 255 octets at least; there are four times as many."""
        ann = self.connect()
        self.assertEqual(ann.send(b"USER " + b"x" * 1019 + b"\r\n"), b"+OK send PASS\r\n")

    def test_blunders(self):
        """Twenty lines in a row that are no command end the connection; a good one forgives."""
        ann = self.connect(*[b"GET / HTTP/1.1"] * 19, b"USER ann")
        for _ in range(19):
            self.assertEqual(ann.send(b"BOGUS\r\n"), b"-ERR unknown command\r\n")
            self.assertFalse(ann.closed)
        ann.send(b"BOGUS\r\n")
        self.assertTrue(ann.closed)

    def test_refusals_are_no_blunders(self):
        """Asking for what is not there, however often, is a client's right."""
        ann = self.logged_in()
        for _ in range(15):
            ann.send(b"BOGUS\r\nRETR 99\r\n")
        self.assertFalse(ann.closed)

    def test_guesses(self):
        """A failed login is answered late, and the third ends the connection."""
        ann = self.connect()
        for guess in range(3):
            self.assertFalse(ann.closed)
            ann.send(b"USER ann\r\n")
            self.assertEqual(ann.send(b"PASS guess %d\r\n" % guess), b"")
            ann.clock.advance(1.9)
            self.assertEqual(ann.received(), b"")
            ann.clock.advance(0.2)
            self.assertEqual(ann.received(), b"-ERR [AUTH] authentication failed\r\n")
        self.assertTrue(ann.closed)

    def test_vanished(self):
        """A message that another program removed is refused, and the session lives."""
        ann = self.logged_in()
        self.store.stored[b"ann"].pop(b"m1")
        gone = b"-ERR message 1 was removed by another program\r\n"
        self.assertEqual(ann.send(b"RETR 1\r\n"), gone)
        self.assertEqual(ann.send(b"TOP 1 0\r\n"), gone)
        self.assertEqual(ann.send(b"DELE 1\r\n"), b"+OK message 1 deleted\r\n")
        self.assertIn(b"+OK", ann.send(b"QUIT\r\n"))

    def test_busy(self):
        """A second session is told so, may try again, and gets in when the first has gone."""
        first = self.logged_in()
        second = self.connect(b"USER ann")
        self.assertEqual(second.send(b"PASS pw\r\n"), b"-ERR [IN-USE] maildrop already locked\r\n")
        first.lose()
        second.send(b"USER ann\r\n")
        self.assertIn(b"+OK", second.send(b"PASS pw\r\n"))

    def test_unexpected_error(self):
        """A bug is logged and told as nothing but a temporary failure; the session lives."""
        ann = self.logged_in()
        self.assertEqual(
            ann.send(b"FAIL\r\nNOOP\r\n"),
            b"-ERR [SYS/TEMP] temporary failure, try again later\r\n+OK nothing done\r\n",
        )
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)


class OutputTests(ProtocolCase):
    """Memory is bounded by what the client reads."""

    def test_body_waits_for_the_client(self):
        """A body is made as fast as it is read."""
        ann = self.logged_in()
        written = 0
        ann.server.pauseProducing()
        self.assertEqual(ann.send(b"HUGE\r\n"), b"")
        self.fill(ann)
        for _ in range(5):
            ann.server.resumeProducing()
            written = len(ann.received())
            self.assertLess(written, 1 << 17)
            self.assertGreater(written, 1 << 15)
        ann.lose()
        self.assertReleased()

    def test_commands_wait_for_the_client(self):
        """A client that does not read is not listened to, so its answers cannot pile up."""
        ann = self.logged_in()
        self.fill(ann)
        self.assertEqual(ann.send(b"STAT\r\n"), b"+OK 2 10\r\n")
        self.assertEqual(ann.transport.producerState, "paused")
        self.assertEqual(ann.send(b"NOOP\r\nLIST 1\r\n"), b"")
        ann.server.resumeProducing()
        self.assertEqual(ann.received(), b"+OK nothing done\r\n+OK 1 5\r\n")

    def test_answers_leave_together(self):
        """What answers one packet leaves in one write, unless that were a large one."""
        ann = self.logged_in()
        writes = self.patch_write(ann)
        ann.send(b"NOOP\r\n" * 5 + b"RETR 1\r\nSTAT\r\n")
        self.assertEqual(len(writes), 1)
        ann.send(b"LIST\r\nHUGE\r\n")
        self.assertTrue(all(len(octets) < 3 << 16 for octets in writes))
        ann.lose()

    def patch_write(self, conversation):
        """Note each write, and let the transport be full once there was a large one."""
        writes = []

        def write(octets):
            writes.append(octets)
            if len(octets) > 1 << 16:
                conversation.server.pauseProducing()

        conversation.transport.write = write
        return writes

    def test_full_while_waiting(self):
        """A command that ends while the client does not read lets no further one in."""
        self.store.slow = {"open"}
        ann = self.logged_in()
        ann.send(b"RETR 1\r\nNOOP\r\n")
        ann.server.pauseProducing()
        self.store.waiting["open"].callback(None)
        self.assertEqual(ann.received(), b"")
        ann.server.resumeProducing()
        self.assertEqual(ann.received(), ONE_AND_NOOP)

    def test_drained_while_waiting(self):
        """Output that drains while a command waits does not let the next one in."""
        self.store.slow = {"open"}
        ann = self.logged_in()
        ann.send(b"RETR 1\r\nNOOP\r\n")
        ann.server.pauseProducing()
        ann.server.resumeProducing()
        self.assertEqual(ann.received(), b"")
        self.store.waiting["open"].callback(None)
        self.assertEqual(ann.received(), ONE_AND_NOOP)

    def test_stump(self):
        """A message that cannot be read to its end breaks the connection, unterminated."""
        ann = self.logged_in()
        self.assertNotIn(b"\r\n.\r\n", ann.send(b"STUMP\r\nNOOP\r\n"))
        self.assertTrue(ann.transport.aborted)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        ann.lose()
        self.assertReleased()


class SocketTests(TestCase):
    """What becomes of a real connection."""

    setUp = ProtocolCase.setUp
    make_factory = ProtocolCase.make_factory

    async def test_stump(self):
        """A message that is cut short ends in a broken connection, and not in order."""
        port = reactor.listenTCP(0, self.factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)

        def read_all():
            with socket.create_connection(("127.0.0.1", port.getHost().port), 30) as client:
                client.sendall(b"USER ann\r\nPASS pw\r\nSTUMP\r\n")
                while client.recv(1 << 16):
                    pass

        with self.assertRaises(ConnectionResetError):
            await deferToThread(read_all)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        self.assertEqual((self.store.released, self.store.locked), (1, set()))


class TimeTests(ProtocolCase):
    """RFC 1725 section 3: the autologout timer."""

    def test_closed_while_waiting(self):
        """A body that comes after the server has closed is not sent."""
        self.store.slow = {"open"}
        ann = self.logged_in()
        ann.send(b"RETR 1\r\n")
        ann.clock.advance(601)
        self.store.waiting["open"].callback(None)
        self.assertEqual((ann.received(), ann.closed), (b"", True))
        ann.lose()
        self.assertReleased()

    def test_idle(self):
        """Ten minutes without a command end a session, silently and without UPDATE."""
        ann = self.logged_in()
        ann.send(b"DELE 1\r\n")
        ann.clock.advance(599)
        ann.send(b"NOOP\r\n")
        ann.clock.advance(599)
        self.assertFalse(ann.closed)
        ann.clock.advance(2)
        self.assertEqual((ann.received(), ann.closed, ann.transport.aborted), (b"", True, False))
        ann.lose()
        self.assertReleased()
        self.assertEqual(len(self.store.stored[b"ann"]), 2)

    def test_half_a_line_is_no_command(self):
        """Dribbling octets does not keep a connection."""
        ann = self.logged_in()
        for _ in range(11):
            ann.send(b"x")
            ann.clock.advance(60)
        self.assertTrue(ann.closed)

    def test_stalled_reader(self):
        """A client that stopped reading is cut off; what it did not take is not waited for."""
        ann = self.logged_in()
        self.fill(ann)
        ann.send(b"HUGE\r\n")
        ann.clock.advance(601)
        self.assertTrue(ann.closed)
        self.assertFalse(ann.transport.aborted)
        ann.clock.advance(31)
        self.assertTrue(ann.transport.aborted)
        ann.lose()
        self.assertReleased()

    def test_slow_reader(self):
        """A client that reads slowly is served to the end."""
        ann = self.logged_in()
        ann.server.pauseProducing()
        for _ in range(5):
            ann.clock.advance(500)
            ann.server.resumeProducing()
            ann.server.pauseProducing()
        self.assertFalse(ann.closed)

    def test_still_reading(self):
        """As long as the client takes some of its output, if slowly, the time begins anew."""
        untaken = iter([9, 8, 7, 7, 7, 6, 6])
        self.patch(idle, "unread_octets", lambda transport: next(untaken))
        ann = self.logged_in()
        for _ in range(3):
            ann.clock.advance(601)
        self.assertFalse(ann.closed)
        ann.clock.advance(601)
        self.assertTrue(ann.closed)
        ann.clock.advance(31)
        self.assertFalse(ann.transport.aborted)
        ann.clock.advance(31)
        self.assertTrue(ann.transport.aborted)

    def test_read_and_stalled(self):
        """What waited before the last command is no measure of what waits after it."""
        untaken = iter([5, 9, 8])
        self.patch(idle, "unread_octets", lambda transport: next(untaken))
        ann = self.logged_in()
        ann.clock.advance(601)
        ann.send(b"LIST\r\n")
        for _ in range(2):
            ann.clock.advance(601)
            self.assertFalse(ann.closed)

    def test_stuck_store(self):
        """The timer runs while a command waits; the lock is given up once the store answers."""
        self.store.slow = {"open"}
        ann = self.logged_in()
        ann.send(b"RETR 1\r\n")
        ann.clock.advance(601)
        self.assertTrue(ann.closed)
        ann.lose()
        self.assertEqual(self.store.released, 0)
        self.store.waiting["open"].callback(None)
        self.assertReleased()

    def test_configured(self):
        """The time is the factory's."""
        self.factory = self.make_factory(idle_timeout=5)
        ann = self.logged_in()
        ann.clock.advance(6)
        self.assertTrue(ann.closed)


class EndTests(ProtocolCase):
    """Whatever way a connection ends, the lock is given up once and no mail is lost."""

    def test_lost_while_logging_in(self):
        """A lock that is got after client disconnected is given up at once."""
        self.store.slow = {"login"}
        ann = self.connect(b"USER ann", b"PASS pw")
        ann.lose()
        self.store.waiting["login"].callback(None)
        self.assertReleased()

    def test_lost_while_refused(self):
        """A client that goes before it is refused is not missed."""
        ann = self.connect(b"USER ann", b"PASS wrong")
        ann.lose()
        ann.clock.advance(3)
        self.assertReleased(0)

    def test_lost_while_opening(self):
        """A body that nobody wants any more is closed."""
        self.store.slow = {"open"}
        ann = self.logged_in()
        ann.send(b"RETR 1\r\n")
        ann.lose()
        self.store.waiting["open"].callback(None)
        self.assertReleased()

    def test_lost_while_removing(self):
        """A removal that has begun is not interrupted, and the lock is held till it is over."""
        self.store.slow = {"remove"}
        ann = self.logged_in()
        ann.send(b"DELE 1\r\nQUIT\r\n")
        ann.lose()
        self.assertEqual((self.store.locked, len(self.store.stored[b"ann"])), ({b"ann"}, 2))
        self.store.waiting["remove"].callback(None)
        self.assertReleased()
        self.assertEqual(len(self.store.stored[b"ann"]), 1)

    def test_removal_fails(self):
        """QUIT says that deletions failed, and the connection closes all the same."""
        self.store.slow = {"remove"}
        ann = self.logged_in()
        ann.send(b"DELE 1\r\nQUIT\r\nNOOP\r\n")
        self.store.waiting["remove"].errback(OSError("disk"))
        self.assertEqual(ann.received(), b"-ERR [SYS/TEMP] temporary failure, try again later\r\n")
        self.assertTrue(ann.closed)
        self.assertReleased()
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_release_fails(self):
        """A lock that cannot be given up is logged."""
        ann = self.logged_in()

        async def release():
            raise OSError("disk")

        ann.server.session._release = release
        ann.lose()
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_half_closed(self):
        """A client that sends all and closes its side gets all its answers."""
        ann = self.connect()
        self.store.slow = {"login"}
        ann.send(b"USER ann\r\nPASS pw\r\nSTAT\r\nDELE 1\r\n")
        ann.server.readConnectionLost()
        self.assertFalse(ann.closed)
        self.store.waiting["login"].callback(None)
        self.assertEqual(ann.received().count(b"+OK"), 3)
        self.assertTrue(ann.closed)
        ann.lose()
        self.assertEqual(len(self.store.stored[b"ann"]), 2)

    def test_half_closed_idle(self):
        """A client that closes its side with nothing under way is gone."""
        ann = self.logged_in()
        ann.server.readConnectionLost()
        self.assertTrue(ann.closed)

    def test_half_closed_after_quit(self):
        """A client may close its side while the server closes the connection."""
        ann = self.logged_in()
        ann.send(b"QUIT\r\n")
        ann.server.readConnectionLost()
        self.assertTrue(ann.closed)

    def test_half_closed_while_full(self):
        """Answers that the client has yet to read are still for it to read."""
        ann = self.logged_in()
        ann.server.pauseProducing()
        ann.send(b"HUGE\r\n")
        ann.server.readConnectionLost()
        self.assertFalse(ann.closed)
        ann.lose()
        self.assertReleased()

    def test_write_side_lost(self):
        """A client that can be told nothing is let go."""
        ann = self.logged_in()
        ann.server.writeConnectionLost()
        self.assertTrue(ann.transport.aborted)

    def test_stop_producing(self):
        """A transport's last word stops input."""
        ann = self.logged_in()
        ann.server.stopProducing()
        self.assertEqual(ann.send(b"NOOP\r\n"), b"")

    def test_nothing_after_closing(self):
        """Lines behind the one that closes are not obeyed."""
        ann = self.logged_in()
        ann.send(b"QUIT\r\n")
        ann.server.lineReceived(b"NOOP")
        self.assertEqual(ann.received(), b"")


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


class LogTests(ProtocolCase):
    """What the operator learns, and what nobody does."""

    def test_session_line(self):
        """A session's end is logged with who it was and what was removed."""
        ann = self.logged_in()
        ann.send(b"DELE 2\r\nQUIT\r\n")
        ann.lose()
        event = next(event for event in self.log if "removed" in event)
        self.assertEqual(
            (event["peer"], event["user"], event["removed"], event["left"]),
            ("127.0.0.1:54321", b"ann", 1, 1),
        )

    def test_reason(self):
        """Why a login failed is in the log, and the password is not."""
        ann = self.connect(b"USER ann", b"PASS canary-4711")
        ann.clock.advance(3)
        event = next(event for event in self.log if "cause" in event)
        self.assertEqual((event["user"], event["peer"]), (b"ann", "127.0.0.1:54321"))
        self.assertNotIn("canary", repr(list(self.log)))

    def test_log_is_bounded(self):
        """One session cannot fill the log with its refusals."""
        ann = self.logged_in()
        for _ in range(150):
            ann.send(b"FAIL\r\n")
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 100)

    def test_peer_without_port(self):
        """A peer on a UNIX socket has no port to log."""
        ann = self.connect(b"USER ann", b"PASS pw", b"QUIT", peer=UNIXAddress(b"/s"))
        ann.lose()
        event = next(event for event in self.log if "removed" in event)
        self.assertEqual(event["peer"], "UNIX socket")
