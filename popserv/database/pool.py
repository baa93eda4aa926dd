"""The connections of a process to the database, and what is done when they fail.

The module has more than 300 lines, because what a failure means depends on the connection, the
statement and the queues of those that wait.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from time import perf_counter
from typing import Any

from psycopg import Error, OperationalError
from psycopg.errors import (
    DeadlockDetected,
    FeatureNotSupported,
    LockNotAvailable,
    QueryCanceled,
    ReadOnlySqlTransaction,
    SerializationFailure,
)
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.task import deferLater
from twisted.logger import Logger

from popserv.database.config import DatabaseConfig
from popserv.database.connection import Address, Connection, Row, connect
from popserv.database.errors import DatabaseUnavailable, OutcomeUnknown
from popserv.database.place_queue import NoPlaces, PlaceQueue
from popserv.runtime.regular import RegularWork
from popserv.runtime.threads import BoundedThreadPool

MAX_WAITING = 1000
"""The number of statements that may wait for a connection."""

PAUSE = 0.05
"""The seconds before a statement is tried again; each pause is twice as long, up to MAX_PAUSE."""

MAX_PAUSE = 0.5

MIN_LEFT = 0.6
"""A commit is not begun with fewer seconds left: a locked row ends it in time, after 0.5 seconds.

Ended by its deadline, it would keep its connection as if it waited for a standby.
"""

NOT_DONE = (DeadlockDetected, LockNotAvailable, ReadOnlySqlTransaction, SerializationFailure)
"""Errors of a statement that may succeed when it is tried again."""

SCRIPT_LIMITS = "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 3000; "
"""Scripts take as long as they need, but do not wait for others longer than 3 seconds at a time.

