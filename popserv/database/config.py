"""The file of ``--store sql:FILE``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict, timeout_from_conninfo

from popserv.runtime.config_files import FileError
from popserv.runtime.toml_file import TOMLFile

KEYS = ("connections", "conninfo", "grace", "inline", "lease", "objects", "patience", "prepare")

DAY = 24 * 3600

MAX_INLINE = 1 << 20
MAX_GRACE = 366 * DAY
MAX_CONNECTIONS = 100
MAX_LEASE = 3600
MAX_PATIENCE = 300


@dataclass(frozen=True)
class DatabaseConfig:
    """What the file says.

    :ivar path: the path of the file.
    :ivar parameters: the connection parameters of libpq, with popserv's defaults.
    :ivar prepare: whether statements are prepared, and sessions have settings of their own; not
        behind a pooler that passes each transaction to another session, such as pgbouncer.
    :ivar connections: the greatest number of connections of a process, at least 2, so that reading
        goes on while commits wait for a standby.
    :ivar patience: the seconds that a statement may wait in all.
    :ivar objects_url: where the octets of large messages are; None: in the database.
    :ivar objects_options: options of the object store, such as its endpoint and access key.
    :ivar inline: messages of at most so many octets are in the database.
    :ivar grace: the seconds for which objects of removed messages are kept.
    :ivar lease: the seconds after which the lock of a host that has failed is free.
    """

    path: str
    parameters: Mapping[str, Any] = field(repr=False)
    prepare: bool = True
    connections: int = 4
    patience: int = 10
    objects_url: str | None = None
    objects_options: Mapping[str, str] = field(default_factory=dict, repr=False)
    inline: int = 8192
    grace: int = 7 * DAY
    lease: int = 30


def read_config(path: str) -> DatabaseConfig:
    """Read the file.

    :raises popserv.runtime.config_files.FileError: it cannot be used; the message names it, the
        key and what is wrong.
    """
    if not path:
        raise FileError("--store sql requires a file name; use --store sql:FILE")
    file = TOMLFile(path, KEYS)
    default = DatabaseConfig
    patience = file.number("patience", default.patience, MAX_PATIENCE, minimum=2)
    prepare = file.flag("prepare", default.prepare)
    objects = dict(file.table("objects"))
    url = objects.pop("url", None)
    if url is None and "objects" in file:
        raise file.error("objects.url", 'is missing; set it, such as "s3://BUCKET/PREFIX"')
    return DatabaseConfig(
        path=file.path,
        parameters=_parameters(file, patience, prepare),
        prepare=prepare,
        connections=file.number("connections", default.connections, MAX_CONNECTIONS, minimum=2),
        patience=patience,
        objects_url=url,
        objects_options=objects,
        inline=file.number("inline", default.inline, MAX_INLINE, minimum=0),
        grace=file.number("grace", default.grace, MAX_GRACE),
        lease=file.number("lease", default.lease, MAX_LEASE, minimum=3),
    )


def _parameters(file: TOMLFile, patience: int, prepare: bool) -> Mapping[str, Any]:
    try:
        given = conninfo_to_dict(file.text("conninfo"))
        timeout_from_conninfo(given)
    except ProgrammingError:
        # The message may have the password.
        problem = 'is not a conninfo or URL of PostgreSQL, such as "host=db1,db2 dbname=mail"'
        raise file.error("conninfo", problem) from None
    parameters: dict[str, Any] = {
        "application_name": "popserv",
        "client_encoding": "UTF8",
        "connect_timeout": 2,
        # Nothing else ends a script whose host has vanished.
        "keepalives_idle": 10,
        "keepalives_interval": 10,
        "keepalives_count": 5,
        "target_session_attrs": "read-write",
        "tcp_user_timeout": patience * 1000,
        **given,
    }
    if prepare:
        parameters["options"] = _options(str(given.get("options", "")), patience)
    return parameters


def _options(given: str, patience: int) -> str:
    """Return the options of the server, with limits that leave time for another try."""
    limits = {"lock_timeout": 500, "statement_timeout": patience * 500}
    added = [f"-c {name}={value}" for name, value in limits.items() if name not in given]
    return " ".join([*filter(None, [given]), *added])
