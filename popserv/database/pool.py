"""The connections of a process to the database, and what is done when they fail.

The module has more than 300 lines, because what a failure means depends on the connection, the
statement and the line of those that wait.
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
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.task import deferLater
from twisted.logger import Logger

from popserv.database.config import DatabaseConfig
from popserv.database.connection import Connection, Row, connect
from popserv.database.errors import DatabaseUnavailable, OutcomeUnknown
from popserv.runtime.deadlines import Deadline
from popserv.runtime.regular import RegularWork
from popserv.runtime.threads import BoundedThreadPool

MAX_IN_LINE = 1000
"""The number of statements that may wait for a connection."""

PAUSE = 0.05
"""The seconds before a statement is tried again; each pause is twice as long, up to MAX_PAUSE."""

MAX_PAUSE = 0.5

NOT_DONE = (DeadlockDetected, LockNotAvailable, ReadOnlySqlTransaction, SerializationFailure)
"""Errors of a statement that may succeed when it is tried again."""

SCRIPT_LIMITS = "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 3000; "
"""Scripts take as long as they need, but do not wait for others longer than 3 seconds at a time.

A wait of more than ``deadlock_timeout``, 1 second, ends an autovacuum of the table.
"""

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
        self._free = config.connections
        # What waits for a connection, in order, and until when.  The first of MAX_IN_LINE keys of a
        # dict is found in half a microsecond, whatever was deleted before it.
        self._line: dict[Deferred[None], float] = {}
        self._line_deadline = Deadline(reactor, self._leave_line)
        self._unfinished = 0
        self._regular: list[RegularWork] = []
        self._closed = False
        self._finished: Deferred[None] | None = None
        self._away = False

    def execute(
        self, statement: str, parameters: Sequence[Any] = (), *, repeat: bool = True
    ) -> Coroutine[Any, Any, list[Row]]:
        """Execute one statement in a transaction of its own, and return its rows, [] if none.

        Parameters are written ``$1``, ``$2`` as in PostgreSQL itself, best with a cast, as in
        ``$1::bytea``.  They are bytes, int (sent as bigint), str, bool, uuid.UUID, None, and lists
        of one kind of these.

        A statement that the database has refused without doing anything, such as one that
        would deadlock, is executed again until ``config.patience`` seconds have passed.  With
        ``repeat``, this is also done when the connection breaks while it is under way: it must
        have the same effect twice as once.

        :raises DatabaseUnavailable: nothing was done: the database cannot be reached or is too
            busy, within those seconds, or more than MAX_IN_LINE statements wait.
        :raises OutcomeUnknown: it may have been executed, or may be later; also when the server
            has sent a WARNING, as it does for a commit that no standby has confirmed.
        :raises psycopg.Error: any other error, such as a violated constraint.
        """
        return self._execute(statement, parameters, repeat)

    async def execute_script(self, statements: str) -> None:
        """Execute several statements, without parameters, in one transaction.

        Once begun, they may take any time: neither ``config.patience`` nor ``statement_timeout``
        ends them.

        :raises: as :meth:`execute`; they are not repeated when the connection breaks.
        """
        await self._execute(SCRIPT_LIMITS + statements, None, repeat=False)

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
        return len(self._line)

    @property
    def is_closed(self) -> bool:
        """Whether no statement is executed any more."""
        return self._closed

    async def close(self) -> None:
        """Wait for the statements under way, and close the connections."""
        self._closed = True
        for regular in self._regular:
            await regular.stop()
        if self._unfinished:
            self._finished = Deferred()
            await self._finished
        for connection in self._idle:
            connection.shut()
        self._line_deadline.stop()

    async def _execute(
        self, statement: str, parameters: Sequence[Any] | None, repeat: bool
    ) -> list[Row]:
        observe = self.observe
        if self._closed or self._unfinished >= self.config.connections + MAX_IN_LINE:
            if observe is not None:
                observe("unavailable", 0.0)
            problem = "it was closed" if self._closed else "too many statements wait"
            raise DatabaseUnavailable from OperationalError(problem)
        self._unfinished += 1
        try:
            deadline = self._reactor.seconds() + self.config.patience
            running = self._try(_Statement(statement, parameters, repeat, deadline))
            return await (running if observe is None else _observed(running, observe))
        finally:
            self._unfinished -= 1
            if self._finished is not None and not self._unfinished:
                self._finished.callback(None)

    async def _try(self, statement: _Statement) -> list[Row]:
        """Execute a statement until it succeeds, fails for good, or patience is over."""
        pause = PAUSE
        while True:
            try:
                return await self._try_once(statement)
            except _TryAgain as problem:
                left = self._left(statement.deadline)
                if left <= pause or (statement.begun and not statement.repeat):
                    raise statement.failure() from problem.__cause__
            await deferLater(self._reactor, pause)
            pause = min(2 * pause, MAX_PAUSE)

    async def _try_once(self, statement: _Statement) -> list[Row]:
        if self._free:
            self._free -= 1
        else:
            await self._wait_in_line(statement.deadline)
        try:
            connection = self._take_idle() or await self._connect(statement.deadline)
            try:
                return await self._run(connection, statement)
            finally:
                if not connection.closed:
                    self._idle.append(connection)
        finally:
            self._leave_slot()

    async def _run(self, connection: Connection, statement: _Statement) -> list[Row]:
        """Execute a statement on a connection, and find out what an error means."""
        try:
            is_script = statement.parameters is None
            deadline = math.inf if is_script else statement.deadline
            rows = await connection.run(
                statement.text, statement.parameters, deadline, statement.prepare
            )
        except DeferredTimeout:
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

    async def _wait_in_line(self, deadline: float) -> None:
        """Wait in line for one of the connections."""
        waiting: Deferred[None] = Deferred(self._line.__delitem__)
        self._line[waiting] = deadline
        # Those that are tried again have less time than those before them.
        if deadline < self._line_deadline.time:
            self._line_deadline.set(deadline)
        try:
            await waiting
        except DeferredTimeout:
            problem = f"no connection was free within {self.config.patience:g} seconds"
            raise _TryAgain from OperationalError(problem)

    def _leave_line(self) -> None:
        """Let those leave that have waited too long."""
        now = self._reactor.seconds()
        for waiting in [each for each, deadline in self._line.items() if deadline <= now]:
            # One before it may have cancelled it.
            if self._line.pop(waiting, None) is not None:
                waiting.errback(DeferredTimeout())
        if self._line:
            self._line_deadline.set(min(self._line.values()))

    def _leave_slot(self) -> None:
        for waiting in self._line:
            del self._line[waiting]
            waiting.callback(None)
            return
        self._free += 1


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

    __slots__ = ("begun", "deadline", "parameters", "prepare", "repeat", "text")

    def __init__(
        self, text: str, parameters: Sequence[Any] | None, repeat: bool, deadline: float
    ) -> None:
        self.text = text
        self.parameters = parameters
        self.repeat = repeat
        self.deadline = deadline
        # Whether it is, if the connection does so.
        self.prepare = parameters is not None
        self.begun = False

    def failure(self) -> Exception:
        """Return the error when it is given up."""
        return OutcomeUnknown() if self.begun else DatabaseUnavailable()


class _TryAgain(Exception):
    """A statement has failed for a reason that may pass."""
