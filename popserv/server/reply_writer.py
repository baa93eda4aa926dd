"""Writes the output of a connection: replies together, bodies as fast as the client reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.python.failure import Failure

from popserv.messages.framing import Chunk, Framer
from popserv.server.body import WRITE_SIZE, BodySender, Finished
from popserv.transports.output import write_now


class ReplyWriter:
    """Writes replies to a transport.

    While ``is_batching``, octets are collected until :meth:`flush`, or until there are
    ``WRITE_SIZE`` of them: the replies to commands that arrive in one packet leave in one.
    While ``is_paused``, no body is written.
    """

    # One for each connection, and most connections are idle.
    __slots__ = (
        *("_batch", "_batched", "_body"),
        *("is_batching", "is_paused", "transport"),
    )

    def __init__(self, transport: Any) -> None:
        self.transport = transport
        self.is_batching = False
        self.is_paused = False
        self._batch: list[bytes] | None = None
        self._batched = 0
        self._body: BodySender | None = None

    def write(self, octets: bytes) -> None:
        """Write now, or with the rest of the batch."""
        if not self.is_batching:
            write_now(self.transport, octets)
            return
        if self._batch is None:
            self._batch = []
        self._batch.append(octets)
        self._batched += len(octets)
        if self._batched >= WRITE_SIZE:
            self.flush()

    def write_later(self, octets: bytes) -> None:
        """Write with the next :meth:`flush`, or before."""
        was_batching, self.is_batching = self.is_batching, True
        self.write(octets)
        self.is_batching = was_batching

    def flush(self, *, is_last: bool = False) -> None:
        """Write the batch; with ``is_last`` the connection must be closed at once."""
        batch, self._batch = self._batch, None
        if batch:
            self._batched = 0
            octets = batch[0] if len(batch) == 1 else b"".join(batch)
            write_now(self.transport, octets, is_last=is_last)

    def discard(self) -> None:
        """Drop the batch."""
        self._batch = None
        self._batched = 0

    def prepare_body(
        self,
        head: bytes,
        body: Iterable[Chunk],
        framer: Framer,
        call_later: Callable[[float, Callable[[], None]], object],
        finished: Finished,
    ) -> None:
        """Prepare to write a status line and the body after it, with :meth:`start_body`.

        ``call_later`` calls a function after a number of seconds, as a reactor's ``callLater``
        does.  ``finished`` is not called after :meth:`stop_body`.
        """

        def done(failure: Failure | None, has_written: bool) -> None:
            self._body = None
            finished(failure, has_written)

        self._body = BodySender(head, body, framer, self.write, call_later, done)

    def start_body(self) -> None:
        """Start to write the body that is prepared, unless paused."""
        if not self.is_paused:
            self.resume()

    @property
    def body_octets(self) -> int:
        """How many octets of the body that is being sent were written, the status line included."""
        return 0 if self._body is None else self._body.octets

    def stop_body(self) -> None:
        """Stop sending a body, if there is one; ``finished`` is not called."""
        if self._body is not None:
            self._body.stop()

    def drop_body(self) -> bool:
        """Stop sending a body and drop it; return whether there was one."""
        had_body = self._body is not None
        self.stop_body()
        self._body = None
        return had_body

    def pause(self) -> None:
        """Write no body until :meth:`resume`."""
        self.is_paused = True
        if self._body is not None:
            self._body.pause()

    def resume(self) -> bool:
        """Continue with the body; return whether there is one."""
        self.is_paused = False
        if self._body is None:
            return False
        self._body.resume()
        return True
