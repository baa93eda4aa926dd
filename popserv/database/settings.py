"""What the hosts that share a database must agree about: the table ``setting``."""

from __future__ import annotations

import os

from popserv.database.pool import Database

_FIND = "SELECT value FROM setting WHERE name = $1::text"

_ADD = """
INSERT INTO setting (name, value) VALUES ($1::text, $2::bytea) ON CONFLICT (name) DO NOTHING
"""


async def shared_secret(database: Database, name: str) -> bytes:
    """Return the 32 random octets of a name, which whoever asks first makes.

    :raises Exception: as :meth:`Database.execute`.
    """
    rows = await database.execute(_FIND, (name,))
    if not rows:
        await database.execute(_ADD, (name, os.urandom(32)), durable=True)
        rows = await database.execute(_FIND, (name,))
    secret: bytes
    [(secret,)] = rows
    return secret
