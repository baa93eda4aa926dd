"""Tests of popserv.database.pool on a real PostgreSQL."""

from uuid import uuid4

from psycopg.errors import UniqueViolation
from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred, gatherResults
from twisted.trial.unittest import TestCase

from popserv.database.config import DatabaseConfig
from popserv.database.errors import DatabaseUnavailable
from popserv.database.pool import Database
from tests.live.postgresql import PostgreSQL


class DatabaseTests(TestCase):
    """A database."""

    async def test_database(self):
        """Rows are returned, also of 899 statements at once, and after the server has restarted."""
        server = PostgreSQL(self)
        parameters = {"host": str(server.directory), "user": "mail", "dbname": "postgres"}
        database = Database(DatabaseConfig(path="", parameters=parameters), reactor)
        self.addCleanup(database.close)
        values = (b"\0x", 1 << 40, uuid4(), None, True, [1, 70000], [b"a", b"\xff"])
        casts = ("bytea", "bigint", "uuid", "bigint", "boolean", "bigint[]", "bytea[]")
        fields = ", ".join(f"${number}::{cast}" for number, cast in enumerate(casts, 1))
        for _ in range(3):
            self.assertEqual(await database.execute(f"SELECT {fields}", values), [values])
        await database.execute_script(
            "CREATE TABLE t (id bigint PRIMARY KEY);"
            "INSERT INTO t SELECT n FROM generate_series(1, 1000) n"
        )
        with self.assertRaises(UniqueViolation):
            await database.execute("INSERT INTO t VALUES ($1::bigint)", [7])
        select = "SELECT id FROM t WHERE id = $1::bigint"
        rows = await gatherResults(
            [ensureDeferred(database.execute(select, [n])) for n in range(1, 900)]
        )
        self.assertEqual(rows, [[(n,)] for n in range(1, 900)])
        self.assertEqual(await database.execute("INSERT INTO t VALUES (0)"), [])
        server.stop()
        server.start()
        self.assertEqual(await database.execute(select, [7]), [(7,)])
        await database.close()
        with self.assertRaises(DatabaseUnavailable):
            await database.execute(select, [7])
