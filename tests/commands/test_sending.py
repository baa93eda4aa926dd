"""popserv.commands.sending: cached messages, and those that are opened, are sent alike."""

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from popserv.commands import sending
from popserv.interfaces import ICachedMessages
from popserv.maildrops.memory import MemoryMailbox, MemoryMaildrops
from popserv.messages.downgrade import Downgrader
from popserv.messages.workarounds import WORKAROUNDS
from tests.commands.test_rfc1725 import log_in
from tests.messages.harness import texts

COMMAND_LINES = b"RETR 1\r\nTOP 1 0\r\nTOP 1 1\r\nTOP 1 99\r\nSTAT\r\n"


@implementer(ICachedMessages)
class CachedMailbox(MemoryMailbox):
    """A mailbox that has the octets in ``cached`` of each message, or of none."""

    cached = None

    def read_cached(self, message, maximum):
        """See ICachedMessages."""
        return None if self.cached is None else self.cached[:maximum]


class CachedMaildrops(MemoryMaildrops):
    """A store of one message, which is cached, or other octets, or none."""

    def __init__(self, message, cached, downgrader=None):
        super().__init__(downgrader)
        self.deliver(b"ann", message)
        self.cached = cached

    async def open_maildrop(self, user):
        """See IMaildropFactory."""
        await super().open_maildrop(user)
        mailbox = CachedMailbox(self, user)
        mailbox.cached = self.cached
        return mailbox


class CachedTests(SynchronousTestCase):
    """Messages that a store can read without waiting."""

    def reply(self, maildrops, lines=COMMAND_LINES, **options):
        """Return the replies to commands, each sent when the last is answered."""
        client = log_in(maildrops, **options)
        replies = [client.send(line) for line in lines.splitlines(keepends=True)]
        client.lose()
        return replies

    def test_interface(self):
        """The mailbox of these tests provides the interface."""
        maildrops = CachedMaildrops(b"x", b"x")
        self.assertTrue(verifyObject(ICachedMessages, CachedMailbox(maildrops, b"ann")))

    @given(texts, st.booleans(), st.booleans())
    @example(b"a: \xc3\xa4\n\n.\n\0", True, True)
    def test_same_replies(self, message, works_around, downgrades):
        """The replies are the same as if the message was opened."""
        options = {}
        if works_around:
            options["workarounds"] = WORKAROUNDS
        downgrader = None
        if downgrades:
            downgrader = options["downgrader"] = Downgrader
        opened = self.reply(CachedMaildrops(message, None, downgrader), **options)
        cached = self.reply(CachedMaildrops(message, message, downgrader), **options)
        self.assertEqual(cached, opened)

    @given(texts, texts)
    @example(b"a: b\n\n1\n", b"a: b\n\n1\n2\n")
    @example(b"a: b\n\n1\n", b"a: b\n\n")
    @example(b"a: b\n\n1\n", b"a: b\n\n1")
    def test_other_octets(self, message, other):
        """A message whose cached octets are not those of LIST is opened."""
        maildrops = CachedMaildrops(message, other)
        octets = self.reply(maildrops, b"LIST 1\r\n")[0].split()[2]
        as_other = self.reply(CachedMaildrops(other, other), b"LIST 1\r\nRETR 1\r\n")
        same_octets = as_other[0].split()[2] == octets
        reply = self.reply(maildrops, b"RETR 1\r\n")
        if same_octets:
            self.assertEqual(reply, as_other[1:])
        else:
            self.assertEqual(reply, self.reply(CachedMaildrops(message, None), b"RETR 1\r\n"))

    @given(st.integers(0, 40), st.integers(0, 30))
    def test_limits(self, octets, lines):
        """Of a message of any size, whole lines and as many as requested are sent."""
        self.patch(sending, "MAX_CACHED", 20)
        self.patch(sending, "TOP_OCTETS", 10)
        message = (b"\n" + b"\n.x" * octets)[:octets]
        commands = b"RETR 1\r\nTOP 1 %d\r\n" % lines
        self.assertEqual(
            self.reply(CachedMaildrops(message, message), commands),
            self.reply(CachedMaildrops(message, None), commands),
        )

    def test_retrieved(self):
        """A cached message that was sent counts as retrieved."""
        client = log_in(CachedMaildrops(b"x\n", b"x\n"))
        client.send(b"RETR 1\r\nTOP 1 1\r\nRETR 1\r\n")
        session = client.server.session
        self.assertEqual((session.retrieved_count, session.retrieved_octets), (2, 6))
