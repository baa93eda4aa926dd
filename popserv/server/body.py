"""Sends the body of a multi-line response: reads its chunks, and writes framed octets.

Nothing is written, not even the status line, until WRITE_SIZE octets of the body are framed, or all
of it.  A message that is read in one piece is therefore framed to its end, and compared with the
octets that LIST has reported, while the reply can still be ``-ERR``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from operator import length_hint

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from popserv.messages.framing import Chunk, Framer

_log = Logger()

WRITE_SIZE = 1 << 16
"""Octets gathered for one write; a Twisted transport pauses its producer if it buffers more."""

_WRITES_PER_TURN = 4
"""Writes before other sessions are served."""

Finished = Callable[[Failure | None, bool], None]
"""Called once at the end of a body.

The arguments are None after the last octet was written, otherwise the failure that ended the body;
and whether anything, such as the status line, was written.
"""


class BodySender:
    """Feeds a body through its framer to ``write``, until paused.

    ``call_later`` calls a function after a number of seconds, as a reactor's ``callLater``
    does.  Nothing is called after :meth:`stop`.

    :ivar octets: the octets that were written.
    """

    def __init__(
        self,
        head: bytes,
        body: Iterable[Chunk],
        framer: Framer,
        write: Callable[[bytes], object],
        call_later: Callable[[float, Callable[[], None]], object],
        finished: Finished,
    ) -> None:
        self.octets = 0
        self._out = [head]
        self._gathered = 0
        self._body = body
        self._chunks: Iterator[Chunk] = iter(body)
        self._framer = framer
        self._write = write
        self._call_later = call_later
        self._finished = finished
        self._is_paused = False
        self._awaits_chunk = False
        self._is_scheduled = False
        self._is_over = False

    def pause(self) -> None:
        """Write no more until :meth:`resume`."""
        self._is_paused = True

    def resume(self) -> None:
        """Write until paused, until a chunk must be awaited, or to the end."""
        self._is_paused = False
        self._write_until_blocked()

    def _write_until_blocked(self) -> None:
        writes = 0
        try:
            while not (
                self._is_paused or self._awaits_chunk or self._is_scheduled or self._is_over
            ):
                if writes < _WRITES_PER_TURN:
                    self._write_once()
                    writes += 1
                else:
                    # A client that reads as fast as this writes must not block the others.
                    self._is_scheduled = True
                    self._call_later(0, self._continue_scheduled)
        except Exception:
            if self._is_over:
                # The exception is that of ``finished``, not of the body.
                raise
            self._end(Failure())

    def _continue_scheduled(self) -> None:
        self._is_scheduled = False
        self._write_until_blocked()

    def stop(self) -> None:
        """Write no more of the body, and close it."""
        if not self._is_over:
            self._is_over = True
            # A read that is under way needs the body open.
            if not self._awaits_chunk:
                close_body(self._body)

    def _write_once(self) -> None:
        """Write the chunks that need not be awaited, up to WRITE_SIZE octets."""
        # A body that is known to have no more chunks is framed to its end.
        while self._gathered < WRITE_SIZE or not length_hint(self._chunks, 1):
            chunk = None if self._framer.done else next(self._chunks, None)
            if chunk is None:
                self._out.append(self._framer.finish())
                self._flush()
                self._end(None)
                return
            if not isinstance(chunk, bytes):
                self._await_chunk(chunk)
                return
            self._frame(chunk)
        self._flush()

    def _frame(self, chunk: bytes) -> None:
        framed = self._framer.feed(chunk)
        self._gathered += len(framed)
        self._out.append(framed)

    def _await_chunk(self, chunk: Awaitable[bytes]) -> None:
        if self.octets:
            self._flush()
        self._awaits_chunk = True
        Deferred.fromCoroutine(_result_of(chunk)).addCallbacks(self._arrived, self._failed)

    def _flush(self) -> None:
        out, self._out = b"".join(self._out), []
        self._gathered = 0
        if out:
            self.octets += len(out)
            self._write(out)

    def _arrived(self, chunk: bytes) -> None:
        self._awaits_chunk = False
        if self._is_over:
            close_body(self._body)
            return
        try:
            self._frame(chunk)
        except Exception:
            self._end(Failure())
        else:
            if not self._is_paused:
                self.resume()

    def _failed(self, failure: Failure) -> None:
        self._awaits_chunk = False
        if self._is_over:
            close_body(self._body)
        self._end(failure)

    def _end(self, failure: Failure | None) -> None:
        if not self._is_over:
            self.stop()
            self._finished(failure, self.octets > 0)


def close_body(body: Iterable[Chunk]) -> None:
    """Close a body that has a ``close`` method; see IMailbox.open."""
    close = getattr(body, "close", None)
    if close is not None:
        try:
            close()
        except Exception:
            # Whoever closes it has to go on: to the next command, or to release the maildrop.
            _log.failure("cannot close a message")


async def _result_of(chunk: Awaitable[bytes]) -> bytes:
    return await chunk
