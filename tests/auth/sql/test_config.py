"""Tests of popserv.auth.sql.config."""

from threading import Thread
from unittest import mock

from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from popserv.auth.sql.config import KEYS, SQLConfig, _connect_arguments
from popserv.runtime.config_files import FileError
from tests.auth.sql.harness import DatabaseCase
from tests.docs.harness import DOCS

QUERY = "query = 'SELECT :user'\n"
SCHEMES = "schemes = ['PLAIN']\n"


class ConfigTests(DatabaseCase):
    """The file of ``--auth sql:FILE``."""

    def problem(self, text):
        """Return the message for a file with this text."""
        self.file.write_text(text)
        self.file.chmod(0o600)
        return str(self.assertRaises(FileError, SQLConfig, str(self.file)))

    def test_values(self):
        """The values of the file, or the defaults."""
        config = SQLConfig(self.configure())
        self.assertEqual((config.connections, config.timeout), (4, 5))
        self.assertEqual((config.schemes, config.default_scheme), ({b"PLAIN", b"APOP"}, b"CRYPT"))
        self.assertEqual(config.parameters, {"user"})
        self.assertEqual(config.path, str(self.file))
        query = "SELECT a::text FROM b WHERE n = :local AND d = :domain"
        more = "connections = 7\ntimeout = 9\ndefault-scheme = 'sha512-crypt'\n"
        config = SQLConfig(self.configure(query, ["Ssha"], more))
        self.assertEqual((config.connections, config.timeout), (7, 9))
        self.assertEqual((config.schemes, config.default_scheme), ({b"SSHA"}, b"SHA512-CRYPT"))
        self.assertEqual(config.parameters, {"local", "domain"})
        self.assertEqual(config.engine.pool.size(), 7)

    def test_errors(self):
        """An error names the file, the key and the remedy, and never the URL."""
        url = f"url = 'sqlite:///{self.database}'\n"
        whole = url + QUERY + SCHEMES
        for text, problem in (
            (QUERY + SCHEMES, "url: is missing"),
            (url + SCHEMES, "query: is missing"),
            (url + QUERY, "schemes: is missing"),
            (whole + "tables = 1\n", "tables: unknown key"),
            (whole + "timeout = 301\n", "timeout: must be a whole number from 1 to 300"),
            (whole + "connections = 101\n", "connections: must be a whole number from 1 to 100"),
            (whole + "default-scheme = 'ROT13'\n", "default-scheme: 'ROT13' is not a password"),
            (url + QUERY + "schemes = ['PL\u00c4IN']\n", "schemes: 'PL\xc4IN' is not"),
            (url + "query = 'SELECT 1'\n" + SCHEMES, "query: every user would get"),
            (url + "query = 'SELECT :domain'\n" + SCHEMES, "query: every user would get"),
            (
                url + "query = 'SELECT :user, :name'\n" + SCHEMES,
                "query: :name is not a parameter; use :user, :local and :domain",
            ),
            ("url = 's3cret'\n" + QUERY + SCHEMES, "url: is not a URL of a database"),
            ("url = 'no://a:s3cret@h/x'\n" + QUERY + SCHEMES, "url: is not a URL of a database"),
        ):
            message = self.problem(text)
            self.assertIn(f"{self.file}: {problem}", message)
            self.assertNotIn("s3cret", message)
        error = self.assertRaises(FileError, SQLConfig, "")
        self.assertEqual(str(error), "--auth sql requires a file name; use --auth sql:FILE")
        error = self.assertRaises(FileError, SQLConfig, self.configure(mode=0o644))
        self.assertIn("is accessible to users other than its owner", str(error))

    def test_engine(self):
        """Any thread can use its connections; its errors have no names that clients send."""
        config = SQLConfig(self.configure("SELECT name FROM missing WHERE name = :user"))
        self.addCleanup(config.engine.dispose)
        errors = []

        def ask():
            with config.engine.connect() as connection:
                try:
                    connection.execute(config.query, {"user": "somebody"})
                except OperationalError as error:
                    errors.append(str(error))

        for _ in range(2):
            thread = Thread(target=ask)
            thread.start()
            thread.join()
        self.assertEqual(len(errors), 2)
        for error in errors:
            self.assertIn("no such table: missing", error)
            self.assertNotIn("somebody", error)

    def test_no_driver(self):
        """If the driver of the database is missing, the message says so."""
        url = "url = 'mysql+pymysql://a:s3cret@h/x'\n"
        with mock.patch.dict("sys.modules", {"pymysql": None}):
            message = self.problem(url + QUERY + SCHEMES)
        self.assertTrue(message.endswith("; install the driver of this database"), message)
        self.assertNotIn("s3cret", message)

    def test_drivers(self):
        """The drivers of the usual databases give up by themselves."""
        for url, expected in (
            ("postgresql+psycopg://h/x", "statement_timeout=7000"),
            ("postgresql+psycopg2://h/x", "statement_timeout=7000"),
            ("postgresql+asyncpg://h/x", "{}"),
            ("mysql+pymysql://h/x", "'read_timeout': 7"),
            ("mariadb+mysqldb://h/x", "'read_timeout': 7"),
            ("sqlite:///x", "'timeout': 7"),
            ("oracle://h/x", "{}"),
        ):
            self.assertIn(expected, str(_connect_arguments(make_url(url), 7)), url)

    def test_documented(self):
        """The guide describes every key."""
        guide = (DOCS / "howto/sql.rst").read_text("utf-8")
        for key in KEYS:
            self.assertIn(f"\n``{key}``\n", guide)
