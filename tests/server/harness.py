"""A server whose store is slow when a test wants it to be."""

from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import Portal
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.realm import MaildropRealm
from popserv.commands import rfc1725
from popserv.core.command import CommandTable, command
from popserv.core.grammar import no_arguments
from popserv.core.replies import Reply
from popserv.core.session import State
from popserv.maildrops.memory import MemoryMaildrops
from popserv.server.factory import POP3Factory
from popserv.testing import MemoryClient

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
