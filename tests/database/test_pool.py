"""Tests of popserv.database.pool and connection on a real PostgreSQL; test_faults has the rest."""

import os
import socket
from pathlib import Path
from time import perf_counter
from uuid import uuid4

from psycopg import OperationalError, ProgrammingError
from psycopg.conninfo import make_conninfo
from psycopg.errors import CheckViolation, UniqueViolation
from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred, gatherResults

from examples.cluster.processes import free_port
from popserv.database import connection
from popserv.database.config import read_config
from popserv.database.errors import DatabaseUnavailable, OutcomeUnknown
from popserv.database.pool import Database
from tests.database.harness import DatabaseCase
from tests.live.harness import TIMEOUT
from tests.live.postgresql import create_database, shared_server, tls_server

LIMITS = (
    *(socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT),
)

SELECT = "SELECT id FROM t WHERE id = $1::bigint"

TABLE = (
    "CREATE TABLE t (id bigint PRIMARY KEY CHECK (id >= 0));"
    "INSERT INTO t SELECT n FROM generate_series(1, 1000) n"
)


class ObservedTests(DatabaseCase):
    """Whoever counts is told of statements."""

    async def test_observed(self):
        """Each statement has an outcome and a time, also one that is not executed."""
        seen = []
        self.database.observe = lambda outcome, seconds: seen.append((outcome, seconds))
        before = perf_counter()
        slept = await self.database.execute("SELECT pg_sleep(0.05) IS NULL")
        elapsed = perf_counter() - before
        self.assertEqual(slept, [(False,)])
        await self.assertFailure(
            ensureDeferred(self.database.execute("SELECT x")), ProgrammingError
        )
        warning = "DO $$ BEGIN RAISE WARNING 'x'; END $$"
        await self.assertFailure(ensureDeferred(self.database.execute(warning)), OutcomeUnknown)
        away = self.connect(parameters={"host": "/nowhere"}, patience=1)
        away.observe = self.database.observe
        await self.assertFailure(ensureDeferred(away.execute("SELECT 1")), DatabaseUnavailable)
        await away.close()
        await self.assertFailure(ensureDeferred(away.execute("SELECT 1")), DatabaseUnavailable)
        outcomes = ["done", "error", "unknown", "unavailable", "unavailable"]
        self.assertEqual([outcome for outcome, _ in seen], outcomes)
        self.assertTrue(0.05 <= seen[0][1] <= elapsed, seen[0])
        self.assertEqual(seen[-1], ("unavailable", 0))

    async def test_waiting(self):
        """The statements that wait for a connection are counted."""
        single = self.connect(connections=1)
        running = [ensureDeferred(single.execute("SELECT pg_sleep(0.01)")) for _ in range(3)]
        self.assertEqual(single.waiting_count, 2)
        await gatherResults(running)
        self.assertEqual(single.waiting_count, 0)