A wait of more than ``deadlock_timeout``, 1 second, ends an autovacuum of the table.
"""

_COMMITS_WAIT = "commits wait for a standby"

Observe = Callable[[str, float], object]
"""Called with the outcome of a statement and its seconds; see :attr:`Database.observe`."""


class Database:
    """A database; it connects when it is first used.

    :ivar observe: called after each statement, with the seconds that it has taken with all that it
        has waited for, and its outcome: ``done``, ``unavailable``, ``unknown`` or ``error``, as
        :meth:`execute` raises; None, the default: nothing is called.
    """

    _log = Logger()
    observe: Observe | None = None

    def __init__(self, config: DatabaseConfig, reactor: Any) -> None:
        self.config = config
        self._reactor = reactor
        self._threads = BoundedThreadPool("database", 1, reactor=reactor, wait_at_shutdown=False)
        self._idle: list[Connection] = []
        self._places = PlaceQueue(config.connections, reactor)
        # Of the connections, those whose statements may wait for a standby.
        self._durable_places = PlaceQueue(config.connections // 2, reactor)
        # The statements that were given up and are still executed, with the address of the server.
        self._overdue: dict[Deferred[None], Address] = {}
        # The server of the newest connection.
        self._address: Address | None = None
        self._regular: list[RegularWork] = []
        self._closed = False
        self._finished: Deferred[None] | None = None
        self._away = False

    def execute(
        self,
        statement: str,
        parameters: Sequence[Any] = (),
        *,
        repeat: bool = True,
        durable: bool = False,
    ) -> Coroutine[Any, Any, list[Row]]:
        """Execute one statement in a transaction of its own, and return its rows, [] if none.

        Parameters are written ``$1``, ``$2`` as in PostgreSQL itself, best with a cast, as in
        ``$1::bytea``.  They are bytes, int (sent as bigint), str, bool, uuid.UUID, None, and lists
        of one kind of these.

        A statement that the database has refused without doing anything, such as one that
        would deadlock, is executed again until ``config.patience`` seconds have passed.  With
        ``repeat``, this is also done when the connection breaks while it is under way: it must
        have the same effect twice as once.

        ``durable`` is for each statement whose commit waits for the disk, and for a standby: such
        statements take at most half of the connections, and are not begun in the last MIN_LEFT
        seconds.  The server goes on with one that is given up, which keeps its connection; if all
        of these connections are kept so, others are refused at once.

        :raises DatabaseUnavailable: nothing was done: the database cannot be reached or is too
            busy, within those seconds, more than MAX_WAITING statements wait, or commits do.
        :raises OutcomeUnknown: it may have been executed, or may be later; also when the server
            has sent a WARNING, as it does for a commit that no standby has confirmed.
        :raises psycopg.Error: any other error, such as a violated constraint.
        """
        return self._execute(statement, parameters, repeat, durable)

    async def execute_script(self, statements: str) -> None:
        """Execute several statements, without parameters, in one transaction.

        Once begun, they may take any time: neither ``config.patience`` nor ``statement_timeout``
        ends them.

        :raises: as :meth:`execute`; they are not repeated when the connection breaks.
        """
        await self._execute(SCRIPT_LIMITS + statements, None, repeat=False, durable=False)

    def work_regularly(
        self, work: Callable[[], Awaitable[object]], interval: float, problem: str
    ) -> None:
        """Call a function now, and about every ``interval`` seconds, until :meth:`close`.

        See :class:`popserv.runtime.regular.RegularWork`.
        """
        regular = RegularWork(work, interval, self._reactor, problem)
        self._regular.append(regular)
        regular.start(now=True)

    @property
    def waiting_count(self) -> int:
        """The number of statements that wait for a connection."""
        return len(self._places) + len(self._durable_places)

    @property
    def is_closed(self) -> bool:
        """Whether no statement is executed any more."""
        return self._closed

    async def close(self) -> None:
        """Wait for the statements under way, and close the connections."""
        self._closed = True
        for regular in self._regular:
            await regular.stop()
        if self._places.unfinished or self._durable_places.unfinished:
            self._finished = Deferred()
            await self._finished
        for ending in list(self._overdue):
            ending.cancel()
        for connection in self._idle:
            connection.shut()
        self._places.stop()
        self._durable_places.stop()

    async def _execute(
        self, statement: str, parameters: Sequence[Any] | None, repeat: bool, durable: bool
    ) -> list[Row]:
        observe = self.observe
        queue = self._durable_places if durable else self._places
        if self._closed or queue.unfinished >= queue.places + MAX_WAITING:
            if observe is not None:
                observe("unavailable", 0.0)
            problem = "it was closed" if self._closed else "too many statements wait"
            raise DatabaseUnavailable from OperationalError(problem)
        queue.unfinished += 1
        try:
            deadline = self._reactor.seconds() + self.config.patience
            running = self._try(_Statement(statement, parameters, repeat, durable, deadline))
            return await (running if observe is None else _observed(running, observe))
        finally:
            queue.unfinished -= 1
            if self._finished is not None and not (
                self._places.unfinished or self._durable_places.unfinished
            ):
                self._finished.callback(None)

    async def _try(self, statement: _Statement) -> list[Row]:
        """Execute a statement until it succeeds, fails for good, or patience is over."""
        pause = PAUSE
        min_left = MIN_LEFT if statement.durable else 0.0
        while True:
            try:
                return await self._try_once(statement)
            except _TryAgain as problem:
                left = self._left(statement.deadline)
                if left <= pause + min_left or (statement.begun and not statement.repeat):
                    raise statement.failure() from problem.__cause__
            await deferLater(self._reactor, pause)
            pause = min(2 * pause, MAX_PAUSE)

    async def _try_once(self, statement: _Statement) -> list[Row]:
        durable = statement.durable
        if durable and not self._durable_places.take():
            await self._wait(self._durable_places, statement)
        try:
            if not self._places.take():
                await self._wait(self._places, statement)
            try:
                connection = self._take_idle() or await self._connect(statement.deadline)
                try:
                    if durable and self._left(statement.deadline) < MIN_LEFT:
                        problem = "too little time was left for a commit"
                        raise _TryAgain from OperationalError(problem)
                    return await self._run(connection, statement)
                finally:
                    if not (connection.closed or connection.is_still_executing):
                        self._idle.append(connection)
            finally:
                self._places.leave()
        finally:
            if durable:
                self._durable_places.leave()

    async def _run(self, connection: Connection, statement: _Statement) -> list[Row]:
        """Execute a statement on a connection, and find out what an error means."""
        try:
            is_script = statement.parameters is None
            deadline = math.inf if is_script else statement.deadline
            rows = await connection.run(
                statement.text,
                statement.parameters,
                deadline,
                statement.prepare,
                statement.durable,
            )
        except DeferredTimeout:
            if connection.is_still_executing:
                if connection.address == self._address:
                    self._let_go_on(connection)
                else:
                    # A host that was the primary one may never answer.
                    connection.shut()
            problem = f"no answer within {self.config.patience:g} seconds"
            raise OutcomeUnknown from OperationalError(problem)
        except QueryCanceled as error:
            # It has reached statement_timeout; another try would take as long.
            raise statement.failure() from error
        except Error as error:
            if connection.closed or (error.sqlstate or "").startswith("08"):
                connection.shut()
                self._lost(error)
                statement.begun = True
                raise _TryAgain from error
            if isinstance(error, ReadOnlySqlTransaction):
                # This host is no longer the primary one.
                connection.shut()
            if isinstance(error, FeatureNotSupported) and statement.prepare:
                # A table has changed since the statement was prepared, on this connection.
                connection.shut()
                statement.prepare = False
            elif not isinstance(error, NOT_DONE):
                raise
            raise _TryAgain from error
        if connection.warning is not None:
            raise OutcomeUnknown from Warning(connection.warning)
        return rows

    def _take_idle(self) -> Connection | None:
        """Return a connection that is idle, if there is one."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.ended():
                return connection
        return None

    async def _connect(self, deadline: float) -> Connection:
        try:
            connection = await connect(
                self._reactor, dict(self.config.parameters), self._threads, self._left(deadline)
            )
        except OperationalError as error:
            self._lost(error)
            raise _TryAgain from error
        connection.prepares = self.config.prepare
        self._address = connection.address
        for ending, address in list(self._overdue.items()):
            if address != connection.address:
                # It may never answer, as above.
                ending.cancel()
        if self._away:
            self._away = False
            self._log.info("the database is available again")
        return connection

    def _left(self, deadline: float) -> float:
        left: float = deadline - self._reactor.seconds()
        return max(0.0, left)

    def _lost(self, error: Error) -> None:
        if not self._away:
            self._away = True
            self._log.warn("the database is unavailable: {reason}", reason=str(error))

    def _let_go_on(self, connection: Connection) -> None:
        """Keep a connection until what it executes has ended: closed, it would leave a process.

        A process of the server that waits for a standby does not notice the end of its connection.
        """
        self._places.close_place()
        self._durable_places.close_place()
        if not self._durable_places.places:
            self._log.warn(
                "half of the connections wait for a standby: deliveries and removals are refused"
            )
        ending = Deferred.fromCoroutine(connection.wait_for_end())
        self._overdue[ending] = connection.address
        ending.addBoth(self._end_overdue, ending)
        ending.addErrback(lambda failure: failure.trap(Error, CancelledError))

    def _end_overdue(self, result: Any, ending: Deferred[None]) -> Any:
        del self._overdue[ending]
        if not (self._durable_places.places or self._closed):
            self._log.info("deliveries and removals are accepted again")
        self._places.open_place()
        self._durable_places.open_place()
        return result

    async def _wait(self, queue: PlaceQueue, statement: _Statement) -> None:
        """Wait for a place."""
        try:
            await queue.wait(statement.deadline)
        except DeferredTimeout:
            problem = f"no connection was free within {self.config.patience:g} seconds"
            raise _TryAgain from OperationalError(problem)
        except NoPlaces:
            raise statement.failure() from OperationalError(_COMMITS_WAIT)


async def _observed(running: Awaitable[list[Row]], observe: Observe) -> list[Row]:
    """Return what a statement does, and tell of its outcome and its time."""
    started, outcome = perf_counter(), "error"
    try:
        rows = await running
        outcome = "done"
    except DatabaseUnavailable:
        outcome = "unavailable"
        raise
    except OutcomeUnknown:
        outcome = "unknown"
        raise
    finally:
        observe(outcome, perf_counter() - started)
    return rows


class _Statement:
    """A statement, and what has become of it so far."""

    __slots__ = ("begun", "deadline", "durable", "parameters", "prepare", "repeat", "text")

    def __init__(
        self,
        text: str,
        parameters: Sequence[Any] | None,
        repeat: bool,
        durable: bool,
        deadline: float,
    ) -> None:
        self.text = text
        self.parameters = parameters
        self.repeat = repeat
        self.durable = durable
        self.deadline = deadline
        # Whether it is, if the connection does so.
        self.prepare = parameters is not None
        self.begun = False

    def failure(self) -> Exception:
        """Return the error when it is given up."""
        return OutcomeUnknown() if self.begun else DatabaseUnavailable()


class _TryAgain(Exception):
    """A statement has failed for a reason that may pass."""
