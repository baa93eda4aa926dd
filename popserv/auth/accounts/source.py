"""The users in the table ``account``: a statement for each login."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg import Error

from popserv.auth.accounts.statements import ALL, FIND, SAMPLES
from popserv.auth.names import CaseInsensitiveNames, prepared_name
from popserv.auth.passwords.diagnosis import diagnose_users
from popserv.auth.passwords.schemes import new_scram_sha256
from popserv.auth.passwords.users_file import Users, parse_user
from popserv.auth.users.outages import Outages, ServerUnavailable
from popserv.auth.users.user import User
from popserv.core.findings import Finding, error
from popserv.core.printable import one_line
from popserv.database import Database, SchemaError
from popserv.database.schema import require_schema
from popserv.database.settings import shared_secret
from popserv.errors import TryLater

POLL_INTERVAL = 10.0
"""The seconds after which the password schemes of the users are looked up again."""

SAMPLES_OF_SCHEME = 16
"""How many users of each scheme have secrets from which decoys are chosen."""


class Accounts:
    """The users in a database; see :class:`popserv.auth.passwords.sources.UserSource`.

    Before the database was asked, users are taken to have the secrets that ``popserv user`` makes.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._outages = Outages(f"{database.config.path}: the database")
        self._samples = Users([parse_user(b"", new_scram_sha256(b""))], [])

    def poll(self) -> None:
        """Look up the password schemes of the users regularly; those of the samples count."""
        problem = "what the secrets of users are cannot be looked up"
        self._database.work_regularly(self.read_samples, POLL_INTERVAL, problem)

    async def read_samples(self) -> None:
        """Look up the password schemes of the users.

        :raises popserv.errors.TryLater: the database cannot be asked.
        """
        self._samples = _users(await self._ask(SAMPLES, (SAMPLES_OF_SCHEME,)))

    def secrets(self) -> Users:
        """See UserSource: the first users of each scheme, the same on all hosts."""
        return self._samples

    async def find(self, name: bytes) -> User | None:
        """See UserSource."""
        spellings = name, prepared_name(name)
        rows = await self._ask(FIND, spellings)
        records: dict[bytes, bytes] = dict(rows)
        found = CaseInsensitiveNames(records).find(*spellings)
        return None if found is None else parse_user(found, records[found])

    async def decoy_secret(self) -> bytes:
        """Return the secret of decoys, which is that of all hosts.

        :raises popserv.errors.TryLater: the database cannot be asked.
        """
        return await self._outages.watch(self._read_decoy_secret())

    async def diagnose(self) -> list[Finding]:
        """Return what is wrong with the database; see IDiagnosed."""
        path = self._database.config.path
        try:
            await require_schema(self._database)
            rows = await self._database.execute(ALL)
        except (SchemaError, TryLater, Error) as problem:
            what = one_line(str(problem.__cause__ or problem))
            remedy = "start the database, or correct conninfo"
            return [error("sql", path, f"the database cannot be asked: {what}", remedy)]
        return diagnose_users(path, _users(rows))

    async def _read_decoy_secret(self) -> bytes:
        try:
            await require_schema(self._database)
            return await shared_secret(self._database, "decoys")
        except (SchemaError, Error) as problem:
            raise ServerUnavailable(str(problem)) from problem

    async def _ask(self, statement: str, parameters: Sequence[Any]) -> list[Any]:
        return await self._outages.watch(self._execute(statement, parameters))

    async def _execute(self, statement: str, parameters: Sequence[Any]) -> list[Any]:
        try:
            return await self._database.execute(statement, parameters)
        except Error as problem:
            raise ServerUnavailable(str(problem)) from problem


def _users(rows: Sequence[tuple[bytes, bytes]]) -> Users:
    return Users([parse_user(name, record) for name, record in rows], [])
