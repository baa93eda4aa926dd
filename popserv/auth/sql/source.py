"""The users in an SQL database: a query for each login, in threads of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from twisted.internet.defer import Deferred

from popserv.auth.passwords.schemes import (
    CLEARTEXT_SCHEMES,
    SchemeUnavailable,
    is_empty,
    new_scram_sha1,
    new_scram_sha256,
    scheme_of,
)
from popserv.auth.passwords.secret_forms import check_form
from popserv.auth.sql.config import SQLConfig
from popserv.auth.users.extra_fields import NO_RULES, is_field
from popserv.auth.users.look_ups import LookUps
from popserv.auth.users.outages import Outages, ServerUnavailable
from popserv.auth.users.records import name_parts, octets_of, user_of
from popserv.auth.users.user import User
from popserv.core.findings import Finding, error
from popserv.core.printable import one_line, printable

_ENCODING_ERRORS = ((1267,), (1366,), (3988,))
"""The errors of MariaDB and MySQL for a text that the encoding of a column does not have."""

_VALUE_ERRORS = frozenset({"22003", "22007", "22008", "22021", "22P02", "22P05"})
"""The SQLSTATEs of PostgreSQL for a value that an encoding or the type of a column does not have.

Those of numbers that are too large, and of dates, are among them: a name may be compared with such
a column.
"""

_SHA1_ITERATIONS = 4096
"""The iteration count of ``doveadm pw -s SCRAM-SHA-1``."""

Row = Mapping[str, Any]

NAME, PASSWORD = "name", "password"
"""The columns that the query must return; all others are extra fields."""

_NOBODY = "popserv-doctor"
"""A name that no user has."""


class DatabaseSecrets:
    """What is known of the secrets in a database: the schemes that its configuration names.

    Decoys are like the first secret of each scheme that was looked up.
    """

    has_users = True

    def __init__(self, schemes: frozenset[bytes]) -> None:
        self.has_apop = b"APOP" in schemes
        self._schemes = schemes - {b"APOP"}
        self._seen: dict[bytes, bytes] = {}
        self._initial = _initial_secrets(self._schemes)

    @property
    def has_passwords(self) -> bool:
        """See Secrets."""
        return bool(self._schemes)

    @property
    def passwords(self) -> Sequence[bytes]:
        """See Secrets."""
        return tuple({**self._initial, **self._seen}.values())

    def has_only_schemes(self, schemes: frozenset[bytes]) -> bool:
        """See Secrets."""
        return bool(self._schemes) and self._schemes <= schemes

    def note(self, field: bytes) -> None:
        """Note a user's password field, unless it is malformed; it may take the time of a hash."""
        scheme = scheme_of(field)
        if scheme in self._schemes and scheme not in self._seen and not is_empty(field):
            with suppress(ValueError, SchemeUnavailable):
                check_form(field)
                self._seen.setdefault(scheme, field)


def _initial_secrets(schemes: frozenset[bytes]) -> dict[bytes, bytes]:
    """Return secrets that stand for those of users until one was looked up.

    They are for SCRAM, in which every name must get a salt.
    """
    secrets = {}
    if b"SCRAM-SHA-256" in schemes:
        secrets[b"SCRAM-SHA-256"] = new_scram_sha256(b"")
    if b"SCRAM-SHA-1" in schemes:
        secrets[b"SCRAM-SHA-1"] = new_scram_sha1(b"", _SHA1_ITERATIONS)
    if schemes <= CLEARTEXT_SCHEMES:
        secrets.update({scheme: b"{%b}x" % scheme for scheme in schemes})
    return secrets


