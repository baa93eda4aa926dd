"""The body of a multi-line response: pauses, awaited chunks, errors, octets."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from popserv.errors import MessageChanged
from popserv.messages.framing import MessageFramer, TopFramer
from popserv.server.body import WRITE_SIZE, BodySender


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

        def finished(failure, has_written):
            self.assertEqual(has_written, bool(self.written))
            self.ends.append(failure)

        return BodySender(
            b"+OK\r\n",
            body,
            framer or MessageFramer(),
            self.written.append,
            self.clock.callLater,
            finished,
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

    def test_writes(self):
        """Chunks are gathered until there are 64 KiB of framed octets."""
        lengths = (WRITE_SIZE, WRITE_SIZE - 1, 1, WRITE_SIZE, 7)
        self.sender(Body(*(b"x" * length for length in lengths))).resume()
        self.assertEqual([*map(len, self.written)], [5 + WRITE_SIZE, *[WRITE_SIZE] * 2, 7 + 2 + 3])

    def test_stopped_between_turns(self):
        """A stopped body is not continued."""
        body = Body(*[b"x" * 70_000] * 7)
        sender = self.sender(body)
        sender.resume()
        sender.stop()
        self.clock.advance(0)
        self.assertEqual((len(self.written), self.ends, body.closed), (4, [], 1))

    def test_await(self):
        """The status line waits for the first chunks; once it is written, they do not wait."""
        first, second = Deferred(), Deferred()
        body = Body(first, b"a\n", b"x" * WRITE_SIZE, b"\nb\n", second, b"d\n")
        self.sender(body).resume()
        self.assertEqual(self.written, [])
        first.callback(b"0\n")
        start = b"+OK\r\n0\r\na\r\n" + b"x" * WRITE_SIZE
        self.assertEqual(self.written, [start, b"\r\nb\r\n"])
        second.callback(b"c\n")
        self.assertEqual(b"".join(self.written), start + b"\r\nb\r\nc\r\nd\r\n.\r\n")

    def test_paused_while_awaiting(self):
        """A chunk that arrives while paused is written after resume."""
        late = Deferred()
        sender = self.sender(Body(late))
        sender.resume()
        sender.pause()
        late.callback(b"a\n")
        self.assertEqual(self.written, [])
        sender.resume()
        self.assertEqual(b"".join(self.written), b"+OK\r\na\r\n.\r\n")

    def test_failures(self):
        """A body that fails has no terminating dot; if it fails early, nothing is written."""
        for start in (b"a\n", b"a" * (WRITE_SIZE - 1), b"a" * WRITE_SIZE):
            for last in (OSError("disk"), Deferred()):
                body = Body(start, last)
                self.sender(body).resume()
                if isinstance(last, Deferred):
                    last.errback(OSError("disk"))
                written = b"+OK\r\n" + start if len(start) == WRITE_SIZE else b""
                self.assertEqual(b"".join(self.written), written)
                self.assertEqual([end.type for end in self.ends], [OSError])
                self.assertEqual(body.closed, 1)

    def test_end_fails(self):
        """An exception of what is called at the end is not taken for one of the body."""
        sender = self.sender([b"a\n"])
        sender._finished = lambda failure, has_written: 1 // 0
        self.assertRaises(ZeroDivisionError, sender.resume)

    def test_close_fails(self):
        """If a body cannot be closed, that is logged, and the response is complete."""
        body = Body(b"a\n")
        body.close = lambda: 1 // 0
        sender = self.sender(body)
        sender.resume()
        self.assertEqual((self.written, self.ends), ([b"+OK\r\na\r\n.\r\n"], [None]))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_whole(self):
        """A message whose last chunk is known to be the last is compared before any write."""
        for octets in (WRITE_SIZE + 1, 3 * WRITE_SIZE, 3 * WRITE_SIZE + 3):
            self.sender([b"x" * 3 * WRITE_SIZE], MessageFramer(octets)).resume()
            self.assertEqual([end.type for end in self.ends], [MessageChanged])
            self.assertEqual(self.written, [])
        self.sender([b"x" * 3 * WRITE_SIZE], MessageFramer(3 * WRITE_SIZE + 2)).resume()
        self.assertEqual((self.ends, len(self.written)), ([None], 1))

    @given(
        st.lists(st.tuples(st.integers(0, 40_000), st.booleans()), max_size=9),
        st.integers(-70_000, 70_000) | st.integers(-3, 3),
    )
    def test_octets(self, lengths, difference):
        """Never more octets are written than were reported, and no terminator after fewer."""
        chunks = [b"0123456\n" * (length // 8) for length, _ in lengths]
        octets = sum(len(chunk) // 8 * 9 for chunk in chunks)
        reported = max(octets + difference, 0)
        body = [
            succeed(chunk) if waits else chunk
            for chunk, (_, waits) in zip(chunks, lengths, strict=True)
        ]
        self.sender(body, MessageFramer(reported)).resume()
        self.clock.advance(0)
        written = b"".join(self.written)
        if octets == reported:
            self.assertEqual(self.ends, [None])
            self.assertEqual(len(written), len(b"+OK\r\n") + octets + len(b".\r\n"))
        else:
            self.assertEqual([end.type for end in self.ends], [MessageChanged])
            self.assertLessEqual(len(written.removeprefix(b"+OK\r\n")), min(octets, reported))
            self.assertNotIn(b".", written)

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
