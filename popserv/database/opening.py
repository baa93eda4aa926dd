"""The databases of a process: all that use one file have one, with its connections."""

from __future__ import annotations

from weakref import WeakValueDictionary

from popserv.database.config import read_config
from popserv.database.pool import Database

_databases: WeakValueDictionary[str, Database] = WeakValueDictionary()


def open_database(path: str) -> Database:
    """Return the database of a file, which connects when it is first used.

    :raises popserv.runtime.config_files.FileError: as :func:`read_config`.
    """
    # twistd has chosen the reactor when it parses the options of a server.
    from twisted.internet import reactor

    config = read_config(path)
    database = _databases.get(config.path)
    if database is None or database.is_closed or database.config != config:
        database = _databases[config.path] = Database(config, reactor)
    return database
