"""What the metrics tell of the database, by statements that cost little."""

from __future__ import annotations

from collections.abc import Mapping

from popserv.maildrops.sql.leases import Execute

SURVEY = """
SELECT
    (SELECT reltuples FROM pg_class WHERE oid = 'maildrop'::regclass)::float8,
    (SELECT reltuples FROM pg_class WHERE oid = 'message'::regclass)::float8,
    coalesce((SELECT extract(epoch FROM now() - min(due)) FROM doomed), 0)::float8,
    (SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum'))
"""
"""The numbers of rows as of the last VACUUM or ANALYZE: to count them would read the tables."""


async def survey(execute: Execute) -> Mapping[str, float]:
    """Return what is known; see IMeasuredStore."""
    [(maildrops, messages, delay, standbys)] = await execute(SURVEY)
    return {
        "maildrops": max(0.0, maildrops),
        "messages": max(0.0, messages),
        "collection_delay": max(0.0, delay),
        "standbys": standbys,
    }
