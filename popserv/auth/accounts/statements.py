"""The statements about the table ``account``."""

FIND = """
SELECT name, record FROM account WHERE any_case IN (
    lower(encode($1::bytea, 'escape') COLLATE "C"), lower(encode($2::bytea, 'escape') COLLATE "C")
)
"""
"""Those whose name is one of two spellings, but for the case of letters.  Parameters: these."""

SAMPLES = """
WITH RECURSIVE schemes AS (
    SELECT min(scheme) AS scheme FROM account WHERE scheme IS NOT NULL
    UNION ALL
    SELECT (SELECT min(scheme) FROM account WHERE scheme > schemes.scheme)
    FROM schemes WHERE scheme IS NOT NULL
)
SELECT sample.name, sample.record FROM schemes, LATERAL (
    SELECT name, record FROM account WHERE scheme = schemes.scheme
    ORDER BY name LIMIT $1::bigint
) AS sample
"""
"""The first users of each password scheme.  Parameter: how many of each.

It reads the index at as many places as there are schemes, however many users there are.
"""

ALL = "SELECT name, record FROM account ORDER BY name"

RECORD = "SELECT record FROM account WHERE name = $1::bytea"
"""Parameter: name."""

ADD = """
INSERT INTO account (name, record) VALUES ($1::bytea, $2::bytea)
ON CONFLICT (name) DO NOTHING RETURNING name
"""
"""Parameters: name, record.  No row: there is such a user."""

CHANGE = """
UPDATE account SET record = $3::bytea, changed = now()
WHERE name = $1::bytea AND record = $2::bytea RETURNING name
"""
"""Parameters: name, record, new record.  No row: the record has changed."""

REMOVE = "DELETE FROM account WHERE name = $1::bytea AND record = $2::bytea RETURNING name"
"""Parameters: name, record.  No row: the record has changed."""
