"""Maildrops in PostgreSQL, as other programs read them."""

import psycopg

from tests.live.harness import run, until
from tests.live.postgresql import create_database, shared_server
from tests.soak.stores.base import Store, Vanished


class SQL(Store):
    """Maildrops in PostgreSQL, as other clients of the database read them."""

    can_change = False
    has_command = True
    removes_at_once = True
    release_seconds = 3
    settings = ""
    """More lines of the file."""

    def __init__(self, root):
        super().__init__(root)
        server = shared_server()
        name = create_database()
        self._file = root / "store.toml"
        self._file.write_text(
            f'conninfo = "host={server.directory} user=mail dbname={name}"\nlease = 3\n'
            f'inline = 4096\n{self.settings}[objects]\nurl = "file://{self.root}"\n'
        )
        self._file.chmod(0o600)
        done = run("popserv", "schema", "create", "--store", f"sql:{self._file}")
        if done.returncode:
            raise AssertionError(done.stdout + done.stderr)
        self._connection = psycopg.connect(
            host=str(server.directory), user="mail", dbname=name, autocommit=True
        )

    @property
    def name(self):
        """The store as --store names it."""
        return f"sql:{self._file}"

    def read(self, user):
        """Return the id, the octets or their number, and the mark of each message."""
        rows = self._connection.execute(
            "SELECT m.id, b.body, m.stored, m.flags & 1 = 1 FROM message m JOIN maildrop d "
            "ON d.id = m.maildrop LEFT JOIN body b USING (maildrop, position) "
            "WHERE d.name = %s ORDER BY position",
            [user.encode()],
        )
        return [
            (key, stored if body is None else bytes(body), seen) for key, body, stored, seen in rows
        ]

    def flag(self, user, key, choose):
        """Mark a message as seen, or as not seen."""
        changed = self._connection.execute(
            "UPDATE message m SET flags = flags & ~1::smallint | %s FROM maildrop d "
            "WHERE d.id = m.maildrop AND d.name = %s AND m.id = %s",
            [choose.randint(0, 1), user.encode(), key],
        )
        if not changed.rowcount:
            raise Vanished(key)

    def close(self):
        """Close the connection."""
        self._connection.close()

    def settle(self):
        """Wait until the database executes nothing of a killed server."""
        query = (
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' "
            "AND datname = current_database() AND pid <> pg_backend_pid()"
        )
        until(lambda: self._connection.execute(query).fetchone() == (0,), "the database")
