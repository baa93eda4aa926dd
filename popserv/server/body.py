"""Send the body of a multi-line response: chunks in, octets out, as fast as they are read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from popserv.messages.framing import Chunk, Framer

ENOUGH = 1 << 16
"""Octets gathered for one write; what a transport buffers before it says stop."""

_WRITES_A_TURN = 4
"""How often to write before other sessions have their turn."""


class BodySender:
    """Feeds a body through its framer to ``write``, until told to pause.

    ``later`` calls a function after so many seconds, such as a reactor's ``callLater``.
    ``finished`` is called once: with None after the last octet was written, or
    with the failure that cut the body short.  Nothing is called after ``stop``.
    """

    def __init__(
        self,
        head: bytes,
        body: Iterable[Chunk],
        framer: Framer,
        write: Callable[[bytes], object],
        later: Callable[[float, Callable[[], None]], object],
        finished: Callable[[Failure | None], None],
    ) -> None:
        self._out = [head]
        self._body = body
        self._chunks: Iterator[Chunk] = iter(body)
        self._framer = framer
        self._write = write
        self._later = later
        self._finished = finished
        self._paused = False
        self._waiting = False
        self._yielding = False
        self._over = False

    def pause(self) -> None:
        """Write no more until :meth:`resume`."""
        self._paused = True

    def resume(self) -> None:
        """Write on until paused, until a chunk must be waited for, or to the end."""
        self._paused = False
        self._go_on()

    def _go_on(self) -> None:
        """Write on, but let others have their turn before a client that reads as fast."""
        writes = 0
        try:
            while not (self._paused or self._waiting or self._yielding or self._over):
                if writes < _WRITES_A_TURN:
                    self._step()
                    writes += 1
                else:
                    self._yielding = True
                    self._later(0, self._take_turn)
        except Exception:
            self._end(Failure())

    def _take_turn(self) -> None:
        self._yielding = False
        self._go_on()

    def stop(self) -> None:
        """Want no more of the body."""
        if not self._over:
            self._over = True
            # Not under a read that is still going on.
            if not self._waiting:
                self._close()

    def _close(self) -> None:
        close = getattr(self._body, "close", None)
        if close is not None:
            close()

    def _step(self) -> None:
        """Write once: the chunks that are there, up to enough."""
        gathered = 0
        while gathered < ENOUGH:
            chunk = None if self._framer.done else next(self._chunks, None)
            if chunk is None:
                self._out.append(self._framer.finish())
                self._flush()
                self._end(None)
                return
            if not isinstance(chunk, bytes):
                self._wait_for(chunk)
                break
            framed = self._framer.feed(chunk)
            gathered += len(framed)
            self._out.append(framed)
        self._flush()

    def _wait_for(self, chunk: Awaitable[bytes]) -> None:
        self._waiting = True
        Deferred.fromCoroutine(_awaited(chunk)).addCallbacks(self._arrived, self._failed)

    def _flush(self) -> None:
        out, self._out = b"".join(self._out), []
        if out:
            self._write(out)

    def _arrived(self, chunk: bytes) -> None:
        self._waiting = False
        if self._over:
            self._close()
            return
        self._out.append(self._framer.feed(chunk))
        if not self._paused:
            self.resume()

    def _failed(self, failure: Failure) -> None:
        self._waiting = False
        if self._over:
            self._close()
        self._end(failure)

    def _end(self, failure: Failure | None) -> None:
        if not self._over:
            self.stop()
            self._finished(failure)


async def _awaited(chunk: Awaitable[bytes]) -> bytes:
    return await chunk
