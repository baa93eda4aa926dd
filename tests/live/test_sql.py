"""A server whose users are in PostgreSQL, through all that happens to a database."""

from popserv.auth.passwords.schemes import new_scram_sha256
from tests.live.harness import (
    Server,
    ServerTestCase,
    deliver,
    require_programs,
    temporary_directory,
)
from tests.live.mariadb import SERVER, MariaDB
from tests.live.postgresql import PostgreSQL, program

QUERY = """
SELECT name, secret AS password, disabled AS popserv_nologin, tls AS popserv_require_tls,
       read_only AS popserv_read_only, networks AS allow_nets,
       CASE WHEN slow THEN pg_sleep(20)::text END AS userdb_slept
FROM users WHERE name = lower(:local)
"""

TABLE = """
CREATE TABLE users (
    name text, secret text, disabled boolean, tls boolean, read_only boolean, networks text,
    slow boolean DEFAULT false
);
INSERT INTO users (name, secret) VALUES
    ('ann', '%s'), ('bob', '{SSHA256}x'), ('carl', '%s'), ('dora', '%s'), ('eve', '%s'),
    ('twice', '%s'), ('twice', '%s'), ('slow', '%s'), ('plain', '{PLAIN}secret');
UPDATE users SET disabled = true WHERE name = 'bob';
UPDATE users SET disabled = false, tls = true WHERE name = 'carl';
UPDATE users SET tls = false, read_only = true WHERE name = 'dora';
UPDATE users SET networks = '192.0.2.0/24' WHERE name = 'eve';
UPDATE users SET slow = true WHERE name = 'slow';
""".replace("%s", new_scram_sha256(b"secret", 4096).decode())


class SQLTests(ServerTestCase):
    """``--auth sql:FILE`` with a real PostgreSQL."""

    def setUp(self):
        """Start a database and a server."""
        if not program("initdb"):
            require_programs(self, "initdb")
        self.database = PostgreSQL(self)
        self.database.execute(TABLE)
        directory = temporary_directory(self)
        file = directory / "sql.toml"
        file.write_text(
            f"url = '{self.database.url}'\nquery = '''{QUERY}'''\n"
            "schemes = ['SCRAM-SHA-256', 'SSHA256']\ntimeout = 2\nconnections = 2\n"
        )
        file.chmod(0o600)
        self.running = Server("--auth", f"sql:{file}")
        self.addCleanup(self.running.stop)
        deliver(self.running.root / "ann", [b"hello\n"])
        deliver(self.running.root / "dora", [b"hello\n"])
        # The server of this test, for tearDown.
        ServerTestCase._current = SQLTests, self.running

    def reply(self, name, password=b"secret"):
        """Return the reply to a login."""
        connection = self.running.connect()
        self.addCleanup(connection.abandon)
        connection.ask(b"USER " + name)
        return connection.ask(b"PASS " + password)

    def test_users(self):
        """A user logs in by the secret in the database, and by its extra fields."""
        self.assertIn(b"+OK ann's maildrop has 1 message", self.reply(b"Ann@example.org"))
        self.assertIn(b"-ERR [AUTH]", self.reply(b"ann", b"wrong"))
        for name, reason in (
            (b"nobody", "unknown user or wrong password"),
            (b"'OR/**/''='", "unknown user or wrong password"),
            (b"bob", "popserv_nologin is set"),
            (b"carl", "popserv_require_tls is set"),
            (b"eve", "allow_nets does not have the client's address"),
            (b"twice", "sql.toml: the query returns several rows"),
            (b"plain", "sql.toml: a secret of the scheme PLAIN, which is not in schemes"),
        ):
            self.assertIn(b"-ERR [AUTH]", self.reply(name))
            self.assertIn(reason, self.running.log.splitlines()[-1])
        connection = self.running.login("dora")
        self.assertIn(b"-ERR [SYS/PERM] maildrop is read-only", connection.ask(b"DELE 1"))
        connection.close()

    def test_changed_secret(self):
        """A changed secret is seen at once, also after a login with the old one."""
        self.assertIn(b"+OK", self.reply(b"ann"))
        other = new_scram_sha256(b"other", 4096).decode()
        self.database.execute(f"UPDATE users SET secret = '{other}' WHERE name = 'ann'")
        self.assertIn(b"-ERR [AUTH]", self.reply(b"ann"))
        self.assertIn(b"[IN-USE]", self.reply(b"ann", b"other"))

    def test_away(self):
        """While the database is away nobody logs in, one line says so, and then it goes on."""
        self.assertIn(b"+OK", self.reply(b"ann"))
        self.database.stop()
        for name in (b"dora", b"nobody", b"dora"):
            self.assertIn(b"-ERR [SYS/TEMP]", self.reply(name))
        self.assertEqual(self.running.log.count("the database cannot be asked"), 1)
        self.database.start()
        self.assertIn(b"+OK", self.reply(b"dora"))
        self.assertEqual(self.running.log.count("the database answers again"), 1)

    def test_slow(self):
        """A query that takes too long is given up, and holds up nobody else meanwhile."""
        slow = self.running.connect()
        slow.ask(b"USER slow")
        slow.socket.sendall(b"PASS secret\r\n")
        self.assertIn(b"+OK", self.reply(b"ann"))
        slow.socket.setblocking(False)
        self.assertRaises(BlockingIOError, slow.socket.recv, 1)
        slow.socket.setblocking(True)
        self.assertIn(b"-ERR [SYS/TEMP]", slow.line())
        slow.abandon()
        self.assertIn("the database cannot be asked", self.running.log)

    def test_bad_query(self):
        """An error of the database is logged without the names that clients have sent."""
        self.database.execute("ALTER TABLE users RENAME TO people")
        self.assertIn(b"-ERR [SYS/TEMP]", self.reply(b"somebody"))
        line = next(each for each in self.running.log.splitlines() if "cannot be asked" in each)
        self.assertIn('relation "users" does not exist', line)
        self.assertNotIn("somebody", line)


