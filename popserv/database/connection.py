"""A connection of psycopg whose waiting is done by Twisted's reactor.

psycopg's connections are generators that say for what they would wait.  ``AsyncConnection`` takes
all of them through its method ``wait``, where asyncio usually waits; only connecting does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from psycopg import AsyncConnection, AsyncRawCursor, Error, OperationalError, generators
from psycopg.abc import ConnDict, PQGen
from psycopg.conninfo import conninfo_attempts, make_conninfo, timeout_from_conninfo
from psycopg.errors import Diagnostic
from psycopg.pq import TransactionStatus
from psycopg.pq.abc import PGconn
from psycopg.types.numeric import Int8BinaryDumper
from twisted.internet.defer import TimeoutError as DeferredTimeout

from popserv.database.waiting import WatchedSocket
from popserv.runtime.threads import BoundedThreadPool

Row = tuple[Any, ...]

T = TypeVar("T")


class Connection(AsyncConnection[Row]):
    """A connection that executes one statement at a time, each in its own transaction.

    :ivar warning: the last WARNING that the server has sent since a statement began.
    """

    warning: str | None = None

    def watch(self, reactor: Any) -> None:
        """Let a reactor wait for this connection."""
        self._reactor = reactor
        self._socket = WatchedSocket(reactor, self.pgconn.socket, self._read_idle)
        self.add_notice_handler(self._noticed)
        # One type for all numbers, whatever their size: one prepared statement.
        self.adapters.register_dumper(int, Int8BinaryDumper)

    async def run(
        self,
        statement: str,
        parameters: Sequence[Any] | None,
        seconds: float,
        *,
        prepare: bool | None = None,
    ) -> list[Row]:
        """Execute a statement, and return its rows.

        Without parameters, these may be several statements, which are one transaction.

        :raises twisted.internet.defer.TimeoutError: not within these seconds; the connection is
            closed.
        :raises psycopg.Error: it failed, or the connection broke, and is ``closed``.
        """
        self.warning = None
        timer = self._reactor.callLater(seconds, self._socket.give_up)
        try:
            cursor = AsyncRawCursor(self)
            await cursor.execute(
                statement, parameters, prepare=prepare, binary=parameters is not None
            )
            return [] if cursor.rownumber is None else await cursor.fetchall()
        finally:
            if timer.active():
                timer.cancel()
            if self.pgconn.transaction_status != TransactionStatus.IDLE:
                # It broke, or nobody waits any more for what is under way.
                self.shut()

    def ended(self) -> bool:
        """Return whether the connection has ended while nobody used it."""
        while not self.closed and self._socket.is_readable():
            self._read_idle()
        return self.closed

    def shut(self) -> None:
        """Close the connection."""
        self._socket.close()
        self.pgconn.finish()

    async def wait(self, gen: PQGen[T], interval: float = 0, timeout: float | None = None) -> T:
        """Run a generator of psycopg; without ``timeout``, for which it has a timer itself."""
        try:
            wanted = next(gen)
            while True:
                wanted = gen.send(await self._socket.ready(wanted))
        except StopIteration as stop:
            result: T = stop.value
            return result

    def _noticed(self, notice: Diagnostic) -> None:
        if notice.severity_nonlocalized == "WARNING":
            self.warning = notice.message_primary

    def _read_idle(self) -> None:
        try:
            self.pgconn.consume_input()
        except Error:
            self.shut()


async def connect(
    reactor: Any, parameters: ConnDict, threads: BoundedThreadPool, seconds: float
) -> Connection:
    """Connect to the first of the hosts that accepts, in autocommit mode.

    Names are looked up in a thread.  Each address has the seconds of ``connect_timeout``.

    :raises psycopg.OperationalError: none accepts within the seconds; the text names the reasons.
    """
    deadline = reactor.seconds() + seconds
    problem = OperationalError("no host was tried in time")
    for attempt in await _attempts(reactor, parameters, threads, seconds):
        limit = min(timeout_from_conninfo(attempt), deadline - reactor.seconds())
        if limit <= 0:
            break
        try:
            pgconn = await _connect(reactor, attempt, limit)
        except OperationalError as error:
            problem = error
        else:
            connection = Connection(pgconn)
            connection.watch(reactor)
            await connection.set_autocommit(True)
            return connection
    raise problem


async def _attempts(
    reactor: Any, parameters: ConnDict, threads: BoundedThreadPool, seconds: float
) -> list[ConnDict]:
    """Return the parameters for each address of each host."""
    looked_up = threads.run(conninfo_attempts, parameters)
    try:
        return await looked_up.addTimeout(seconds, reactor)
    except DeferredTimeout:
        raise OperationalError(f"no host name was resolved in {seconds:g} seconds") from None


async def _connect(reactor: Any, parameters: Mapping[str, Any], seconds: float) -> PGconn:
    """Connect to one address."""
    generator = generators.connect(make_conninfo("", **parameters))
    deadline = reactor.seconds() + seconds
    try:
        fileno, wanted = next(generator)
        while True:
            # libpq may have closed one socket and opened another, with the same number.
            socket = WatchedSocket(reactor, fileno)
            try:
                left = max(0, deadline - reactor.seconds())
                ready = await socket.ready(wanted).addTimeout(left, reactor)
            finally:
                socket.close()
            fileno, wanted = generator.send(ready)
    except StopIteration as stop:
        pgconn: PGconn = stop.value
        return pgconn
    except DeferredTimeout:
        raise OperationalError(f"no answer within {seconds:g} seconds") from None
    finally:
        generator.close()
