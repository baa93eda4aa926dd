"""Tests of what Database does when the server or the network fails."""

import gc
import socket
import sys
from unittest import SkipTest, mock

from psycopg import OperationalError
from psycopg.errors import (
    ConnectionException,
    FeatureNotSupported,
    InternalError_,
    LockNotAvailable,
    SerializationFailure,
)
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.defer import succeed as succeed_with
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase, TestCase

from popserv.database import pool
from popserv.database.config import DatabaseConfig
from popserv.database.connection import connect
from popserv.database.errors import DatabaseUnavailable, OutcomeUnknown
from popserv.database.pool import Database
from popserv.database.waiting import WatchedSocket
from tests.database.fake_server import (
    EXECUTE,
    PREPARE,
    FakeServer,
    break_in_reply,
    break_off,
    fail,
    hang,
    succeed,
    wait,
    warn,
)
from tests.transports.test_liveness import vanish

STATEMENT = "SELECT $1::bigint"


class FaultTests(TestCase):
    """A server with faults."""

    timeout = 60

    def setUp(self):
        """Record what is logged."""
        self.logged = []
        # The patience of these tests is shorter.
        self.patch(pool, "MIN_LEFT", 0)

        def observe(event):
            if isinstance(event.get("log_source"), Database):
                self.logged.append(event["log_level"])

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)

    def serve(
        self, *script, patience=10, connections=1, prepare=True, host="127.0.0.1", **parameters
    ):
        """Start a server with this script, and return a Database with these parameters."""
        self.server = FakeServer(*script)
        port = reactor.listenTCP(0, self.server, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.port = port
        address = {"host": host, "port": port.getHost().port, "user": "mail"}
        config = DatabaseConfig(
            path="/sql.toml",
            parameters={"sslmode": "disable", "gssencmode": "disable", **address, **parameters},
            patience=patience,
            connections=connections,
            prepare=prepare,
        )
        database = Database(config, reactor)

        async def close():
            await database.close()
            for each in self.server.protocols:
                each.transport.abortConnection()

        self.addCleanup(close)
        return database

    async def succeeds(self, database, **options):
        """Execute a statement, which returns its row."""
        self.assertEqual(await database.execute(STATEMENT, [7], **options), [(7,)])

    async def executed(self):
        """Wait until the server has got a statement."""
        while EXECUTE not in self.server.steps:
            await pause()

    async def fails(self, error, database, **options):
        """Execute a statement, which raises an error; return it."""
        with self.assertRaises(error) as raised:
            await database.execute(STATEMENT, [7], **options)
        return raised.exception

    async def test_prepared(self):
        """A statement is prepared when it is executed for the second time."""
        database = self.serve()
        for _ in range(3):
            await self.succeeds(database)
        self.assertEqual(self.server.steps, ["connect", EXECUTE, PREPARE, EXECUTE, EXECUTE])

    async def test_not_prepared(self):
        """It never is behind a pooler."""
        database = self.serve(prepare=False)
        for _ in range(3):
            await self.succeeds(database)
        self.assertEqual(self.server.steps, ["connect", EXECUTE, EXECUTE, EXECUTE])

    async def test_break_in_connect(self):
        """A connection that breaks at once is tried again; each outage is logged once."""
        refuse = fail(b"57P03", b"FATAL")
        database = self.serve(break_off, refuse, break_off)
        await self.succeeds(database, repeat=False)
        self.assertEqual(self.server.steps, ["connect"] * 4 + [EXECUTE])
        self.assertEqual(self.logged, [LogLevel.warn, LogLevel.info])
        self.server.script.append(break_off)
        await self.succeeds(database)
        self.assertEqual(self.logged, [LogLevel.warn, LogLevel.info] * 2)

    async def test_break_in_prepare(self):
        """A statement whose connection breaks while it is prepared is executed again."""
        database = self.serve(succeed, succeed, break_off)
        await self.succeeds(database)
        await self.succeeds(database)
        self.assertEqual(self.server.steps, ["connect", EXECUTE, PREPARE, "connect", EXECUTE])

    async def test_break_in_execute(self):
        """A statement whose connection breaks is executed again, if it may be."""
        for breaking in (break_off, break_in_reply, fail(b"57P01", b"FATAL"), fail(b"08P01")):
            database = self.serve(succeed, breaking)
            await self.succeeds(database)
            self.assertEqual(self.server.steps, ["connect", EXECUTE, "connect", EXECUTE])
            database = self.serve(succeed, breaking)
            await self.fails(OutcomeUnknown, database, repeat=False)
            await self.succeeds(database)

    async def test_breaks_forever(self):
        """At the end of patience, what was once under way may have been executed."""
        database = self.serve(succeed, *[break_off] * 100, patience=0.4)
        await self.fails(OutcomeUnknown, database)
        database = self.serve(*[break_off] * 100, patience=0.4)
        await self.fails(DatabaseUnavailable, database)

    async def test_pauses(self):
        """Each pause before another try is twice as long, up to half a second."""
        pauses = []

        def defer_later(clock, seconds):
            pauses.append(seconds)
            return pause()

        self.patch(pool, "deferLater", defer_later)
        await self.succeeds(self.serve(*[break_off] * 6))
        self.assertEqual(pauses, [0.05, 0.1, 0.2, 0.4, 0.5, 0.5])

    async def test_idle_break(self):
        """A connection that ends between statements costs nothing, also one that may not repeat."""
        database = self.serve()
        await self.succeeds(database)
        [protocol] = self.server.protocols
        gone = Deferred()
        protocol.connectionLost = lambda reason: gone.callback(None)
        protocol.transport.loseWriteConnection()
        await gone
        await self.succeeds(database, repeat=False)
        self.assertEqual(self.server.steps, ["connect", EXECUTE, "connect", EXECUTE])
        self.assertEqual(self.logged, [])

    async def test_idle_break_unnoticed(self):
        """So does one that has ended before the reactor tells of it."""
        database = self.serve()
        await self.succeeds(database)
        [protocol] = self.server.protocols
        protocol.transport.socket.shutdown(socket.SHUT_RDWR)
        await self.succeeds(database, repeat=False)
        self.assertEqual(self.server.steps, ["connect", EXECUTE, "connect", EXECUTE])

    async def test_deadline_under_way(self):
        """A statement that takes too long is given up with its connection, and not repeated."""
        database = self.serve(succeed, hang, patience=0.2)
        error = await self.fails(OutcomeUnknown, database)
        self.assertEqual(str(error.__cause__), "no answer within 0.2 seconds")
        await self.succeeds(database)
        self.assertEqual(self.server.steps, ["connect", EXECUTE, "connect", EXECUTE])

    def test_deadline_in_line(self):
        """A statement that is tried again waits in line, and no longer than its patience."""
        self.patch(pool, "PAUSE", 0.25)
        answers = [Deferred(), Deferred()]
        connection = mock.Mock(
            closed=False, is_still_executing=False, warning=None, run=mock.Mock(side_effect=answers)
        )
        connection.ended.return_value = False
        self.patch(pool, "connect", lambda *arguments: succeed_with(connection))
        clock = Clock()
        database = Database(
            DatabaseConfig(path="", parameters={}, connections=1, patience=2), clock
        )
        refused = ensureDeferred(database.execute(STATEMENT, [7]))
        clock.advance(1)
        under_way = ensureDeferred(database.execute(STATEMENT, [7]))
        answers[0].errback(SerializationFailure())
        # It pauses, while the other one takes the connection.
        self.assertEqual((connection.run.call_count, database.waiting_count), (2, 0))
        clock.advance(0.25)
        self.assertEqual(database.waiting_count, 1)
        clock.advance(0.5)
        self.assertNoResult(refused)
        clock.advance(0.25)
        error = self.failureResultOf(refused, DatabaseUnavailable).value
        self.assertEqual(str(error.__cause__), "no connection was free within 2 seconds")
        answers[1].callback([(7,)])
        self.assertEqual(self.successResultOf(under_way), [(7,)])

    async def test_durable_goes_on(self):
        """A commit that is given up keeps its connection, and others are refused until it ends."""
        database = self.serve(succeed, hang, connections=2, patience=0.3)
        first = ensureDeferred(database.execute(STATEMENT, [7], durable=True))
        waiting = ensureDeferred(database.execute(STATEMENT, [7], durable=True))
        await self.executed()
        await self.succeeds(database)
        self.assertEqual((database.waiting_count, self.logged), (1, []))
        error = await self.assertFailure(first, OutcomeUnknown)
        self.assertEqual(str(error.__cause__), "no answer within 0.3 seconds")
        started = reactor.seconds()
        refused = [
            await self.assertFailure(waiting, DatabaseUnavailable),
            await self.fails(DatabaseUnavailable, database, durable=True),
        ]
        self.assertLess(reactor.seconds() - started, 0.2)
        for error in refused:
            self.assertIn("commits wait for a standby", str(error.__cause__))
        self.assertEqual(self.logged, [LogLevel.warn])
        await self.succeeds(database)
        self.assertEqual(
            self.server.steps, ["connect", EXECUTE, "connect", EXECUTE, PREPARE, EXECUTE]
        )
        succeed(self.server.protocols[0], EXECUTE)
        while database._overdue:
            await pause()
        await self.succeeds(database, durable=True)
        self.assertEqual(self.logged, [LogLevel.warn, LogLevel.info])
        self.assertEqual(database._places.places, 2)

    async def test_durable_breaks(self):
        """One whose connection breaks frees its place, and so does one whose server was left."""
        database = self.serve(succeed, hang, connections=2, patience=0.3)
        await self.fails(OutcomeUnknown, database, durable=True)
        break_off(self.server.protocols[0], EXECUTE)
        while database._overdue:
            await pause()
        await self.succeeds(database, durable=True)
        self.server.script.append(hang)
        await self.fails(OutcomeUnknown, database, durable=True)
        [(ending, address)] = database._overdue.items()
        host, hostaddr, port = address
        self.assertEqual(
            (host, hostaddr, int(port)), (b"127.0.0.1",) * 2 + (self.port.getHost().port,)
        )
        await self.succeeds(database)
        self.assertEqual(database._overdue, {ending: address})
        [idle] = database._idle
        idle.shut()
        database._overdue[ending] = host, b"127.0.0.2", port
        await self.succeeds(database)
        self.assertEqual(database._overdue, {})
        await self.succeeds(database, durable=True)

    async def test_durable_not_sent(self):
        """One that never reached the server, which waits for it, frees its place."""
        database = self.serve(succeed, wait, connections=2, patience=0.3)
        await self.fails(OutcomeUnknown, database, durable=True)
        while database._overdue:
            await pause()
        await self.succeeds(database, durable=True)

    async def test_durable_left(self):
        """One that is given up after another host was connected to ends with its connection."""
        database = self.serve(succeed, hang, connections=4, patience=0.3)
        given_up = ensureDeferred(database.execute(STATEMENT, [7], durable=True))
        await self.executed()
        database._address = b"127.0.0.2", b"127.0.0.2", b"5432"
        await self.assertFailure(given_up, OutcomeUnknown)
        self.assertEqual((database._overdue, database._durable_places.places), ({}, 2))
        self.assertEqual(watched(), [])
        await self.succeeds(database, durable=True)
        self.assertEqual(self.server.steps, ["connect", EXECUTE] * 2)

    async def test_durable_closed(self):
        """When the database is closed, nobody waits for it any more."""
        database = self.serve(succeed, hang, connections=2, patience=0.3)
        await self.fails(OutcomeUnknown, database, durable=True)
        await database.close()
        self.assertEqual((database._overdue, self.logged), ({}, [LogLevel.warn]))
        self.assertEqual(watched(), [])

    def test_durable_defect(self):
        """What is no error of the database is logged when it ends one, whose place is free then."""
        end = mock.AsyncMock(side_effect=ZeroDivisionError)
        database = Database(DatabaseConfig(path="", parameters={}), Clock())
        database._let_go_on(mock.Mock(wait_for_end=end))
        places = database._places.places, database._durable_places.places, database._overdue
        self.assertEqual(places, (4, 2, {}))
        gc.collect()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    async def test_durable_limits(self):
        """Statements that may wait for a standby are counted apart from the others."""
        self.patch(pool, "MAX_WAITING", 1)
        database = self.serve(succeed, hang, connections=2)
        durable = [ensureDeferred(database.execute(STATEMENT, [7], durable=True)) for _ in range(2)]
        error = await self.fails(DatabaseUnavailable, database, durable=True)
        self.assertEqual(str(error.__cause__), "too many statements wait")
        await self.executed()
        await self.succeeds(database)
        script = ensureDeferred(database.execute_script(""))
        self.assertEqual(database.waiting_count, 1)
        for each in reversed([*durable, script]):
            each.cancel()
            await self.assertFailure(each, CancelledError)

    def test_durable_begun(self):
        """One that has begun before it is refused may have been executed."""
        answer = Deferred()
        connection = mock.Mock(closed=False, warning=None, run=mock.Mock(return_value=answer))
        self.patch(pool, "connect", lambda *arguments: succeed_with(connection))
        clock = Clock()
        database = Database(DatabaseConfig(path="", parameters={}, connections=2), clock)
        begun = ensureDeferred(database.execute(STATEMENT, [7], durable=True))
        answer.errback(ConnectionException())
        # In its pause, another one is given up.
        database._durable_places.close_place()
        self.assertNoResult(begun)
        clock.advance(pool.PAUSE)
        error = self.failureResultOf(begun, OutcomeUnknown).value
        self.assertEqual(str(error.__cause__), "commits wait for a standby")

    def test_durable_late(self):
        """A commit is not begun so late that its deadline would end it before a limit does."""
        self.patch(pool, "PAUSE", 0.25)
        self.patch(pool, "MIN_LEFT", 0.5)
        answers = [Deferred(), Deferred()]
        connection = mock.Mock(
            closed=False, is_still_executing=False, warning=None, run=mock.Mock(side_effect=answers)
        )
        connection.ended.return_value = False
        self.patch(pool, "connect", lambda *arguments: succeed_with(connection))
        for times in ((1.3125,), (1.125, 0.125), (0.5, 0.5)):
            clock = Clock()
            config = DatabaseConfig(path="", parameters={}, connections=2, patience=2)
            database = Database(config, clock)
            answers[:] = [Deferred() for _ in times]
            connection.run.side_effect = answers
            tried = ensureDeferred(database.execute(STATEMENT, [7], durable=True))
            for answer, seconds in zip(answers, times, strict=True):
                self.assertNoResult(tried)
                clock.advance(seconds)
                answer.errback(LockNotAvailable())
                clock.advance(0.25)
            error = self.failureResultOf(tried, DatabaseUnavailable).value
            self.assertIsInstance(error.__cause__, LockNotAvailable)

    def test_durable_connects_late(self):
        """Nor if its connection is made too late; another statement has it."""
        for durable, seconds, runs in ((True, 1.5, 0), (True, 1.25, 1), (False, 1.5, 1)):
            self.patch(pool, "MIN_LEFT", 0.75)
            connected = Deferred()
            self.patch(pool, "connect", lambda *arguments, connected=connected: connected)
            connection = mock.Mock(closed=False, is_still_executing=False, warning=None)
            connection.run.return_value = succeed_with([(7,)])
            clock = Clock()
            config = DatabaseConfig(path="", parameters={}, connections=2, patience=2)
            database = Database(config, clock)
            under_way = ensureDeferred(database.execute(STATEMENT, [7], durable=durable))
            clock.advance(seconds)
            connected.callback(connection)
            if runs:
                self.assertEqual(self.successResultOf(under_way), [(7,)])
            else:
                error = self.failureResultOf(under_way, DatabaseUnavailable).value
                self.assertEqual(str(error.__cause__), "too little time was left for a commit")
            self.assertEqual(connection.run.call_count, runs)
            self.assertEqual(database._idle, [connection])

    async def test_vanished(self):
        """A script waits for a host that is alive, and not for one that has vanished."""
        if not sys.platform.startswith("linux"):
            raise SkipTest("Linux is required")
        limits = {"keepalives_idle": 1, "keepalives_interval": 1, "tcp_user_timeout": 1000}
        scripts = []
        for _ in range(2):
            database = self.serve(**limits)
            scripts.append(ensureDeferred(database.execute_script("SELECT 7")))
            while not (self.server.protocols and self.server.protocols[0].queries):
                await pause()
        [protocol] = self.server.protocols
        vanish(protocol.transport.socket)
        error = await self.assertFailure(scripts[1], OutcomeUnknown)
        self.assertIn("timed out", str(error.__cause__))
        # Its host has had the same probes for longer.
        self.assertNoResult(scripts[0])
        scripts[0].cancel()
        await self.assertFailure(scripts[0], CancelledError)

    def test_deadlines_in_line(self):
        """Each statement in line has its own deadline; one that leaves may take another along."""
        clock = Clock()
        config = DatabaseConfig(path="", parameters={}, connections=1, patience=2)
        database = Database(config, clock)
        database._places.take()
        first, second = (ensureDeferred(database.execute("")) for _ in range(2))
        ended = []
        first.addErrback(lambda failure: (ended.append(failure.type), second.cancel()))
        second.addErrback(lambda failure: ended.append(failure.type))
        clock.advance(1)
        third = ensureDeferred(database.execute(""))
        clock.advance(1)
        self.assertEqual(ended, [DatabaseUnavailable, CancelledError])
        self.assertNoResult(third)
        clock.advance(1)
        self.failureResultOf(third, DatabaseUnavailable)
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_deadline_passed(self):
        """A query whose time has expired when a connection becomes free does not connect."""
        looking_up = mock.Mock(run=lambda *args: Deferred())
        self.patch(pool, "BoundedThreadPool", lambda *args, **options: looking_up)
        clock = Clock()
        config = DatabaseConfig(path="", parameters={"host": "db"}, connections=1, patience=2)
        database = Database(config, clock)
        first, second = (ensureDeferred(database.execute("")) for _ in range(2))
        # As if the process was suspended.
        clock.rightNow += 10
        first.cancel()
        self.failureResultOf(first, CancelledError)
        clock.advance(0)
        error = self.failureResultOf(second, DatabaseUnavailable)
        self.assertEqual(str(error.value.__cause__), "no host name was resolved in 0 seconds")
        self.assertEqual(clock.getDelayedCalls(), [])

    async def test_deadline_in_connect(self):
        """Neither was one for which no host has answered."""
        database = self.serve(hang, patience=0.2, host="127.0.0.1,127.0.0.1")
        await self.fails(DatabaseUnavailable, database)
        self.assertEqual(self.server.steps, ["connect"])

    async def test_too_many(self):
        """No more than so many statements wait."""
        self.patch(pool, "MAX_WAITING", 1)
        database = self.serve(succeed, hang)
        waiting = [ensureDeferred(database.execute(STATEMENT, [7])) for _ in range(2)]
        error = await self.fails(DatabaseUnavailable, database)
        self.assertEqual(str(error.__cause__), "too many statements wait")
        for each in reversed(waiting):
            each.cancel()
            await self.assertFailure(each, CancelledError)

    async def test_cancelled(self):
        """A statement that nobody waits for any more is given up with its connection."""
        database = self.serve(succeed, hang)
        under_way = ensureDeferred(database.execute(STATEMENT, [7]))
        in_line = ensureDeferred(database.execute(STATEMENT, [7]))
        while self.server.steps != ["connect", EXECUTE]:
            await pause()
        for each in (in_line, under_way):
            each.cancel()
            await self.assertFailure(each, CancelledError)
        await self.succeeds(database)
        self.assertEqual(self.server.steps, ["connect", EXECUTE, "connect", EXECUTE])

    async def test_refused_for_now(self):
        """What would deadlock, or waits for a lock, is executed again, whatever it is."""
        for sqlstate in (b"40001", b"40P01", b"55P03"):
            database = self.serve(succeed, fail(sqlstate))
            await self.succeeds(database, repeat=False)
            self.assertEqual(self.server.steps, ["connect", EXECUTE, EXECUTE])
            database = self.serve(succeed, *[fail(sqlstate)] * 100, patience=0.2)
            await self.fails(DatabaseUnavailable, database)
        self.assertEqual(self.logged, [])

    async def test_read_only(self):
        """A host that has become a standby is left."""
        database = self.serve(succeed, fail(b"25006"))
        await self.succeeds(database, repeat=False)
        self.assertEqual(self.server.steps, ["connect", EXECUTE, "connect", EXECUTE])

    async def test_cached_plan(self):
        """A prepared statement that no longer fits is executed unprepared, once."""
        database = self.serve(succeed, fail(b"0A000"))
        await self.succeeds(database, repeat=False)
        self.assertEqual(self.server.steps, ["connect", EXECUTE, "connect", EXECUTE])
        database = self.serve(succeed, fail(b"0A000"), succeed, fail(b"0A000"))
        await self.fails(FeatureNotSupported, database)

    async def test_statement_timeout(self):
        """A statement that the server has ended was not executed, and is not tried again."""
        database = self.serve(succeed, fail(b"57014"))
        error = await self.fails(DatabaseUnavailable, database)
        self.assertIsInstance(error.__cause__, OperationalError)
        self.assertEqual(self.server.steps, ["connect", EXECUTE])

    async def test_other_errors(self):
        """Other errors are the caller's, and the connection stays."""
        database = self.serve(succeed, fail(b"XX000"))
        await self.fails(InternalError_, database)
        await self.succeeds(database)
        self.assertEqual(self.server.steps, ["connect", EXECUTE, EXECUTE])

    async def test_warning(self):
        """A commit with a warning may be on no standby, and is not repeated."""
        database = self.serve(succeed, warn)
        error = await self.fails(OutcomeUnknown, database)
        self.assertEqual(str(error.__cause__), "the text")
        await self.succeeds(database)
        self.assertEqual(self.server.steps, ["connect", EXECUTE, PREPARE, EXECUTE])

    async def test_close(self):
        """Closing waits for statements under way, and refuses others."""
        for kinds in ((True,), (False,), (True, False)):
            database = self.serve(connections=2)
            under_way = [
                ensureDeferred(self.succeeds(database, durable=durable)) for durable in kinds
            ]
            closing = ensureDeferred(database.close())
            await self.fails(DatabaseUnavailable, database)
            self.assertNoResult(closing)
            for each in under_way:
                await each
            await closing

    async def test_unknown_host(self):
        """A host that cannot be found is a reason to wait, but not for the end of the process."""
        triggers = []
        self.patch(reactor, "addSystemEventTrigger", lambda *trigger: triggers.append(trigger))
        database = Database(
            DatabaseConfig(path="", parameters={"host": "db.invalid"}, patience=0.2), reactor
        )
        error = await self.fails(DatabaseUnavailable, database)
        self.assertIsInstance(error.__cause__, OperationalError)
        self.assertEqual(triggers, [])

    def test_name_server(self):
        """So is a name server that does not answer."""
        clock = Clock()
        threads = mock.Mock(run=mock.Mock(return_value=Deferred()))
        connecting = ensureDeferred(connect(clock, {"host": "db"}, threads, 3))
        clock.advance(3)
        error = self.failureResultOf(connecting, OperationalError)
        self.assertEqual(error.getErrorMessage(), "no host name was resolved in 3 seconds")


class LeastPatienceTests(SynchronousTestCase):
    """The least patience that a file may have."""

    def test_commit(self):
        """A commit that waits for locks is tried again, but not until its deadline ends it."""
        connection = mock.Mock(closed=False, is_still_executing=False, warning=None)
        connection.run.side_effect = lambda *arguments: deferLater(clock, 0.5, refuse)
        connection.ended.return_value = False
        self.patch(pool, "connect", lambda *arguments: succeed_with(connection))
        clock = Clock()

        def refuse():
            raise LockNotAvailable

        database = Database(DatabaseConfig(path="", parameters={}, patience=2), clock)
        refused = ensureDeferred(database.execute(STATEMENT, [7], durable=True))
        clock.pump([0.05] * 40)
        self.failureResultOf(refused, DatabaseUnavailable)
        self.assertEqual(connection.run.call_count, 3)


class ConnectTests(SynchronousTestCase):
    """A server that accepts connections and says nothing, and a clock of the test."""

    def setUp(self):
        """Start the server."""
        self.clock = MemoryReactorClock()
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.listening.close)

    def connect(self, hosts, seconds, **parameters):
        """Connect to the server, whose address is listed ``hosts`` times."""
        parameters = {
            "host": ",".join(["127.0.0.1"] * hosts),
            "port": self.listening.getsockname()[1],
            "sslmode": "disable",
            "gssencmode": "disable",
            **parameters,
        }
        threads = mock.Mock(run=lambda function, *args: succeed_with(function(*args)))
        return ensureDeferred(connect(self.clock, parameters, threads, seconds))

    def accept(self):
        """Accept the next connection, and return it when the client has sent something."""
        connection, _ = self.listening.accept()
        self.addCleanup(connection.close)
        [writer] = self.clock.getWriters()
        writer.doWrite()
        self.assertEqual(len(self.clock.getReaders()), 1)
        self.assertGreater(len(connection.recv(1000)), 0)
        connection.setblocking(False)
        return connection

    def test_deadline(self):
        """The seconds count from the beginning, whatever is done in between."""
        connecting = self.connect(1, 3)
        self.clock.advance(2.5)
        self.accept()
        self.clock.advance(0.25)
        self.assertNoResult(connecting)
        self.clock.advance(0.25)
        error = self.failureResultOf(connecting, OperationalError)
        self.assertEqual(error.getErrorMessage(), "no answer within 3 seconds")
        self.assertEqual((self.clock.getReaders(), self.clock.getDelayedCalls()), ([], []))

    def test_late(self):
        """They may be over before the reactor says so, if the process was suspended."""
        connecting = self.connect(1, 3)
        self.clock.rightNow += 10
        self.accept()
        # A reactor makes no call in the past.
        self.assertEqual([call.getTime() for call in self.clock.getDelayedCalls()], [10])
        self.clock.advance(0)
        self.failureResultOf(connecting, OperationalError)

    def test_hosts(self):
        """Each host has the seconds of connect_timeout, and all have those that are given."""
        self.clock.advance(100)
        connecting = self.connect(3, 3, connect_timeout=2)
        connection = self.accept()
        self.clock.advance(2)
        self.assertNoResult(connecting)
        # The first connection is closed at once.
        self.assertEqual(connection.recv(1000), b"")
        self.accept()
        self.clock.advance(1)
        error = self.failureResultOf(connecting, OperationalError)
        self.assertEqual(error.getErrorMessage(), "no answer within 1 seconds")
        self.assertEqual(self.clock.getReaders() + self.clock.getWriters(), [])


def watched():
    """Return the sockets of connections that are not closed."""
    return [each for each in reactor.getReaders() if isinstance(each, WatchedSocket)]


def pause():
    """Return a Deferred that fires in the next turn of the reactor."""
    waiting = Deferred()
    reactor.callLater(0, waiting.callback, None)
    return waiting