class MariaDBTests(ServerTestCase):
    """``--auth sql:FILE`` with a real MariaDB, whose text has fewer characters than Unicode."""

    def reply(self, name, password=b"secret"):
        """Return the reply to a login."""
        connection = self.running.connect()
        self.addCleanup(connection.abandon)
        connection.ask(b"USER " + name)
        return connection.ask(b"PASS " + password)

    def test_users(self):
        """A user logs in; names of all kinds are values, and unknown; an outage is logged once."""
        require_programs(self, SERVER, "mariadb-install-db", "mariadb")
        database = MariaDB(self)
        database.execute(
            "CREATE TABLE users (name varchar(80), secret varchar(200), off boolean)"
            " CHARACTER SET utf8mb3;"
            "INSERT INTO users VALUES ('ann', '{PLAIN}secret', 0), ('bob', '{PLAIN}secret', 1)"
        )
        file = temporary_directory(self) / "sql.toml"
        query = "SELECT name, secret AS password, off AS nologin FROM users WHERE name = :user"
        file.write_text(f"url = '{database.url}'\nquery = '{query}'\nschemes = ['PLAIN']\n")
        file.chmod(0o600)
        self.running = Server("--auth", f"sql:{file}")
        self.addCleanup(self.running.stop)
        # The server of this test, for tearDown.
        ServerTestCase._current = MariaDBTests, self.running
        self.assertIn(b"+OK ann's maildrop", self.reply(b"ANN"))
        for name in (b"bob", b"'OR/**/''='", b"\\'OR/**/1=1--", "\U0001f600".encode(), b"a" * 600):
            self.assertIn(b"-ERR [AUTH]", self.reply(name), name)
        self.assertNotIn("cannot be asked", self.running.log)
        database.stop()
        for _ in range(2):
            self.assertIn(b"-ERR [SYS/TEMP]", self.reply(b"ann"))
        database.start()
        self.assertIn(b"[IN-USE]", self.reply(b"ann"))
        for text in ("the database cannot be asked", "the database answers again"):
            self.assertEqual(self.running.log.count(text), 1)
