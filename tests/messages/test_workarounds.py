"""What is done for two old clients, where an operator asks."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.memory import MemoryMaildrops
from popserv.messages.framing import FilteredFramer, MessageFramer, TopFramer
from popserv.messages.sizes import measure
from popserv.messages.workarounds import OE_NS_EOH, OUTLOOK_NO_NULS, BlankLineFilter, NulFilter
from popserv.testing import SAMPLE_MESSAGES, MemoryClient
from tests.messages.test_framing import naive_lines, naive_response, texts
from tests.transcripts import make_factory


def sent(framer, chunks):
    """What a framer makes of chunks."""
    return b"".join([*map(framer.feed, chunks), framer.finish()])


def pieces(text, size):
    """A text in chunks of that size."""
    return [text[at : at + size] for at in range(0, len(text), size)]


class FilterTests(SynchronousTestCase):
    """The filters by themselves, wherever chunks are cut."""

    @given(texts, st.integers(1, 9))
    def test_nuls(self, text, size):
        """Each NUL becomes 0x80, and nothing else changes."""
        framer = FilteredFramer(NulFilter(), MessageFramer())
        lines = naive_lines(text.replace(b"\0", b"\x80"))
        self.assertEqual(sent(framer, pieces(text, size)), naive_response(lines))

    @given(texts.filter(lambda text: b"" not in naive_lines(text)), st.integers(1, 9))
    def test_header_end(self, text, size):
        """A message that is a header alone gets an empty line behind it."""
        framer = FilteredFramer(BlankLineFilter(), MessageFramer())
        self.assertEqual(
            sent(framer, pieces(text, size)), naive_response([*naive_lines(text), b""])
        )

    def test_top(self):
        """TOP stops where it would, and does not ask for more."""
        framer = FilteredFramer(NulFilter(), TopFramer(1))
        self.assertEqual(framer.feed(b"a: \0\n\n1\0\n2\n"), b"a: \x80\r\n\r\n1\x80\r\n")
        self.assertTrue(framer.done)
        self.assertEqual(framer.finish(), b".\r\n")

    @given(texts)
    def test_measured(self, text):
        """Whether a header ends is known since the message was measured."""
        self.assertEqual(measure([text]).has_blank_line, b"" in naive_lines(text))
        self.assertEqual(measure(pieces(text, 1)), measure([text]))


class SessionTests(SynchronousTestCase):
    """Whole sessions: the octets that LIST tells are those that RETR sends."""

    def fetch(self, *workarounds):
        """Log in, and return what LIST and RETR say of each odd message."""
        store = MemoryMaildrops()
        for message in SAMPLE_MESSAGES:
            store.deliver(b"joe", message)
        talk = MemoryClient(make_factory(store, self.mktemp(), workarounds=workarounds))
        self.addCleanup(talk.lose)
        talk.send(b"USER joe\r\nPASS secret\r\n")
        told, bodies = [], []
        for n in range(1, len(SAMPLE_MESSAGES) + 1):
            told.append(int(talk.send(b"LIST %d\r\n" % n).split()[2]))
            status, _, body = talk.send(b"RETR %d\r\n" % n).partition(b"\r\n")
            self.assertEqual(status, b"+OK %d octets" % told[-1])
            lines = [line.removeprefix(b".") for line in body.split(b"\r\n")[:-2]]
            bodies.append(b"".join(line + b"\r\n" for line in lines))
        total = talk.send(b"STAT\r\n")
        self.assertEqual(total, b"+OK %d %d\r\n" % (len(told), sum(told)))
        self.assertEqual(told, list(map(len, bodies)))
        return bodies

    def test_none(self):
        """Without workarounds all is as it is stored."""
        self.assertTrue(any(b"\0" in body for body in self.fetch()))

    def test_no_nuls(self):
        """There is no NUL any more, and no other octet has changed."""
        wanted = [body.replace(b"\0", b"\x80") for body in self.fetch()]
        self.assertEqual(self.fetch(OUTLOOK_NO_NULS), wanted)

    def test_header_ends(self):
        """Every message has an empty line, also behind a CR that ends it."""
        wanted = [
            body if b"\r\n\r\n" in b"\r\n" + body else body + b"\r\n" for body in self.fetch()
        ]
        self.assertEqual(self.fetch(OE_NS_EOH), wanted)
        alone = SAMPLE_MESSAGES.index(b"header alone\n")
        self.assertEqual(len(wanted[alone]), len(self.fetch()[alone]) + 2)

    def test_both(self):
        """One workaround does not disturb the other."""
        wanted = [body.replace(b"\0", b"\x80") for body in self.fetch(OE_NS_EOH)]
        self.assertEqual(self.fetch(OUTLOOK_NO_NULS, OE_NS_EOH), wanted)
