"""The schema of the database: its versions, and what else a server needs of the database."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from psycopg import Error
from psycopg.errors import UndefinedTable
from twisted.logger import Logger

from popserv.database.pool import Database

STEPS: Sequence[str] = ("schema.sql", "schema_2.sql", "schema_3.sql")
"""Files in this package: each makes a version of the one before it, the first of nothing.

Each adds its number to the table schema_version, so that it fails when two hosts run it at once,
and can be executed in one transaction with those before it.
"""

_log = Logger()


class SchemaError(Exception):
    """The schema cannot be used, or made; the message names the file and the remedy."""


async def create_schema(database: Database) -> None:
    """Make the schema in a database without one.

    :raises SchemaError: there is one, or the database refuses.
    :raises popserv.errors.TryLater: the database cannot be reached.
    """
    version = await schema_version(database)
    if version:
        raise SchemaError(
            f"{database.config.path}: the database has a schema, version {version}; to bring it to "
            f"the version of this popserv, run: {_command(database, 'upgrade')}"
        )
    await _apply(database, 0)


async def upgrade_schema(database: Database) -> int:
    """Bring the schema to the version of this popserv, and return the version that it had.

    :raises SchemaError: there is none, it is of a later popserv, or the database refuses.
    :raises popserv.errors.TryLater: the database cannot be reached.
    """
    version = await schema_version(database)
    if not version or version > len(STEPS):
        raise _unusable(database, version)
    await _apply(database, version)
    return version


async def check_schema(database: Database) -> None:
    """Check that the schema has the version of this popserv, and log what may lose mail.

    :raises: as :func:`require_schema`.
    """
    await require_schema(database)
    for problem in await durability_problems(database):
        _log.warn("{file}: {problem}", file=database.config.path, problem=problem)


async def require_schema(database: Database) -> None:
    """Check that the schema has the version of this popserv.

    :raises SchemaError: it has not.
    :raises popserv.errors.TryLater: the database cannot be reached.
    """
    version = await schema_version(database)
    if version != len(STEPS):
        raise _unusable(database, version)


async def schema_version(database: Database) -> int:
    """Return the version of the schema, 0 if there is none.

    :raises SchemaError: it cannot be read.
    :raises popserv.errors.TryLater: the database cannot be reached.
    """
    try:
        [(version,)] = await database.execute("SELECT max(version) FROM schema_version")
    except UndefinedTable:
        return 0
    except Error as error:
        raise SchemaError(f"{database.config.path}: cannot read the schema: {error}") from error
    return int(version or 0)


async def durability_problems(database: Database) -> list[str]:
    """Return what would lose mail that was accepted, or bring back mail that was removed."""
    [(standbys, commit)] = await database.execute(
        "SELECT current_setting('synchronous_standby_names'), current_setting('synchronous_commit')"
    )
    problems = []
    if not standbys:
        problems.append(
            "synchronous_standby_names is empty: when the database fails over to another host, the "
            "last messages may be lost; name the standbys there"
        )
    if commit in ("off", "local"):
        problems.append(
            f"synchronous_commit is {commit}: when the database fails, the last messages may be "
            "lost; set it to on"
        )
    return problems


async def _apply(database: Database, version: int) -> None:
    """Make the latest version of the schema of an earlier one, in one transaction."""
    scripts = [files("popserv.database").joinpath(name) for name in STEPS[version:]]
    try:
        await database.execute_script("".join(script.read_text("utf-8") for script in scripts))
    except Error as error:
        raise SchemaError(
            f"{database.config.path}: cannot make version {len(STEPS)} of the schema, nothing was "
            f"changed: {error}"
        ) from error


def _unusable(database: Database, version: int) -> SchemaError:
    path = database.config.path
    if not version:
        return SchemaError(
            f"{path}: the database has no schema; run: {_command(database, 'create')}"
        )
    problem = f"{path}: the schema has version {version}, and this popserv needs {len(STEPS)}"
    if version > len(STEPS):
        return SchemaError(f"{problem}; upgrade popserv on this host")
    return SchemaError(f"{problem}; run: {_command(database, 'upgrade')}")


def _command(database: Database, action: str) -> str:
    return f"popserv schema {action} --store sql:{database.config.path}"
