"""The connections of a server for tests: their transcript, and the faults of the network."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import connectionDone
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure

from popserv.server.factory import POP3Factory
from popserv.server.protocol import POP3Server
from popserv.server.reply_writer import ReplyWriter
from popserv.testing.faulty.commands import FaultyCommands
from popserv.testing.faulty.faults import ActiveFaults
from popserv.testing.faulty.store import FaultyPortal
from popserv.testing.faulty.transcript import Transcript
from popserv.transports.peers import peer_name

_PIECES_PER_SECOND = 10


class FaultyWriter(ReplyWriter):
    """Writes the output of a connection, with the faults ``octets_per_second`` and ``drop_after``.

    ``record`` is called with all octets that are written, and ``drop`` once, when no more may be.
    """

    def __init__(
        self,
        transport: Any,
        call_later: Callable[[float, Callable[[], None]], Any],
        faults: ActiveFaults,
        record: Callable[[bytes], object],
        drop: Callable[[], object],
    ) -> None:
        super().__init__(transport)
        self._call_later = call_later
        self.is_dropped = False
        self._faults = faults
        self._record = record
        self._drop = drop
        self._written = 0
        self._queue = b""
        self._next_piece: Any = None
        self._when_empty: list[Callable[[], object]] = []

    def write(self, octets: bytes) -> None:
        """See ReplyWriter."""
        if self.is_dropped:
            return
        limit = self._faults.current.drop_after
        if limit is not None and self._written + len(octets) >= limit:
            octets = octets[: max(0, limit - self._written)]
            self.is_dropped = True
        self._written += len(octets)
        self._record(octets)
        if self._queue or self._faults.current.octets_per_second:
            self._queue += octets
            if self._next_piece is None:
                self._write_piece()
        else:
            super().write(octets)
        if self.is_dropped:
            self.when_empty(self._drop)

    def _write_piece(self) -> None:
        # The fault may have been removed meanwhile.
        rate = self._faults.current.octets_per_second or len(self._queue) * _PIECES_PER_SECOND
        size = max(1, rate // _PIECES_PER_SECOND)
        piece, self._queue = self._queue[:size], self._queue[size:]
        self._next_piece = None
        super().write(piece)
        self.flush()
        if self._queue:
            self._next_piece = self._call_later(size / rate, self._write_piece)
            return
        callbacks, self._when_empty = self._when_empty, []
        for callback in callbacks:
            callback()

    def when_empty(self, callback: Callable[[], object]) -> None:
        """Call a function when all is written."""
        if self._queue:
            self._when_empty.append(callback)
        else:
            callback()

    def cancel(self) -> None:
        """Write no more, because the connection is lost."""
        self.is_dropped = True
        self._queue = b""
        if self._next_piece is not None:
            self._next_piece.cancel()
            self._next_piece = None


class FaultyServer(POP3Server):
    """A connection with the faults ``greeting_delay``, ``reply_delay`` and those of its writer.

    The replies to failed logins are not delayed.
    """

    FAILED_LOGIN_DELAY = 0.0

    factory: FaultyFactory
    output: FaultyWriter
    _late: IDelayedCall | None = None
    _is_ending = False

    def connectionMade(self) -> None:
        """Start a session; see Connection."""
        self._number = self.factory.transcript.open_connection()
        self.factory.open.add(self)
        self.factory.peers.add(peer_name(self.transport))
        super().connectionMade()

    def make_writer(self) -> FaultyWriter:
        """See Connection."""
        transcript, number = self.factory.transcript, self._number
        return FaultyWriter(
            self.transport,
            self.callLater,
            self.factory.faults,
            lambda octets: transcript.record(number, "S", octets),
            lambda: self.callLater(0, self.close),
        )

    def greet(self) -> None:
        """Send the greeting, now or later; see Connection."""
        greet = super().greet
        self._do_after(self.factory.faults.current.greeting_delay, greet)

    def lineReceived(self, line: bytes) -> None:
        """Run a command, now or later; see POP3Server."""
        if self._is_ending or self.closing or self.output.is_dropped:
            return
        self.factory.transcript.record(self._number, "C", line.removesuffix(b"\r") + b"\r\n")
        receive = super().lineReceived
        self._do_after(self.factory.faults.current.reply_delay, lambda: receive(line))

    def _do_after(self, seconds: float, function: Callable[[], object]) -> None:
        if seconds:
            # No input is processed meanwhile.
            LineReceiver.pauseProducing(self)
            self._late = self.callLater(seconds, partial(self._do_late, function))
        else:
            function()

    def _do_late(self, function: Callable[[], object]) -> None:
        self._late = None
        function()
        self.resetTimeout()
        self.resume_input()

    def resume_input(self) -> None:
        """Process the next line, unless it is delayed; see POP3Server."""
        if self._late is None:
            super().resume_input()

    def upgrade_to_tls(self) -> None:
        """Start TLS once the reply is sent; see Connection."""
        self.output.when_empty(super().upgrade_to_tls)

    def close(self) -> None:
        """Close once all output is sent; see Connection."""
        self._is_ending = True
        self.output.when_empty(super().close)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End the session; see Connection."""
        self.factory.open.discard(self)
        self.output.cancel()
        if self._late is not None:
            self._late.cancel()
            self._late = None
        super().connectionLost(reason)


class FaultyFactory(POP3Factory):
    """Makes a :class:`FaultyServer` for each connection.

    :ivar open: the open connections.
    :ivar peers: the names of all clients in the log.
    """

    protocol = FaultyServer

    def __init__(self, portal: FaultyPortal, faults: ActiveFaults, tls: Any = None) -> None:
        super().__init__(FaultyCommands(faults), portal, host=b"localhost", tls=tls)
        self.faults = faults
        self.transcript = Transcript()
        self.open: set[FaultyServer] = set()
        self.peers: set[str] = set()
