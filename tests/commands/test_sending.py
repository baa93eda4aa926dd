"""popserv.commands.sending: cached messages, and those that are opened, are sent alike."""

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from popserv.commands import rfc1725, sending, utf8
from popserv.core.read_ahead import MAX_OCTETS
from popserv.interfaces import ICachedMessages
from popserv.maildrops.memory import MemoryMailbox, MemoryMaildrops
from popserv.messages.downgrade import Downgrader
from popserv.messages.workarounds import OUTLOOK_NO_NULS, WORKAROUNDS
from popserv.server import protocol, quick_clients
from tests.commands.test_rfc1725 import log_in
from tests.messages.harness import texts

COMMANDS = (b"RETR 1\r\n", b"TOP 1 0\r\n", b"TOP 1 1\r\n", b"TOP 1 2\r\n", b"TOP 1 99\r\n")
ALL_COMMANDS = b"".join((*COMMANDS, b"STAT\r\n"))

messages = texts | st.lists(
    st.sampled_from(
        [
            *(b"a: b\n", "c: ä\n".encode(), b"\n", b" d\n", b".\n", b"\0", b"\r"),
            *(b"Content-Type: multipart/mixed; boundary=e\n", b"--e\n", b"Subject: \xff\n"),
        ]
    ),
    max_size=12,
).map(b"".join)
cuts = st.none() | st.integers(0, 60)
NO_OPTIONS = {"workarounds": (), "downgrader": None}
ALL_OPTIONS = {"workarounds": WORKAROUNDS, "downgrader": Downgrader}
options_of_servers = st.fixed_dictionaries(
    {
        "workarounds": st.just(()) | st.just(WORKAROUNDS),
        "downgrader": st.none() | st.just(Downgrader),
    }
)


@implementer(ICachedMessages)
class CachedMailbox(MemoryMailbox):
    """A mailbox that has the octets in ``cached`` of each message, or of none."""

    cached = None

    def read_cached(self, message, maximum):
        """See ICachedMessages."""
        return None if self.cached is None else self.cached[:maximum]

    async def open(self, message):
        """See IMailbox."""
        self._maildrops.opened += 1
        return await super().open(message)


class CachedMaildrops(MemoryMaildrops):
    """A store of one message, and of what its cache returns for it: octets or None.

    ``opened`` counts how often it was opened.
    """

    def __init__(self, message, cached, downgrader=None):
        super().__init__(downgrader)
        self.deliver(b"ann", message)
        self.cached = cached
        self.opened = 0

    async def open_maildrop(self, user):
        """See IMaildropFactory."""
        await super().open_maildrop(user)
        mailbox = CachedMailbox(self, user)
        mailbox.cached = self.cached
        return mailbox


