"""Changes of the users in a database, for ``popserv user``."""

from __future__ import annotations

from popserv.auth.accounts.statements import ADD, ALL, CHANGE, RECORD, REMOVE
from popserv.auth.names import prepared_name
from popserv.auth.passwords.user_changes import Change
from popserv.database import Database


async def change_account(database: Database, name: bytes, change: Change) -> None:
    """Change a user, add or remove one.

    If there is no such name, its prepared form is looked up.

    :raises UsersFileError: the change refuses.
    :raises Exception: as :meth:`Database.execute`.
    """
    is_done = False
    while not is_done:
        spelling, old = await _find(database, name)
        new = change(old)
        if new == old:
            return
        # Whoever changes the user meanwhile is not overwritten.
        if old is None:
            done = await database.execute(ADD, (spelling, new), repeat=False, durable=True)
        elif new is None:
            done = await database.execute(REMOVE, (spelling, old), repeat=False, durable=True)
        else:
            done = await database.execute(CHANGE, (spelling, old, new), repeat=False, durable=True)
        is_done = bool(done)


async def read_accounts(database: Database) -> dict[bytes, bytes]:
    """Return the records of all users by their names.

    :raises Exception: as :meth:`Database.execute`.
    """
    return dict(await database.execute(ALL))


async def _find(database: Database, name: bytes) -> tuple[bytes, bytes | None]:
    """Return the name as it is in the database, and the user's record, if there is one."""
    # As logins do; popserv user add has written the prepared form.
    for spelling in dict.fromkeys((name, prepared_name(name))):
        rows = await database.execute(RECORD, (spelling,))
        if rows:
            return spelling, rows[0][0]
    return name, None
