"""The users of ``popserv user --store sql:FILE``."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

from psycopg import Error

from popserv.auth.accounts.editing import change_account, read_accounts
from popserv.auth.passwords.user_changes import Change
from popserv.auth.passwords.users_file import Users, UsersFileError, parse_user
from popserv.commandline.reacting import run_in_reactor
from popserv.commandline.user_lines import reason_of
from popserv.commandline.user_places import Listing
from popserv.core.printable import one_line
from popserv.database import Database, SchemaError, open_database
from popserv.database.schema import require_schema
from popserv.errors import TryLater
from popserv.runtime.config_files import FileError

Work = Callable[[Database], Awaitable[Any]]


class DatabasePlace:
    """The database of the file of ``--store sql``; see UserPlace."""

    def __init__(self, path: str) -> None:
        self.where = os.path.abspath(path)
        self._path = path

    def change(self, name: bytes, change: Change, *, creates: bool = False) -> None:
        """See UserPlace."""
        self._run(lambda database: change_account(database, name, change))

    def read(self) -> Listing:
        """See UserPlace."""
        records = self._run(read_accounts)
        return Listing(Users([parse_user(*each) for each in records.items()], []), records)

    def _run(self, work: Work) -> Any:
        """Run the reactor until something is done with the database."""
        try:
            return run_in_reactor(_use(open_database(self._path), work))
        except (FileError, SchemaError) as error:
            raise UsersFileError(str(error)) from error
        except (TryLater, Error) as error:
            reason = one_line(reason_of(error)) or "it does not answer"
            problem = f"{self.where}: the database cannot be used: {reason}"
            raise UsersFileError(problem) from error


async def _use(database: Database, work: Work) -> Any:
    try:
        await require_schema(database)
        return await work(database)
    finally:
        await database.close()
