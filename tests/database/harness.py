"""Databases of tests."""

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from popserv.database.config import DatabaseConfig
from popserv.database.pool import Database
from tests.live.postgresql import create_database, shared_server


class DatabaseCase(TestCase):
    """Tests with a database in the server that all tests of this process share."""

    timeout = 60

    def setUp(self):
        """Create an empty database."""
        self.parameters = {
            "host": str(shared_server().directory),
            "user": "mail",
            "dbname": create_database(),
        }
        self.database = self.connect()

    def connect(self, *, options="", parameters=(), **config):
        """Return a Database, which is closed after the test."""
        merged = {**self.parameters, "options": options, **dict(parameters)}
        database = Database(DatabaseConfig(path="/sql.toml", parameters=merged, **config), reactor)
        self.addCleanup(database.close)
        return database
