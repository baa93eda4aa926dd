"""What is wrong with the database and the object store, for ``popserv doctor``.

Nothing is locked, and nothing is changed but for an object that is stored, read and deleted.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from uuid import UUID

from psycopg import Error

from popserv.core.findings import Finding, error, hint, some_names, warning
from popserv.core.printable import one_line
from popserv.database import Database, SchemaError
from popserv.database.schema import durability_problems, require_schema
from popserv.errors import TryLater
from popserv.maildrops.sql.object_errors import ObjectStoreUnavailable, ObjectUnreadable
from popserv.maildrops.sql.objects import ObjectStore

MAX_CLOCK_DIFFERENCE = 60
"""The seconds by which the clocks of the database and of this machine may differ."""

MAX_OVERDUE = 24 * 3600
"""The seconds after which an object must have been removed that was due."""

SAMPLE = 50
"""The numbers of the oldest and of the newest messages whose octets are looked for."""

MISSING_RIGHTS = """
SELECT table_name, privilege
FROM unnest(ARRAY[
    'maildrop', 'message', 'body', 'doomed', 'account', 'setting', 'fact', 'host', 'request',
    'answer'
]) AS table_name, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS privilege
WHERE NOT has_table_privilege(table_name, privilege)
ORDER BY table_name, privilege
"""

STANDBYS = """
SELECT current_setting('synchronous_standby_names'), count(*) FROM pg_stat_replication
"""

WITHOUT_BODY = """
SELECT id FROM (
    (SELECT * FROM message WHERE inline ORDER BY maildrop, position LIMIT $1::bigint)
    UNION
    (SELECT * FROM message WHERE inline ORDER BY maildrop DESC, position DESC LIMIT $1::bigint)
) AS sample
WHERE NOT EXISTS (
    SELECT FROM body WHERE body.maildrop = sample.maildrop AND body.position = sample.position
)
"""
"""Parameter: number of messages at both ends."""

WITH_OBJECT = """
(SELECT id, stored FROM message WHERE NOT inline ORDER BY id LIMIT $1::bigint)
UNION (SELECT id, stored FROM message WHERE NOT inline ORDER BY id DESC LIMIT $1::bigint)
"""
"""Parameter: number of messages at both ends."""

OVERDUE = """
SELECT coalesce(extract(epoch FROM now() - min(due)), 0)::float8 FROM doomed
"""

_RESTORE = "restore them from a backup, or let their users delete the messages"


async def diagnose(database: Database, objects: ObjectStore | None) -> AsyncIterator[Finding]:
    """Yield what is wrong; it gives up when ``patience`` is over."""
    file = database.config.path
    try:
        await require_schema(database)
        async for finding in _database(database):
            yield finding
        async for finding in _messages(database, objects):
            yield finding
    except SchemaError as problem:
        what, _, remedy = str(problem).removeprefix(f"{file}: ").partition("; ")
        yield error("database-schema", file, what, remedy or "correct the database")
    except (TryLater, Error) as problem:
        cause = problem if isinstance(problem, Error) else problem.__cause__
        reason = one_line(str(cause or "it does not answer").strip())
        remedy = "start the database, or correct conninfo"
        yield error("database-unavailable", file, f"the database cannot be used: {reason}", remedy)
    if objects is not None:
        problem_of_store = await objects.probe()
        if problem_of_store:
            yield error(
                "object-store",
                f"{file}, objects",
                problem_of_store,
                "correct the URL, the keys or their rights: to get, put, delete and list objects",
            )


async def _database(database: Database) -> AsyncIterator[Finding]:
    file = database.config.path
    rows = await database.execute(MISSING_RIGHTS)
    if rows:
        names = some_names((f"{right} on {table}" for table, right in rows), len(rows))
        what = f"the user of conninfo lacks rights: {names}"
        yield error("database-rights", file, what, "run GRANT, or make the user own the tables")
    for problem in await durability_problems(database):
        what, _, remedy = problem.rpartition("; ")
        yield warning("database-durability", file, what, remedy)
    [(names, count)] = await database.execute(STANDBYS)
    if names and not count:
        yield error(
            "database-standby",
            file,
            "no standby is connected, so that deliveries and removals wait for one and fail",
            "start a standby, or correct synchronous_standby_names",
        )
    before = time.time()
    [(now,)] = await database.execute("SELECT extract(epoch FROM clock_timestamp())::float8")
    if abs(now - (before + time.time()) / 2) > MAX_CLOCK_DIFFERENCE + time.time() - before:
        yield hint(
            "database-clock",
            file,
            f"its clock and that of this machine differ by {abs(now - before):.0f} s; the leases "
            "do not depend on that, but the times in logs do",
            "run an NTP client on both",
        )


async def _messages(database: Database, objects: ObjectStore | None) -> AsyncIterator[Finding]:
    file = database.config.path
    rows = await database.execute(WITHOUT_BODY, (SAMPLE,))
    if rows:
        what = f"of the first and the last messages, {len(rows)} have no octets: {_ids(rows)}"
        yield error("message-body", file, what, _RESTORE)
    rows = await database.execute(WITH_OBJECT, (SAMPLE,))
    if objects is not None:
        lost = await _lost(objects, rows)
        if lost:
            what = f"of {len(rows)} messages, {len(lost)} have no object: {_ids(lost)}"
            yield error("message-object", file, what, _RESTORE)
    elif rows:
        yield error(
            "objects-unknown",
            file,
            "messages are in an object store, which the file does not name",
            "add the table [objects] as the other servers have it",
        )
    [(seconds,)] = await database.execute(OVERDUE)
    if seconds > MAX_OVERDUE:
        yield warning(
            "objects-overdue",
            file,
            f"objects have waited for their removal for {seconds / 3600:.0f} hours",
            "run popserv collect, and look at its errors",
        )


async def _lost(objects: ObjectStore, rows: Iterable[tuple[UUID, int]]) -> list[tuple[UUID]]:
    """Return the keys of objects that are not there; those that cannot be looked for are."""
    lost = []
    for key, size in rows:
        # The probe finds an object store that does not answer.
        with suppress(ObjectStoreUnavailable):
            try:
                await objects.look(key, size)
            except ObjectUnreadable:
                lost.append((key,))
    return lost


def _ids(rows: list[tuple[UUID]]) -> str:
    return some_names((key.hex for (key,) in rows), len(rows))