class StatementTests(DatabaseCase):
    """Statements, their parameters and their rows."""

    async def test_values(self):
        """Values come back as they were sent, the first time and prepared."""
        values = (b"\0x", 1 << 40, uuid4(), None, True, "\xe9", [1, 70000], [b"a", b"\xff"], [])
        casts = "bytea bigint uuid bigint boolean text bigint[] bytea[] uuid[]".split()
        fields = ", ".join(f"${number}::{cast}" for number, cast in enumerate(casts, 1))
        for _ in range(3):
            self.assertEqual(await self.database.execute(f"SELECT {fields}", values), [values])

    async def test_numbers(self):
        """Numbers of any size are of one type, so that the statement is prepared once."""
        single = self.connect(connections=1)
        for number in (1, 1, 1 << 20, 1 << 20, 1 << 40, 1 << 40):
            self.assertEqual(await single.execute("SELECT $1::bigint", [number]), [(number,)])
        [(count,)] = await single.execute(
            "SELECT count(*) FROM pg_prepared_statements WHERE statement = 'SELECT $1::bigint'"
        )
        self.assertEqual(count, 1)

    async def test_numbers_in_lists(self):
        """Numbers in lists have one type, so that a large one may follow small ones."""
        single = self.connect(connections=1)
        for numbers in ([1], [1 << 20], [], [1 << 40, None], [None]):
            rows = await single.execute("SELECT $1::bigint[]", [numbers])
            self.assertEqual(rows, [(numbers,)])

    async def test_many_statements(self):
        """A connection prepares no more than a number of statements."""
        self.patch(connection, "MAX_PREPARED", 2)
        single = self.connect(connections=1)
        for _ in range(3):
            for number in range(5):
                self.assertEqual(await single.execute(f"SELECT {number}"), [(number,)])
        [(count,)] = await single.execute("SELECT count(*) FROM pg_prepared_statements")
        self.assertEqual(count, 2)

    async def test_large_result(self):
        """A result of 20 MB, of which the connection keeps nothing."""
        [(octets,)] = await self.database.execute(
            "SELECT decode(repeat('00', $1::integer), 'hex')", [20_000_000]
        )
        self.assertEqual(octets, bytes(20_000_000))
        [idle] = self.database._idle
        self.assertIsNone(idle._transformer.pgresult)

    async def test_large_parameter(self):
        """A parameter of 20 MB, which the socket does not take at once."""
        octets = bytes(20_000_000)
        [(length,)] = await self.database.execute("SELECT length($1::bytea)", [octets])
        self.assertEqual(length, len(octets))

    async def test_many(self):
        """Statements wait in line for a connection."""
        await self.database.execute_script(TABLE)
        rows = await gatherResults(
            [ensureDeferred(self.database.execute(SELECT, [n])) for n in range(1, 900)]
        )
        self.assertEqual(rows, [[(n,)] for n in range(1, 900)])
        [(connections,)] = await self.database.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        )
        self.assertEqual(connections, 4)

    async def test_errors(self):
        """An error of a statement is the caller's, and a notice is none."""
        await self.database.execute_script(TABLE)
        for number, error in ((7, UniqueViolation), (-1, CheckViolation)):
            with self.assertRaises(error):
                await self.database.execute("INSERT INTO t VALUES ($1::bigint)", [number])
        with self.assertRaises(ProgrammingError):
            await self.database.execute(SELECT, [object()])
        notice = "DO $$ BEGIN RAISE NOTICE 'nothing'; END $$"
        self.assertEqual(await self.database.execute(notice), [])

    async def test_warning(self):
        """A statement with a warning may not have been done."""
        with self.assertRaises(OutcomeUnknown):
            await self.database.execute("DO $$ BEGIN RAISE WARNING 'something'; END $$")

    async def test_lock(self):
        """A statement that waits for a lock tries again, and then ends for good; a script waits."""
        await self.database.execute_script(TABLE)
        limits = "-c lock_timeout=100 -c statement_timeout=1000"
        blocked, holder = (self.connect(patience=1, options=limits) for _ in range(2))
        hold = "BEGIN; LOCK TABLE t; SELECT pg_sleep(1.5); END"
        holding = ensureDeferred(holder.execute_script(hold))
        locks = "SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND granted"
        while await self.database.execute(locks) == [(0,)]:
            pass
        script = "UPDATE t SET id = 1003 WHERE id = 2"
        waiting = ensureDeferred(blocked.execute_script(script))
        with self.assertRaises(DatabaseUnavailable):
            await blocked.execute("UPDATE t SET id = 1001 WHERE id = 1")
        self.assertEqual(
            await self.database.execute("UPDATE t SET id = 1002 WHERE id = 1 RETURNING id"),
            [(1002,)],
        )
        await holding
        await waiting
        self.assertEqual(await self.database.execute(SELECT, [1003]), [(1003,)])

    async def test_changed_table(self):
        """A prepared statement whose rows have other columns now is executed on all connections."""
        await self.database.execute_script(TABLE)
        every = "SELECT * FROM t WHERE id = $1::bigint"
        for _ in range(2):
            await gatherResults([ensureDeferred(self.database.execute(every, [1])) for _ in "1234"])
        other = self.connect()
        await other.execute("ALTER TABLE t ADD more text")
        for _ in range(8):
            self.assertEqual(await self.database.execute(every, [1]), [(1, None)])

    async def test_terminated(self):
        """A statement whose session is ended is executed again, if it may be."""
        await self.database.execute("CREATE SEQUENCE tries")
        once = "SELECT CASE nextval('tries') WHEN 1 THEN pg_terminate_backend(pg_backend_pid()) END"
        self.assertEqual(await self.database.execute(once), [(None,)])
        await self.database.execute("ALTER SEQUENCE tries RESTART")
        with self.assertRaises(OutcomeUnknown):
            await self.database.execute(once, repeat=False)
        await self.database.execute("ALTER SEQUENCE tries RESTART")
        with self.assertRaises(OutcomeUnknown):
            await self.database.execute_script(once)


class RegularTests(DatabaseCase):
    """What is done regularly with a database."""

    async def test_now(self):
        """It is done at once, and no more when the database is closed."""
        done = []

        async def work():
            done.append(await self.database.execute("SELECT 1"))

        self.database.work_regularly(work, 1000, "it fails")
        await self.database.close()
        self.assertEqual(done, [[(1,)]])


