"""The store of ``--store sql:FILE``, made from the file and the settings of the options."""

from __future__ import annotations

from popserv.interfaces import IMaildropFactory
from popserv.maildrops.settings import StoreSettings
from popserv.runtime.config_files import FileError
from popserv.runtime.extras import how_to_install


def make_store(argument: str, settings: StoreSettings) -> IMaildropFactory:
    """Return the store that a file describes; it connects when it is first used.

    :raises ValueError: the file or a setting is invalid, or a library is missing.
    """
    settings.reject_unsupported("downgrader", "since")
    try:
        from popserv.database import open_database  # noqa: PLC0415
        from popserv.maildrops.sql.open_objects import open_objects  # noqa: PLC0415
        from popserv.maildrops.sql.store import SQLMaildrops  # noqa: PLC0415
    except ImportError as error:
        raise ValueError(f"{error}; run: {how_to_install('sql')}") from error
    try:
        database = open_database(argument)
    except FileError as error:
        raise ValueError(str(error)) from error
    config = database.config
    url = config.objects_url
    try:
        objects = (
            None if url is None else open_objects(url, config.objects_options, config.patience)
        )
    except ValueError as error:
        raise ValueError(f"{config.path}: objects: {error}") from error
    return SQLMaildrops(
        database,
        cache_messages=settings.cache_messages,
        downgrader=settings.downgrader,
        since=settings.since,
        objects=objects,
    )
