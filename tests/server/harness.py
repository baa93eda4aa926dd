"""A server in memory, whose store waits when a test wants it to."""

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

REMOTE_PEER = IPv4Address("TCP", "192.0.2.1", 4321)


ONE_AND_NOOP = b"+OK 5 octets\r\none\r\n.\r\n+OK nothing done\r\n"


class SlowMaildrops(MemoryMaildrops):
    """A store whose steps in ``slow`` wait for a Deferred in ``waiting``; counts releases."""

    def __init__(self):
        super().__init__()
        self.waiting = {}
        self.slow = set()
        self.released = 0

    async def step(self, name):
        """Wait for the test, if it has chosen this step."""
        if name in self.slow:
            self.waiting[name] = Deferred()
            await self.waiting[name]

    async def open_maildrop(self, user):
        """Open the mailbox, and let its methods wait, too."""
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
            await self.step("release")
            await release()

        mailbox.open, mailbox.remove, mailbox.release = slow_open, slow_remove, count_release
        return mailbox


@command(b"FAIL", State.TRANSACTION, no_arguments)
def fail(session):
    """Raise an unexpected exception."""
    raise RuntimeError("a secret of the server's")


@command(b"HUGE", State.TRANSACTION, no_arguments)
def huge(session):
    """Return a body without end."""
    return Reply(b"huge", iter(lambda: b"x" * 1000 + b"\r\n", None))


@command(b"TRUNCATED", State.TRANSACTION, no_arguments)
def truncated(session):
    """Return a body that fails before its end."""

    def body():
        yield b"half a message\n" * 10_000
        raise OSError("a secret of the disk's")

    return Reply(b"truncated", body())


class ServerTestCase(SynchronousTestCase):
    """A server on which ann has two messages."""

    def setUp(self):
        """Create the store and the server."""
        self.store = SlowMaildrops()
        self.store.deliver(b"ann", b"one\n")
        self.store.deliver(b"ann", b"two\n")
        self.factory = self.make_factory()
        self.log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)

    def make_factory(self, **options):
        """Return a server with the commands of RFC 1725 and a few for tests."""
        checker = InMemoryUsernamePasswordDatabaseDontUse(ann=b"pw")
        portal = Portal(MaildropRealm(self.store), [checker])
        commands = CommandTable(rfc1725.COMMANDS, [fail, huge, truncated])
        return POP3Factory(commands, portal, host=b"dewey", **options)

    def connect(self, *lines, peer=None):
        """Return a client that has sent these lines and read the replies."""
        client = MemoryClient(self.factory, peer)
        for line in lines:
            client.send(line + b"\r\n")
        client.received()
        return client

    def logged_in(self):
        """Return a client in the TRANSACTION state."""
        return self.connect(b"USER ann", b"PASS pw")

    def fill(self, client):
        """Let each write fill the transport's buffer, as if the client did not read."""
        write = client.transport.write

        def full(octets):
            write(octets)
            client.server.pauseProducing()

        client.transport.write = full

    def assert_released(self, times=1):
        """Check that the maildrop was released so many times, and is not locked."""
        self.assertEqual((self.store.released, self.store.locked), (times, set()))
