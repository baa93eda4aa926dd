"""A database with the tables of the store, and stores in it."""

import io
import re
from functools import partial

import psycopg
from twisted.internet import reactor as default_reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import SkipTest, TestCase

from popserv.core.user_settings import NO_SETTINGS
from popserv.database import Database, DatabaseConfig
from popserv.database.schema import create_schema
from popserv.maildrops.sql.store import SQLMaildrops
from tests.live.postgresql import create_database, program, shared_server

_names = {}


async def _database(server, address):
    """Return the parameters of the database of these tests in a server, which the first creates."""
    is_new = server not in _names
    if is_new:
        _names[server] = create_database(server)
    parameters = {**address, "user": "mail", "dbname": _names[server]}
    if is_new:
        database = Database(DatabaseConfig("store.toml", parameters), default_reactor)
        await create_schema(database)
        await database.close()
    return parameters


async def wait_for(condition, what):
    """Let the reactor run until a condition is true."""
    for _ in range(6000):
        if condition():
            return
        await deferLater(default_reactor, 0.01)
    raise AssertionError(f"timed out waiting for {what}")


class SQLCase(TestCase):
    """Tests of stores in one database, which is empty before each test."""

    async def setUp(self):
        """Connect as another program does."""
        if not program("initdb"):
            raise SkipTest("requires initdb")
        self._parameters = await _database(*self.server())
        self.connection = self.connect()
        self.addCleanup(self.connection.close)
        self.sql("TRUNCATE maildrop, message, body, doomed")

    def server(self):
        """Return the server, and the connection parameters that are its address."""
        return shared_server(), {"host": str(shared_server().directory)}

    def connect(self):
        """Return a connection of another program."""
        return psycopg.connect(**self._parameters, autocommit=True)

    def sql(self, statement, *parameters):
        """Execute a statement as another program, and return its rows."""
        cursor = self.connection.execute(statement, parameters or None)
        return cursor.fetchall() if cursor.description else []

    def config(self, **settings):
        """Return the configuration of a store."""
        parameters = {**self._parameters, "options": "-c lock_timeout=500"}
        return DatabaseConfig("store.toml", parameters, **settings)

    def make_store(self, reactor=None, **settings):
        """Return a store with a FaultyDatabase, which is stopped at the end of the test."""
        options = {
            name: settings.pop(name)
            for name in ("cache_messages", "downgrader", "since", "objects", "run")
            if name in settings
        }
        self.database = FaultyDatabase(self.config(**settings), default_reactor)
        store = SQLMaildrops(self.database, reactor=reactor, **options)
        self.addCleanup(store.stop)
        return store

    async def deliver(self, factory, user, message):
        """Deliver a message, and return its unique-id."""
        return await factory.deliver_new(user, NO_SETTINGS, io.BytesIO(message))


class FaultyDatabase(Database):
    """A database that executes statements as a test says.

    ``faults`` are functions for the next execution of a statement, which are given a function that
    executes it.  ``executed`` are the statements that were given.
    """

    def __init__(self, config, reactor):
        super().__init__(config, reactor)
        self.faults = {}
        self.executed = []

    async def execute(self, statement, parameters=(), *, repeat=True, durable=False):
        """Execute a statement, or do what the test wants.

        One whose commit may wait for a standby must be told from all others.
        """
        waits = re.search(r"(?<!')\b(INSERT|UPDATE|DELETE)\b", statement) is not None
        if durable is not (waits and "'synchronous_commit', 'off'" not in statement):
            raise AssertionError(f"durable={durable}: {statement}")
        self.executed.append(statement)
        execute = partial(super().execute, statement, parameters, repeat=repeat, durable=durable)
        fault = self.faults.pop(statement, None)
        return await (execute() if fault is None else fault(execute))


def raising(error):
    """Return a fault: the statement is not executed."""

    async def fault(execute):
        raise error

    return fault


def losing(error):
    """Return a fault: the statement is executed, and its answer is lost."""

    async def fault(execute):
        await execute()
        raise error

    return fault
