"""Changes of the users in a database, for ``popserv user``."""

from __future__ import annotations

from popserv.auth.accounts.statements import ADD, ALL, CHANGE, RECORD, REMOVE
from popserv.auth.passwords.user_changes import Change
from popserv.database import Database


async def change_account(database: Database, name: bytes, change: Change) -> None:
    """Change a user, add or remove one.

    :raises UsersFileError: the change refuses.
    :raises Exception: as :meth:`Database.execute`.
    """
    is_done = False
    while not is_done:
        rows = await database.execute(RECORD, (name,))
        old: bytes | None = rows[0][0] if rows else None
        new = change(old)
        if new == old:
            return
        # Whoever changes the user meanwhile is not overwritten.
        if old is None:
            done = await database.execute(ADD, (name, new), repeat=False, durable=True)
        elif new is None:
            done = await database.execute(REMOVE, (name, old), repeat=False, durable=True)
        else:
            done = await database.execute(CHANGE, (name, old, new), repeat=False, durable=True)
        is_done = bool(done)


async def read_accounts(database: Database) -> dict[bytes, bytes]:
    """Return the records of all users by their names.

    :raises Exception: as :meth:`Database.execute`.
    """
    return dict(await database.execute(ALL))
