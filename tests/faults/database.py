"""The SQL store of a bench, with the socket of its database."""

from tests.live.postgresql import shared_server
from tests.soak.stores.sql import SQL


class Database(SQL):
    """A database, and the directory of the objects."""

    settings = "patience = 2\n"

    @property
    def socket(self):
        """The path of the socket of the database."""
        return shared_server().directory / ".s.PGSQL.5432"

    def clear(self):
        """Remove all maildrops."""
        self._connection.execute("TRUNCATE maildrop CASCADE")

    def has_lease(self, user):
        """Return whether a session has the maildrop of a user."""
        statement = "SELECT FROM maildrop WHERE name = %s AND holder IS NOT NULL"
        return self._connection.execute(statement, (user.encode(),)).rowcount == 1

    def cut(self):
        """Break all connections of servers."""
        self._connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
