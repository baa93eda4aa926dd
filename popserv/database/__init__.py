"""A PostgreSQL database that several hosts share; requires the extra ``sql``.

This package may import core, runtime, interfaces, errors and texts.  Other packages import it only
where a database is used, because its libraries are optional.
"""

from popserv.database.config import DatabaseConfig, read_config
from popserv.database.errors import DatabaseUnavailable, OutcomeUnknown
from popserv.database.opening import open_database
from popserv.database.pool import Database
from popserv.database.schema import SchemaError, check_schema

__all__ = [
    "Database",
    "DatabaseConfig",
    "DatabaseUnavailable",
    "OutcomeUnknown",
    "SchemaError",
    "check_schema",
    "open_database",
    "read_config",
]
