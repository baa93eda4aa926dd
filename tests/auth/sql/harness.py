"""An SQLite database with users, and a configuration file for it."""

import sqlite3
from pathlib import Path

from twisted.trial.unittest import TestCase

QUERY = "SELECT name, password FROM users WHERE name = lower(:user)"


class DatabaseCase(TestCase):
    """Has a database of users."""

    def setUp(self):
        """Create the table."""
        self.database = Path(self.mktemp()).absolute()
        self.file = Path(self.mktemp()).absolute()
        self.execute("CREATE TABLE users (name, password, extra)")

    def execute(self, statement, *values):
        """Execute a statement, and commit."""
        connection = sqlite3.connect(self.database)
        try:
            with connection:
                connection.execute(statement, values)
        finally:
            connection.close()

    def add(self, name, password, extra=None):
        """Add a user."""
        self.execute("INSERT INTO users VALUES (?, ?, ?)", name, password, extra)

    def configure(self, query=QUERY, schemes=("PLAIN", "APOP"), more="", mode=0o600):
        """Write the file; return its path."""
        self.file.write_text(
            f'url = "sqlite:///{self.database}"\nquery = """{query}"""\n'
            f"schemes = {list(schemes)}\n{more}"
        )
        self.file.chmod(mode)
        return str(self.file)