class CachedTests(SynchronousTestCase):
    """Messages that a store can read without waiting."""

    def reply(self, maildrops, lines=ALL_COMMANDS, **options):
        """Return the replies to commands, each sent when the last is answered."""
        client = log_in(maildrops, **options)
        replies = [client.send(line) for line in lines.splitlines(keepends=True)]
        client.lose()
        return replies

    def test_interface(self):
        """The mailbox of these tests provides the interface."""
        maildrops = CachedMaildrops(b"x", b"x")
        self.assertTrue(verifyObject(ICachedMessages, CachedMailbox(maildrops, b"ann")))

    @given(messages, cuts, options_of_servers)
    @example("a: ä\n\n.\n\0".encode(), None, ALL_OPTIONS)
    @example(b"a: b\nc: d\n", 5, ALL_OPTIONS)
    def test_same_replies(self, message, cut, options):
        """The replies are those to opening the message, even if a part of it is cached."""
        stores = [
            CachedMaildrops(message, cached, options["downgrader"])
            for cached in (None, message[:cut])
        ]
        opened, cached = (self.reply(store, **options) for store in stores)
        self.assertEqual(cached, opened)

    @given(messages, messages, options_of_servers, st.sampled_from(COMMANDS))
    @example(b"a: b\n\n1\n", b"a: b\n\n1\n2\n", NO_OPTIONS, b"RETR 1\r\n")
    @example(b"a: b\n\n1\n", b"a: b\n\n", NO_OPTIONS, b"RETR 1\r\n")
    @example(b"a: b\n\n1\n", b"a: b\n\n1", NO_OPTIONS, b"RETR 1\r\n")
    @example(b"a: b\n", b"a:\n\nb", ALL_OPTIONS, b"TOP 1 0\r\n")
    def test_other_octets(self, message, other, options, line):
        """Cached octets of another message are sent as if opened, or the message is opened."""
        downgrader = options["downgrader"]
        expected = [self.reply(CachedMaildrops(message, None, downgrader), line, **options)]
        changed = CachedMaildrops(message, None, downgrader)
        client = log_in(changed, **options)
        changed.stored[b"ann"][b"m1"] = other
        reply = client.send(line)
        if not client.transport.aborted:
            expected.append([reply])
        client.lose()
        cached = CachedMaildrops(message, other, downgrader)
        self.assertIn(self.reply(cached, line, **options), expected)

    @given(st.sampled_from([b"\n", b".x"]), st.integers(0, 40), st.integers(0, 30))
    @example(b".x", 10, 0)
    def test_limits(self, first, octets, lines):
        """Of a message of any size, whole lines and as many as requested are sent."""
        self.patch(sending, "MAX_CACHED", 20)
        self.patch(sending, "TOP_OCTETS", 10)
        message = (first + b"\n.x" * octets)[:octets]
        commands = b"RETR 1\r\nTOP 1 %d\r\n" % lines
        self.assertEqual(
            self.reply(CachedMaildrops(message, message), commands, workarounds=WORKAROUNDS),
            self.reply(CachedMaildrops(message, None), commands, workarounds=WORKAROUNDS),
        )

    def test_not_opened(self):
        """A cached message is not opened, whatever its form, unless it is too large."""
        start, largest = b"\n\n", b"x" * (sending.MAX_CACHED - 6) + b"\n"
        messages = (b"a: b\n\nc\n", b"a: b\r\n\r\nc\r\n", b"a: b\n", "a: ä\n\nb\n".encode())
        for message, opened in (
            *((each, 0) for each in (b"", *messages, b"a: b\n\n\0", start + largest)),
            (start + b"x" + largest, 1),
        ):
            maildrops = CachedMaildrops(message, message, Downgrader)
            self.reply(
                maildrops,
                b"RETR 1\r\nTOP 1 0\r\n",
                workarounds=WORKAROUNDS,
                downgrader=Downgrader,
            )
            self.assertEqual(maildrops.opened, opened, message[:10])

    def test_no_nuls(self):
        """With the workaround for NULs, and only then, 0x80 is sent instead of each."""
        message = b"a: b\0\n\n\0c\0\n"
        for workarounds, sent in (((), b"\0"), ([OUTLOOK_NO_NULS], b"\x80")):
            for cached in (message, None):
                replies = self.reply(
                    CachedMaildrops(message, cached),
                    b"RETR 1\r\nTOP 1 1\r\n",
                    workarounds=workarounds,
                )
                body = b"a: b%b\r\n\r\n%bc%b\r\n.\r\n" % (sent, sent, sent)
                self.assertEqual(
                    replies, [b"+OK 14 octets\r\n" + body, b"+OK top of message follows\r\n" + body]
                )

    def test_retrieved(self):
        """A cached message that was sent counts as retrieved."""
        client = log_in(CachedMaildrops(b"x\n", b"x\n"))
        client.send(b"RETR 1\r\nTOP 1 1\r\nRETR 1\r\n")
        session = client.server.session
        self.assertEqual((session.retrieved_count, session.retrieved_octets), (2, 6))


@implementer(ICachedMessages)
class AllCachedMailbox(MemoryMailbox):
    """A mailbox that has cached all messages; ``read`` has the positions of those it has read."""

    def read_cached(self, message, maximum):
        """See ICachedMessages."""
        self._maildrops.read.append(message.position)
        stored = self._stored.get(message.uid)
        return None if stored is None else stored[:maximum]


class AllCachedMaildrops(MemoryMaildrops):
    """A store that has cached all messages."""

    def __init__(self, messages, downgrader=None):
        super().__init__(downgrader)
        self.read = []
        for message in messages:
            self.deliver(b"ann", message)

    async def open_maildrop(self, user):
        """See IMaildropFactory."""
        await super().open_maildrop(user)
        return AllCachedMailbox(self, user)