class ServerTests(DatabaseCase):
    """Servers that have TLS, restart, or are one of several."""

    def setUp(self):
        """Connect by TLS."""
        self.server, address = tls_server()
        self.parameters = {**address, "user": "mail", "dbname": create_database(self.server)}
        self.database = self.connect()

    async def test_tls(self):
        """The certificate has the name of the host, and a connection is encrypted."""
        encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        self.assertEqual(await self.database.execute(encrypted), [(True,)])
        octets = bytes(5_000_000)
        self.assertEqual(await self.database.execute("SELECT $1::bytea", [octets]), [(octets,)])
        other = {**self.parameters, "host": "127.0.0.1"}
        with self.assertRaisesRegex(OperationalError, "certificate"):
            await connection.connect(reactor, other, self.database._threads, TIMEOUT)

    async def test_dead_peers(self):
        """The limits after which a connection to a dead machine breaks are those of its socket."""
        for given, limits in (
            ("", (10, 10, 5, 3000)),
            (
                "keepalives_idle=20 keepalives_interval=5 keepalives_count=4 tcp_user_timeout=7000",
                (20, 5, 4, 7000),
            ),
        ):
            path = Path(self.mktemp()).absolute()
            conninfo = make_conninfo(given, **self.parameters)
            path.write_text(f'conninfo = "{conninfo}"\npatience = 3\n')
            path.chmod(0o600)
            database = Database(read_config(str(path)), reactor)
            self.addCleanup(database.close)
            await database.execute("SELECT 1")
            [idle] = database._idle
            with socket.socket(fileno=os.dup(idle.fileno())) as used:
                self.assertEqual(used.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), 1)
                found = [used.getsockopt(socket.IPPROTO_TCP, option) for option in LIMITS]
            self.assertEqual(found, list(limits))

    async def test_restart(self):
        """A statement waits for a server that restarts."""
        await self.database.execute("SELECT 1")
        self.server.stop()
        waiting = ensureDeferred(self.database.execute("SELECT 1", repeat=False))
        self.server.start()
        self.assertEqual(await waiting, [(1,)])

    async def test_hosts(self):
        """A host that does not answer, and one that only reads, are passed over."""
        hosts = {
            "host": f"127.0.0.1,{shared_server().directory},localhost",
            "port": f"{free_port()},5432,{self.parameters['port']}",
            "target_session_attrs": "read-write",
            "sslmode": "prefer",
        }
        name = self.parameters["dbname"]
        shared_server().execute(f"CREATE DATABASE {name}")
        shared_server().execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        database = self.connect(parameters=hosts)
        port = "SELECT current_setting('port')"
        self.assertEqual(await database.execute(port), [(self.parameters["port"],)])

    async def test_standby(self):
        """A commit that no standby confirms may be lost, also when somebody ends its wait."""
        await self.database.execute("CREATE TABLE t (id bigint)")
        add = "INSERT INTO t VALUES (1)"
        with self.server.without_standby():
            with self.assertRaises(OutcomeUnknown):
                await self.connect(patience=0.2).execute(add)
            under_way = ensureDeferred(self.database.execute(add))
            while not under_way.called:
                await self.database.execute("SELECT 1")
                self.server.end_waits()
            error = await self.assertFailure(under_way, OutcomeUnknown)
            self.assertIn("canceling wait for synchronous replication", str(error.__cause__))

    async def test_many_waits(self):
        """However many commits wait for a standby, reading goes on; no session is left behind."""
        await self.database.execute("CREATE TABLE t (id bigint)")
        database = self.connect(patience=2)
        add = "INSERT INTO t VALUES ($1::bigint)"
        with self.server.without_standby():
            writes = [
                ensureDeferred(database.execute(add, [n], repeat=False, durable=True))
                for n in range(100)
            ]
            outcomes = gatherResults(
                [each.addErrback(lambda failure: failure.type) for each in writes]
            )
            slowest = 0
            while not outcomes.called:
                started = perf_counter()
                await database.execute("SELECT count(*) FROM t")
                slowest = max(slowest, perf_counter() - started)
            self.assertLess(slowest, 0.5)
            outcomes = await outcomes
            self.assertEqual(outcomes.count(OutcomeUnknown), 2)
            self.assertEqual(outcomes.count(DatabaseUnavailable), 98)
            started = perf_counter()
            for n in range(50):
                with self.assertRaises(DatabaseUnavailable):
                    await database.execute(add, [n], durable=True)
            self.assertLess(perf_counter() - started, 0.5)
            self.assertEqual(len(self.server.waiting()), 2)
        while not database._durable_places.places:
            await database.execute("SELECT 1")
        await database.execute(add, [100], durable=True)
        self.assertEqual(await database.execute("SELECT count(*) FROM t"), [(3,)])