class SQLUsers:
    """The users in the database of ``config``; see :class:`popserv.auth.passwords.sources`.

    ``reactor`` and ``run`` are as for :class:`popserv.auth.users.look_ups.LookUps`.
    """

    def __init__(
        self,
        config: SQLConfig,
        reactor: Any = None,
        run: Callable[..., Deferred[Any]] | None = None,
    ) -> None:
        self._config = config
        self._outages = Outages(f"{config.path}: the database")
        self._look_ups = LookUps(
            "popserv-database", config.timeout, config.connections, reactor=reactor, run=run
        )
        self._secrets = DatabaseSecrets(config.schemes)

    def secrets(self) -> DatabaseSecrets:
        """See UserSource."""
        return self._secrets

    async def find(self, name: bytes) -> User | None:
        """See UserSource."""
        values = name_parts(name)
        if values is None:
            return None
        used = {each: values[each] for each in self._config.parameters}
        return await self._outages.watch(self._look_ups.run(self._look_up, name, used))

    async def diagnose(self) -> list[Finding]:
        """Return what is wrong with the database and the query, asked for a name of nobody."""
        values = dict.fromkeys(self._config.parameters, _NOBODY)
        where = self._config.path
        try:
            columns = await self._look_ups.run(self._columns, values)
        except ServerUnavailable as problem:
            remedy = "start the database, or correct url or query"
            what = f"the database cannot be asked: {one_line(str(problem))}"
            return [error("sql", where, what, remedy)]
        missing = [name for name in (NAME, PASSWORD) if name not in columns]
        unknown = [name for name in columns if name not in (NAME, PASSWORD) and not is_field(name)]
        found = []
        if missing:
            what = f"the query returns no column {' and no column '.join(missing)}"
            found.append(error("sql-columns", where, what, "name the columns with AS in query"))
        if unknown:
            what = f"the query returns {', '.join(unknown)}, which refuses every user"
            remedy = "return only extra fields of the users file; or name them with AS"
            found.append(error("sql-columns", where, what, remedy))
        return found

    def close(self) -> None:
        """Close the connections to the database that are not in use."""
        self._config.engine.dispose()

    def _columns(self, values: Mapping[str, str]) -> list[str]:
        """Return the names of the columns of the query."""
        try:
            with self._config.engine.connect() as connection:
                return list(connection.execute(self._config.query, values).keys())
        except SQLAlchemyError as problem:
            # Without the query, which SQLAlchemy adds to it.
            raise ServerUnavailable(str(getattr(problem, "orig", None) or problem)) from problem

    def _look_up(self, name: bytes, values: Mapping[str, str]) -> User | None:
        """Return the user for the values of parameters; to be called in a thread."""
        rows = self._query(values)
        if not rows:
            return None
        user = self._user_of(name, rows)
        self._secrets.note(user.password_field)
        return user

    def _query(self, values: Mapping[str, str]) -> list[Row]:
        """Return the rows for the values of parameters, at most two."""
        try:
            with self._config.engine.connect() as connection:
                result = connection.execute(self._config.query, values)
                columns = list(result.keys())
                if len(set(columns)) < len(columns):
                    # SQLAlchemy keeps the last one, and a restriction might be lost.
                    raise ServerUnavailable("the query returns two columns of one name")
                return [dict(row) for row in result.mappings().fetchmany(2)]
        except UnicodeError:
            # The database cannot have such a name, because of its encoding.
            return []
        except SQLAlchemyError as error:
            original = getattr(error, "orig", None)
            if _is_impossible_value(original):
                return []
            # Without the query, which SQLAlchemy adds to it.
            raise ServerUnavailable(str(original or error)) from error

    def _user_of(self, name: bytes, rows: Sequence[Row]) -> User:
        """Return the user of the rows; what is wrong with them refuses the user, for the log."""
        try:
            if len(rows) > 1:
                raise ValueError("the query returns several rows")
            fields = dict(rows[0])
            if not {NAME, PASSWORD} <= fields.keys():
                raise ValueError(f"the query must return the columns {NAME} and {PASSWORD}")
            return user_of(fields.pop(NAME), self._field_of(fields.pop(PASSWORD)), fields)
        except ValueError as error:
            reason = f"{self._config.path}: {error}"
            return User(name, b"", NO_RULES._replace(refusal=reason))

    def _field_of(self, secret: object) -> bytes:
        """Return the password field for the value of the column.

        :raises ValueError: it is no text, or has a scheme that the file does not name.
        """
        if secret is None:
            return b""
        field = octets_of(secret)
        if field is None:
            raise ValueError(f"the column {PASSWORD} is not a text")
        if field and not field.startswith(b"{"):
            field = b"{%b}%b" % (self._config.default_scheme, field)
        if not is_empty(field) and scheme_of(field) not in self._config.schemes:
            shown = printable(scheme_of(field), 40)
            raise ValueError(f"a secret of the scheme {shown}, which is not in schemes")
        return field


def _is_impossible_value(error: BaseException | None) -> bool:
    """Return whether a driver's error means that the database cannot have such a name."""
    # psycopg and psycopg2 call it differently.
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return state in _VALUE_ERRORS or getattr(error, "args", ())[:1] in _ENCODING_ERRORS
