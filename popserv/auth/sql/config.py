"""The file of ``--auth sql:FILE``; docs/howto/sql.rst explains its keys."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, QueuePool, TextClause, create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from popserv.auth.passwords.schemes import SCHEMES
from popserv.runtime.config_files import FileError
from popserv.runtime.toml_file import TOMLFile

KEYS = ("url", "query", "schemes", "default-scheme", "connections", "timeout")

PARAMETERS = ("user", "local", "domain")
"""The parameters of the query."""

MAX_CONNECTIONS = 100
MAX_TIMEOUT = 300


class SQLConfig:
    """What the file says.

    :ivar path: the path of the file.
    :ivar engine: connects to the database when it is first used.
    :ivar query: the query, whose parameters are some of ``PARAMETERS``.
    :ivar parameters: the names of those.
    :ivar schemes: the schemes that a secret may have, in upper case.
    :ivar default_scheme: the scheme of a secret that names none.
    :ivar connections: the greatest number of connections to the database.
    :ivar timeout: the seconds after which a look-up is given up.

    :raises popserv.runtime.config_files.FileError: the file cannot be used.
    """

    def __init__(self, path: str) -> None:
        if not path:
            raise FileError("--auth sql requires a file name; use --auth sql:FILE")
        file = TOMLFile(path, KEYS)
        self.path = file.path
        self.connections = file.number("connections", 4, MAX_CONNECTIONS)
        self.timeout = file.number("timeout", 5, MAX_TIMEOUT)
        self.schemes = frozenset(_scheme(file, "schemes", each) for each in file.texts("schemes"))
        default = file.text("default-scheme", "CRYPT")
        self.default_scheme = _scheme(file, "default-scheme", default)
        self.query = text(file.text("query"))
        self.parameters = _parameters(file, self.query)
        self.engine = _engine(file, self.connections, self.timeout)


def _scheme(file: TOMLFile, key: str, name: str) -> bytes:
    scheme = name.upper().encode("ascii", "replace")
    if scheme not in SCHEMES:
        raise file.error(key, f"{name!r} is not a password scheme; see the users file's reference")
    return scheme


def _parameters(file: TOMLFile, query: TextClause) -> frozenset[str]:
    names = frozenset(query.compile().params)
    for name in sorted(names):
        if name not in PARAMETERS:
            raise file.error("query", f":{name} is not a parameter; use :user, :local and :domain")
    if not names & {"user", "local"}:
        raise file.error("query", "every user would get the same row; use :user, or :local")
    return names


def _engine(file: TOMLFile, connections: int, timeout: int) -> Engine:
    try:
        url = make_url(file.text("url"))
        engine = create_engine(
            url,
            poolclass=QueuePool,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=timeout,
            # A connection that the database has closed meanwhile is replaced.
            pool_pre_ping=True,
            pool_recycle=1800,
            # Errors are logged, and the names that clients send are not for the log.
            hide_parameters=True,
            connect_args=_connect_arguments(url, timeout),
        )
        if url.get_driver_name() == "psycopg":
            # With other drivers, psycopg need not be installed.
            from popserv.auth.sql.postgresql import give_up_after  # noqa: PLC0415

            give_up_after(engine, timeout)
        return engine
    except (ArgumentError, NoSuchModuleError):
        # The message may have the URL, and with it the password.
        problem = "is not a URL of a database, such as postgresql+psycopg://NAME:PASSWORD@HOST/DB"
        raise file.error("url", problem) from None
    except ImportError as error:
        raise file.error("url", f"{error}; install the driver of this database") from None


def _connect_arguments(url: URL, timeout: int) -> dict[str, Any]:
    """Return the arguments by which a driver gives up connecting, and a query."""
    driver = url.get_driver_name()
    if url.get_backend_name() == "postgresql" and driver in ("psycopg", "psycopg2"):
        return {
            "connect_timeout": timeout,
            "options": f"-c statement_timeout={timeout * 1000}",
            "tcp_user_timeout": timeout * 1000,
        }
    if driver == "pymysql":
        return dict.fromkeys(("connect_timeout", "read_timeout", "write_timeout"), timeout)
    if driver == "mysqldb":
        return dict.fromkeys(("connect_timeout", "read_timeout"), timeout)
    if driver == "pysqlite":
        # Threads share the connections of the pool, one at a time.
        return {"timeout": timeout, "check_same_thread": False}
    return {}
