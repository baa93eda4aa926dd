"""The checker of ``--auth sql-store:FILE``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zope.interface import implementer

from popserv.auth.accounts.source import Accounts
from popserv.auth.passwords.checker import SecretsChecker
from popserv.auth.passwords.decoys import Decoys
from popserv.auth.users.user import User
from popserv.core.findings import Finding
from popserv.database import Database, open_database
from popserv.interfaces import IDiagnosed, IPollingChecker


@implementer(IDiagnosed, IPollingChecker)
class AccountsChecker(SecretsChecker):
    """Checks credentials against the users in a database; the other arguments are as there."""

    def __init__(self, database: Database, *args: Any, **settings: Any) -> None:
        self._source: Accounts
        super().__init__(Accounts(database), *args, **settings)
        self._has_shared_decoys = False

    @classmethod
    def from_file(cls, path: str) -> AccountsChecker:
        """Return a checker after reading the file of the store; the database is asked later.

        :raises FileError: the file cannot be used.
        """
        return cls(open_database(path))

    def poll(self) -> None:
        """See :class:`popserv.interfaces.IPollingChecker`."""
        self._source.poll()

    async def find(self, name: bytes) -> User | None:
        """See UserDirectory."""
        if not self._has_shared_decoys:
            # Hosts with salts of their own would show which names are nobody's.
            self._decoys = Decoys(await self._source.decoy_secret())
            self._has_shared_decoys = True
        return await super().find(name)

    async def diagnose(self) -> Iterable[Finding]:
        """See :class:`popserv.interfaces.IDiagnosed`."""
        return await self._source.diagnose()
