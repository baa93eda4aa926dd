"""A database with users."""

from pathlib import Path

from twisted.internet import reactor

from popserv.auth.accounts.checker import AccountsChecker
from popserv.database import Database
from tests.maildrops.sql.harness import SQLCase


class AccountsCase(SQLCase):
    """Tests with users in a database that have none before each test."""

    async def setUp(self):
        """Remove what other tests have left."""
        await super().setUp()
        self.sql("TRUNCATE account, setting, fact")

    def add(self, name, record):
        """Add a user, as another program does."""
        self.sql("INSERT INTO account (name, record) VALUES (%s, %s)", name, record)

    def open(self, **settings):
        """Return a database as another host has it, which is closed after the test."""
        database = Database(self.config(**settings), reactor)
        self.addCleanup(database.close)
        return database

    def checker(self, database=None, **settings):
        """Return a checker of another host."""
        return AccountsChecker(database or self.open(), **settings)

    def configure(self, **parameters):
        """Write a file for ``--store sql``; return its path."""
        path = Path(self.mktemp()).absolute()
        given = {**self._parameters, **parameters}
        conninfo = " ".join(f"{name}={value}" for name, value in given.items())
        path.write_text(f'conninfo = "{conninfo}"\n')
        path.chmod(0o600)
        return str(path)
