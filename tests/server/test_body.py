"""The body of a multi-line response: pauses, awaited chunks, errors."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from popserv.messages.framing import MessageFramer, TopFramer
from popserv.server.body import BodySender


class Body:
    """A body that counts how many chunks were read, and how often it was closed."""

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
        """Count the calls."""
        self.closed += 1


class BodySenderTests(SynchronousTestCase):
    """BodySender."""

    def sender(self, body, framer=None):
        """Return a sender whose writes and end are recorded."""
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
        """Status line, body and terminating dot are one write."""
        body = Body(b"a\n", b".b")
        self.sender(body).resume()
        self.assertEqual(self.written, [b"+OK\r\na\r\n..b\r\n.\r\n"])
        self.assertEqual((self.ends, body.closed), ([None], 1))

    @given(st.lists(st.binary(max_size=9) | st.binary(max_size=9).map(succeed), max_size=9))
    def test_awaited_chunks(self, chunks):
        """Awaited chunks and others result in the same octets."""
        plain = [chunk if isinstance(chunk, bytes) else chunk.result for chunk in chunks]
        framer = MessageFramer()
        expected = b"+OK\r\n" + b"".join(map(framer.feed, plain)) + framer.finish()
        self.sender(chunks).resume()
        self.assertEqual(b"".join(self.written), expected)
        self.assertEqual(self.ends, [None])

    def test_pause(self):
        """While paused, the body is not read."""
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
        """After four writes, other sessions are served."""
        body = Body(*[b"x" * 70_000] * 7)
        sender = self.sender(body)
        sender.resume()
        self.assertEqual(len(self.written), 4)
        # Pausing and resuming does not change that.
        for _ in range(3):
            sender.pause()
            sender.resume()
        self.assertEqual(len(self.written), 4)
        self.clock.advance(0)
        self.assertEqual(sum(map(len, self.written)), 5 + 490_000 + 2 + 3)
        self.assertEqual((self.ends, self.clock.getDelayedCalls()), ([None], []))

    def test_stopped_between_turns(self):
        """A stopped body is not continued."""
        body = Body(*[b"x" * 70_000] * 7)
        sender = self.sender(body)
        sender.resume()
        sender.stop()
        self.clock.advance(0)
        self.assertEqual((len(self.written), self.ends, body.closed), (4, [], 1))

    def test_await(self):
        """Earlier chunks are written before one is awaited."""
        late = Deferred()
        body = Body(b"a\n", late, b"c\n")
        self.sender(body).resume()
        self.assertEqual(self.written, [b"+OK\r\na\r\n"])
        late.callback(b"b\n")
        self.assertEqual(b"".join(self.written), b"+OK\r\na\r\nb\r\nc\r\n.\r\n")

    def test_paused_while_awaiting(self):
        """A chunk that arrives while paused is written after resume."""
        late = Deferred()
        sender = self.sender(Body(late))
        sender.resume()
        sender.pause()
        late.callback(b"a\n")
        self.assertEqual(self.written, [b"+OK\r\n"])
        sender.resume()
        self.assertEqual(b"".join(self.written), b"+OK\r\na\r\n.\r\n")

    def test_failures(self):
        """A body that fails has no terminating dot."""
        for last in (OSError("disk"), Deferred()):
            body = Body(b"a\n", last)
            self.sender(body).resume()
            if isinstance(last, Deferred):
                last.errback(OSError("disk"))
            self.assertNotIn(b"\r\n.\r\n", b"".join(self.written))
            self.assertEqual([end.type for end in self.ends], [OSError])
            self.assertEqual(body.closed, 1)

    def test_stop(self):
        """A stopped body is closed, and nothing is written."""
        body = Body(b"a\n", b"b\n")
        sender = self.sender(body)
        sender.stop()
        sender.stop()
        sender.resume()
        self.assertEqual((self.written, self.ends, body.closed, body.read), ([], [], 1, 0))

    def test_stop_while_awaiting(self):
        """A body is not closed before an awaited chunk has arrived or failed."""
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
        """Chunks that TOP does not need are not read."""
        body = Body(b"a: b\n\n", b"1\n2\n", b"3\n")
        self.sender(body, TopFramer(1)).resume()
        self.assertEqual(self.written, [b"+OK\r\na: b\r\n\r\n1\r\n.\r\n"])
        self.assertEqual((body.read, body.closed), (2, 1))

    def test_no_close(self):
        """A body need not have a close method."""
        self.sender([b"a"]).resume()
        self.assertEqual(self.written, [b"+OK\r\na\r\n.\r\n"])
