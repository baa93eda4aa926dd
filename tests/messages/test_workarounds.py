"""Tests of popserv.messages.workarounds."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.memory import MemoryMaildrops
from popserv.messages.framing import FilteredFramer, MessageFramer
from popserv.messages.workarounds import OE_NS_EOH, OUTLOOK_NO_NULS, BlankLineFilter, NulFilter
from popserv.testing import SAMPLE_MESSAGES, MemoryClient
from tests.messages.harness import frame, naive_lines, naive_response, split, texts
from tests.transcripts import make_factory


class FilterTests(SynchronousTestCase):
    """The filters change a message wherever it is cut into chunks."""

    @given(texts, st.integers(1, 9))
    def test_nuls(self, text, size):
        """Each NUL becomes 0x80, and nothing else changes."""
        framer = FilteredFramer(NulFilter(), MessageFramer())
        lines = naive_lines(text.replace(b"\0", b"\x80"))
        self.assertEqual(frame(framer, split(text, size)), naive_response(lines))

    @given(texts.filter(lambda text: b"" not in naive_lines(text)), st.integers(1, 9))
    def test_blank_line(self, text, size):
        """A header-only message gets an empty line behind it."""
        framer = FilteredFramer(BlankLineFilter(), MessageFramer())
        self.assertEqual(
            frame(framer, split(text, size)), naive_response([*naive_lines(text), b""])
        )


class SessionTests(SynchronousTestCase):
    """The octets that LIST and STAT announce are the octets that RETR sends."""

    def fetch(self, *workarounds):
        """Log in, check the octets of LIST and STAT, and return each message as RETR sends it."""
        store = MemoryMaildrops()
        for message in SAMPLE_MESSAGES:
            store.deliver(b"joe", message)
        client = MemoryClient(make_factory(store, self.mktemp(), workarounds=workarounds))
        self.addCleanup(client.lose)
        client.send(b"USER joe\r\nPASS secret\r\n")
        listed, bodies = [], []
        for n in range(1, len(SAMPLE_MESSAGES) + 1):
            listed.append(int(client.send(b"LIST %d\r\n" % n).split()[2]))
            status, _, body = client.send(b"RETR %d\r\n" % n).partition(b"\r\n")
            self.assertEqual(status, b"+OK %d octets" % listed[-1])
            lines = [line.removeprefix(b".") for line in body.split(b"\r\n")[:-2]]
            bodies.append(b"".join(line + b"\r\n" for line in lines))
        total = client.send(b"STAT\r\n")
        self.assertEqual(total, b"+OK %d %d\r\n" % (len(listed), sum(listed)))
        self.assertEqual(listed, list(map(len, bodies)))
        return bodies

    def test_none(self):
        """Without workarounds messages are sent as they are stored."""
        self.assertTrue(any(b"\0" in body for body in self.fetch()))

    def test_no_nuls(self):
        """With outlook-no-nuls each NUL is sent as 0x80, and no other octet changes."""
        expected = [body.replace(b"\0", b"\x80") for body in self.fetch()]
        self.assertEqual(self.fetch(OUTLOOK_NO_NULS), expected)

    def test_blank_line(self):
        """With oe-ns-eoh every message has an empty line, also behind a CR at its end."""
        expected = [
            body if b"\r\n\r\n" in b"\r\n" + body else body + b"\r\n" for body in self.fetch()
        ]
        self.assertEqual(self.fetch(OE_NS_EOH), expected)
        header_only = SAMPLE_MESSAGES.index(b"header alone\n")
        self.assertEqual(len(expected[header_only]), len(self.fetch()[header_only]) + 2)

    def test_both(self):
        """Both workarounds can be enabled together."""
        expected = [body.replace(b"\0", b"\x80") for body in self.fetch(OE_NS_EOH)]
        self.assertEqual(self.fetch(OUTLOOK_NO_NULS, OE_NS_EOH), expected)
