"""A connection to PostgreSQL whose waiting is done by Twisted's reactor.

psycopg's generators know the states of libpq's protocol, and say for what they would wait;
``psycopg.adapt.Transformer`` converts parameters and rows.  A cursor of psycopg would do the same
between the two, in twice the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg import BaseConnection, Error, OperationalError, generators
from psycopg.abc import ConnDict
from psycopg.adapt import PyFormat, Transformer
from psycopg.conninfo import conninfo_attempts, make_conninfo, timeout_from_conninfo
from psycopg.errors import Diagnostic, error_from_result
from psycopg.pq import ExecStatus, Format, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult
from psycopg.types.numeric import Int8BinaryDumper, Int8Dumper
from twisted.internet.defer import TimeoutError as DeferredTimeout

from popserv.database.waiting import WatchedSocket
from popserv.runtime.threads import BoundedThreadPool

Row = tuple[Any, ...]
Address = tuple[bytes, bytes, bytes]
"""The host, IP address and port of a server, as libpq has found them."""

MAX_PREPARED = 100
"""The statements that a connection prepares; popserv has fewer."""

_SUCCESSFUL = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK, ExecStatus.EMPTY_QUERY)


class Connection(BaseConnection[Row]):
    """A connection that executes one statement at a time, each in its own transaction.

    :ivar prepares: whether statements are prepared when they are executed for the second time.
    :ivar warning: the last WARNING that the server has sent since a statement began.
    :ivar address: where the server is.
    :ivar is_still_executing: whether the server executes a statement that was given up; see
        :meth:`wait_for_end`.
    """

    prepares = True
    warning: str | None = None
    is_still_executing = False
    address: Address

    def watch(self, reactor: Any) -> None:
        """Let a reactor wait for this connection."""
        self._socket = WatchedSocket(reactor, self.pgconn.socket, self._read_idle)
        self.address = self.pgconn.host, self.pgconn.hostaddr, self.pgconn.port
        self.add_notice_handler(self._noticed)
        # One type for all numbers, so that a statement is prepared once.  Psycopg sends those in
        # lists as text, with the type that it chose for the first list; a larger one later would
        # not fit it.
        for dumper in (Int8Dumper, Int8BinaryDumper):
            self.adapters.register_dumper(int, dumper)
        self._transformer = Transformer(self)
        # Statements with the types of their parameters: executed once, and the names of prepared.
        self._seen: set[tuple[str, tuple[int, ...]]] = set()
        self._names: dict[tuple[str, tuple[int, ...]], bytes] = {}

    async def run(
        self,
        statement: str,
        parameters: Sequence[Any] | None,
        deadline: float,
        prepare: bool,
        durable: bool,
    ) -> list[Row]:
        """Execute a statement, and return its rows.

        Without parameters, these may be several statements, which are one transaction.  ``prepare``
        says whether it may be prepared, and ``durable`` whether the connection stays open, when it
        is given up, until the server has executed it.

        :raises twisted.internet.defer.TimeoutError: not before the deadline, a time of the
            reactor's clock; the connection is closed, unless the statement goes on.
        :raises psycopg.Error: it failed, or the connection broke, and is ``closed``.
        """
        self.warning = None
        self._socket.give_up_at(deadline)
        try:
            if parameters is None:
                self.pgconn.send_query(statement.encode())
                results = await self._results()
            else:
                results = await self._execute(statement, parameters, prepare and self.prepares)
            return self._rows(results[0])
        except DeferredTimeout:
            if durable:
                self.is_still_executing = True
                # libpq discards what it cannot send, and says nothing; a server that waits for the
                # statement would keep the connection open for ever.
                self._socket.end_sending()
            raise
        finally:
            self._socket.go_on()
            if (
                not self.is_still_executing
                and self.pgconn.transaction_status != TransactionStatus.IDLE
            ):
                # It broke, or nobody waits any more for what is under way.
                self.shut()

    async def wait_for_end(self) -> None:
        """Wait until a statement has ended that was given up, and close the connection.

        :raises psycopg.Error: it has failed, or the connection has broken.
        """
        try:
            await self._results()
        finally:
            # The statement may have been given up before it was sent as a whole, or prepared.
            self.shut()

    async def _execute(
        self, statement: str, parameters: Sequence[Any], prepare: bool
    ) -> list[PGresult]:
        transformer, pgconn = self._transformer, self.pgconn
        values = transformer.dump_sequence(parameters, [PyFormat.AUTO] * len(parameters))
        types, formats = transformer.types or (), transformer.formats
        key = statement, types
        name = self._names.get(key) if prepare else None
        if name is None:
            text = statement.encode()
            if not (prepare and key in self._seen):
                pgconn.send_query_params(text, values, types, formats, Format.BINARY)
                results = await self._results()
                if len(self._seen) < MAX_PREPARED:
                    self._seen.add(key)
                return results
            name = b"p%d" % len(self._names)
            pgconn.send_prepare(name, text, types)
            await self._results()
            self._names[key] = name
        pgconn.send_query_prepared(name, values, formats, Format.BINARY)
        return await self._results()

    async def _results(self) -> list[PGresult]:
        """Return what the server says to what was sent.

        :raises psycopg.Error: it is an error, or the connection has broken.
        """
        generator = generators.execute(self.pgconn)
        try:
            wanted = next(generator)
            while True:
                wanted = generator.send(await self._socket.ready(wanted))
        except StopIteration as stop:
            results: list[PGresult] = stop.value
        for result in results:
            if result.status not in _SUCCESSFUL:
                raise error_from_result(result)
        return results

    def _rows(self, result: PGresult) -> list[Row]:
        if not result.ntuples:
            return []
        transformer = self._transformer
        transformer.set_pgresult(result)
        rows = transformer.load_rows(0, result.ntuples, tuple)
        transformer.set_pgresult(None)
        return rows

    def ended(self) -> bool:
        """Return whether the connection has ended while nobody used it."""
        while not self.closed and self._socket.is_readable():
            self._read_idle()
        return self.closed

    def shut(self) -> None:
        """Close the connection."""
        self._socket.close()
        self.pgconn.finish()

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
    """Connect to the first of the hosts that accepts.

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