numbers = st.integers(1, 3)
requests = st.one_of(
    numbers.map(b"RETR %d".__mod__),
    st.tuples(numbers, st.integers(0, 2)).map(b"TOP %d %d".__mod__),
    numbers.map(b"DELE %d".__mod__),
    st.sampled_from([b"RSET", b"UTF8", b"NOOP"]),
)
several_texts = st.lists(texts | st.just("a: ä\n\nb\n".encode()), min_size=1, max_size=3)


class ReadAheadTests(SynchronousTestCase):
    """Messages that are framed before a client requests them."""

    def client(self, maildrops, *, reads_ahead=True, **options):
        """Return a client whose transport can use its socket, but is always too slow."""
        self.patch(protocol, "can_use_socket", lambda transport: reads_ahead)
        self.patch(quick_clients, "receive_now", lambda transport: b"")
        self.patch(quick_clients, "MAX_SKIPPED", 0)
        self.patch(quick_clients, "MIN_ALONE", 1)
        commands = (*rfc1725.COMMANDS, *utf8.COMMANDS)
        client = log_in(maildrops, commands=commands, **options)
        self.addCleanup(client.lose)
        return client

    @given(several_texts, st.lists(requests, min_size=1, max_size=8))
    @example(["a: ä\n\nb\n".encode()] * 2, [b"RETR 1", b"UTF8", b"RETR 2"])
    @example([b"a: b\n\n1\n"] * 2, [b"TOP 1 0", b"TOP 2 1", b"RETR 2"])
    def test_same_replies(self, messages, lines):
        """Whatever is read ahead, the replies are the same."""
        replies = []
        for reads_ahead in (False, True):
            maildrops = AllCachedMaildrops(messages, Downgrader)
            client = self.client(maildrops, reads_ahead=reads_ahead, downgrader=Downgrader)
            replies.append([client.send(line + b"\r\n") for line in lines])
        self.assertEqual(*replies)

    def test_read_once(self):
        """The message that follows a retrieved one is read ahead, and then not read again."""
        maildrops = AllCachedMaildrops([b"1\n", b"2\n", b"3\n"])
        client = self.client(maildrops)
        client.send(b"RETR 1\r\n")
        self.assertEqual(maildrops.read, [0, 1])
        client.send(b"DELE 1\r\n")
        self.assertEqual(client.send(b"RETR 2\r\n"), b"+OK 3 octets\r\n2\r\n.\r\n")
        self.assertEqual(maildrops.read, [0, 1, 2])
        self.assertEqual(client.server.session.retrieved_count, 2)
        client.send(b"RETR 3\r\n")
        self.assertEqual(maildrops.read, [0, 1, 2])

    def test_pipelined(self):
        """It is also read ahead if the client sends RETR and DELE together."""
        maildrops = AllCachedMaildrops([b"1\n", b"2\n"])
        self.client(maildrops).send(b"RETR 1\r\nDELE 1\r\n")
        self.assertEqual(maildrops.read, [0, 1])

    def test_removed(self):
        """A message that another program removes after it was read ahead can be retrieved."""
        maildrops = AllCachedMaildrops([b"1\n", b"2\n"])
        client = self.client(maildrops)
        client.send(b"RETR 1\r\n")
        maildrops.stored[b"ann"].popitem()
        self.assertEqual(client.send(b"RETR 2\r\n"), b"+OK 3 octets\r\n2\r\n.\r\n")
        self.assertIn(b"-ERR message 2 was removed", client.send(b"RETR 2\r\n"))

    def test_large(self):
        """A large message is not read ahead, but its start is."""
        largest = b"x" * (MAX_OCTETS - 2) + b"\n"
        for message, read in ((largest, [0, 1]), (b"x" + largest, [0])):
            maildrops = AllCachedMaildrops([b"1\n", message])
            client = self.client(maildrops)
            client.send(b"RETR 1\r\n")
            self.assertEqual(maildrops.read, read)
        client.send(b"TOP 1 0\r\n")
        self.assertEqual(maildrops.read, [0, 0, 1])

    def test_unframed(self):
        """A message that does not have its octets is not kept."""
        maildrops = AllCachedMaildrops([b"1\n", b"2\n"])
        client = self.client(maildrops)
        maildrops.stored[b"ann"][b"m2"] = b"other\n"
        client.send(b"RETR 1\r\n")
        self.assertEqual(maildrops.read, [0, 1])
        self.assertIsNone(client.server.session.ahead)
