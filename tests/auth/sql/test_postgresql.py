"""Tests of popserv.auth.sql.postgresql, with a real PostgreSQL behind a proxy."""

import os
import socket
import time
from pathlib import Path
from urllib.parse import urlencode

from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from twisted.internet.defer import Deferred, execute
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.sql.config import SQLConfig
from popserv.auth.sql.source import SQLUsers
from popserv.errors import TryLater
from tests.live.faulty_proxy import SILENT, FaultyProxy
from tests.live.harness import TIMEOUT, require_programs
from tests.live.postgresql import program, shared_server, tls_server


class SocketTests(SynchronousTestCase):
    """The sockets of the connections."""

    def test_time(self):
        """A connection to a machine that is gone breaks after ``timeout``."""
        if not program("initdb"):
            require_programs(self, "initdb")
        _, address = tls_server()
        file = Path(self.mktemp()).absolute()
        more = urlencode({name: value for name, value in address.items() if name != "host"})
        file.write_text(
            f"url = 'postgresql+psycopg://mail@{address['host']}/postgres?{more}'\n"
            "query = 'SELECT :user'\nschemes = ['PLAIN']\ntimeout = 7\n"
        )
        file.chmod(0o600)
        engine = SQLConfig(str(file)).engine
        self.addCleanup(engine.dispose)
        with (
            engine.connect() as connection,
            socket.socket(fileno=os.dup(connection.connection.fileno())) as used,
        ):
            found = used.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        self.assertEqual(found, 7000)


class SilenceTests(SynchronousTestCase):
    """A server that does not answer."""

    def setUp(self):
        """Start the server and the proxy."""
        if not program("initdb"):
            require_programs(self, "initdb")
        server = shared_server()
        self.proxy = FaultyProxy(self, str(server.directory / f".s.PGSQL.{server.port}"))

    def engine(self, seconds):
        """Return an engine with one connection, which is given up after these seconds."""
        file = Path(self.mktemp()).absolute()
        file.write_text(
            f"url = 'postgresql+psycopg://mail@127.0.0.1:{self.proxy.port}/postgres'\n"
            f"query = 'SELECT :user'\nschemes = ['PLAIN']\ntimeout = {seconds}\nconnections = 1\n"
        )
        file.chmod(0o600)
        engine = SQLConfig(str(file)).engine
        self.addCleanup(engine.dispose)
        return engine

    def query(self, engine, statement):
        """Return the result of a statement."""
        with engine.connect() as connection:
            return connection.execute(text(statement)).scalar()

    def test_silence(self):
        """A query is given up, and its connection is not used again."""
        engine = self.engine(1)
        with engine.connect() as connection:
            self.proxy.fault = SILENT
            error = self.assertRaises(OperationalError, connection.execute, text("SELECT 1"))
        self.assertEqual(str(error.orig), "no answer within 1 s")
        self.assertTrue(error.connection_invalidated)
        self.proxy.fault = None
        self.assertEqual(self.query(engine, "SELECT 2"), 2)

    def test_result(self):
        """What is waited for is passed on, here the rows of COPY."""
        with self.engine(TIMEOUT).connect() as connection:
            cursor = connection.connection.cursor()
            with cursor.copy("COPY (SELECT 4) TO STDOUT") as copy:
                self.assertEqual([*map(bytes, copy)], [b"4\n"])

    def test_idle(self):
        """A connection that has become silent since its last use is replaced."""
        engine = self.engine(1)
        self.assertEqual(self.query(engine, "SELECT 1"), 1)
        self.proxy.silence()
        self.assertEqual(self.query(engine, "SELECT 2"), 2)

    def test_time(self):
        """The time is that of each statement, and not of the connection."""
        engine = self.engine(TIMEOUT)
        with engine.connect() as connection:
            now = time.monotonic()
            self.patch(time, "monotonic", lambda: now + 2 * TIMEOUT)
            self.assertEqual(connection.execute(text("SELECT 3")).scalar(), 3)


class ValueTests(SynchronousTestCase):
    """Errors in the data, of which some are names that nobody can have."""

    def test_values(self):
        """A name that the type of the column does not have is unknown; the rest is a failure."""
        if not program("initdb"):
            require_programs(self, "initdb")
        file = Path(self.mktemp()).absolute()
        host = urlencode({"host": str(shared_server().directory)})
        rows = "(VALUES (7, '{PLAIN}x', 1), (8, '{PLAIN}x', 0)) AS users (id, password, one)"
        query = (
            "SELECT id::text AS name, password, 'x' || 1 / one AS reason "
            f"FROM {rows} WHERE id = CAST(:user AS integer)"
        )
        file.write_text(
            f"url = 'postgresql+psycopg://mail@/postgres?{host}'\n"
            f'query = """{query}"""\nschemes = ["PLAIN"]\n'
        )
        file.chmod(0o600)
        config = SQLConfig(str(file))
        self.addCleanup(config.engine.dispose)
        users = SQLUsers(config, Clock(), lambda call, *args, still_needed: execute(call, *args))

        def find(name):
            return Deferred.fromCoroutine(users.find(name))

        self.assertEqual(self.successResultOf(find(b"7")).name, b"7")
        for name in (b"9", b"ann", b"7 or 1", b"99999999999"):
            self.assertIsNone(self.successResultOf(find(name)))
        self.failureResultOf(find(b"8"), TryLater)
