"""Bodies on their way out: pauses, waits, failures."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from popserv.messages.framing import MessageFramer, TopFramer
from popserv.server.body import BodySender


class Body:
    """A body that says when it is closed, and how far it was read."""

    def __init__(self, *chunks):
        self._chunks = iter(chunks)
        self.read = 0
        self.closed = 0

    def __iter__(self):
        return self

    def __next__(self):
        chunk = next(self._chunks)
        self.read += 1
        if isinstance(chunk, Exception):
            raise chunk
        return chunk

    def close(self):
        """Count."""
        self.closed += 1


class BodySenderTests(SynchronousTestCase):
    """A body is sent whole, or is known to be a stump."""

    def sender(self, body, framer=None):
        """A sender that notes what it writes and how it ends."""
        self.written, self.ends, self.clock = [], [], Clock()
        return BodySender(
            b"+OK\r\n",
            body,
            framer or MessageFramer(),
            self.written.append,
            self.clock.callLater,
            self.ends.append,
        )

    def test_small(self):
        """Status line, body and termination leave in one write."""
        body = Body(b"a\n", b".b")
        self.sender(body).resume()
        self.assertEqual(self.written, [b"+OK\r\na\r\n..b\r\n.\r\n"])
        self.assertEqual((self.ends, body.closed), ([None], 1))

    @given(st.lists(st.binary(max_size=9) | st.binary(max_size=9).map(succeed), max_size=9))
    def test_waiting_changes_nothing(self, chunks):
        """Chunks that were waited for and those that were there make the same octets."""
        plain = [chunk if isinstance(chunk, bytes) else chunk.result for chunk in chunks]
        framer = MessageFramer()
        wanted = b"+OK\r\n" + b"".join(map(framer.feed, plain)) + framer.finish()
        self.sender(chunks).resume()
        self.assertEqual(b"".join(self.written), wanted)
        self.assertEqual(self.ends, [None])

    def test_pause(self):
        """While the client does not read, the body is not read either."""
        body = Body(*[b"x" * 70_000] * 5)
        sender = self.sender(body)
        self.written = sender._write.__self__
        sender._write = lambda octets: (self.written.append(octets), sender.pause())
        sender.resume()
        self.assertEqual((len(self.written), body.read), (1, 1))
        for _ in range(5):
            sender.resume()
        self.assertEqual((sum(map(len, self.written)), self.ends), (5 + 350_000 + 2 + 3, [None]))

    def test_turns(self):
        """A client that reads as fast as a body is written has no more than its turns."""
        body = Body(*[b"x" * 70_000] * 7)
        sender = self.sender(body)
        sender.resume()
        self.assertEqual(len(self.written), 4)
        # However often it is paused and resumed meanwhile.
        for _ in range(3):
            sender.pause()
            sender.resume()
        self.assertEqual(len(self.written), 4)
        self.clock.advance(0)
        self.assertEqual(sum(map(len, self.written)), 5 + 490_000 + 2 + 3)
        self.assertEqual((self.ends, self.clock.getDelayedCalls()), ([None], []))

    def test_stopped_between_turns(self):
        """A body that is stopped has no further turn."""
        body = Body(*[b"x" * 70_000] * 7)
        sender = self.sender(body)
        sender.resume()
        sender.stop()
        self.clock.advance(0)
        self.assertEqual((len(self.written), self.ends, body.closed), (4, [], 1))

    def test_wait(self):
        """What is there leaves before a wait, and what comes afterwards follows."""
        late = Deferred()
        body = Body(b"a\n", late, b"c\n")
        self.sender(body).resume()
        self.assertEqual(self.written, [b"+OK\r\na\r\n"])
        late.callback(b"b\n")
        self.assertEqual(b"".join(self.written), b"+OK\r\na\r\nb\r\nc\r\n.\r\n")

    def test_paused_while_waiting(self):
        """A chunk that comes while paused is kept till the client reads again."""
        late = Deferred()
        sender = self.sender(Body(late))
        sender.resume()
        sender.pause()
        late.callback(b"a\n")
        self.assertEqual(self.written, [b"+OK\r\n"])
        sender.resume()
        self.assertEqual(b"".join(self.written), b"+OK\r\na\r\n.\r\n")

    def test_failures(self):
        """A body that fails gets no termination, fails by itself or in a wait."""
        for last in (OSError("disk"), Deferred()):
            body = Body(b"a\n", last)
            self.sender(body).resume()
            if isinstance(last, Deferred):
                last.errback(OSError("disk"))
            self.assertNotIn(b"\r\n.\r\n", b"".join(self.written))
            self.assertEqual([end.type for end in self.ends], [OSError])
            self.assertEqual(body.closed, 1)

    def test_stop(self):
        """A stopped body is closed, and nothing more is said."""
        body = Body(b"a\n", b"b\n")
        sender = self.sender(body)
        sender.stop()
        sender.stop()
        sender.resume()
        self.assertEqual((self.written, self.ends, body.closed, body.read), ([], [], 1, 0))

    def test_stop_while_waiting(self):
        """A body is not closed under a read that still goes on, however that ends."""
        for end in (lambda late: late.callback(b"x"), lambda late: late.errback(OSError())):
            late = Deferred()
            body = Body(late)
            sender = self.sender(body)
            sender.resume()
            sender.stop()
            self.assertEqual(body.closed, 0)
            end(late)
            self.assertEqual((body.closed, self.ends), (1, []))

    def test_top(self):
        """What TOP does not want is not read."""
        body = Body(b"a: b\n\n", b"1\n2\n", b"3\n")
        self.sender(body, TopFramer(1)).resume()
        self.assertEqual(self.written, [b"+OK\r\na: b\r\n\r\n1\r\n.\r\n"])
        self.assertEqual((body.read, body.closed), (2, 1))

    def test_no_close(self):
        """A plain list of chunks will do."""
        self.sender([b"a"]).resume()
        self.assertEqual(self.written, [b"+OK\r\na\r\n.\r\n"])
