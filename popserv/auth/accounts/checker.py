"""The checker of ``--auth sql-store:FILE``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zope.interface import implementer

from popserv.auth.accounts.source import Accounts
from popserv.auth.passwords.checker import SecretsChecker
from popserv.auth.passwords.decoys import Decoys
from popserv.core.findings import Finding
from popserv.database import Database, open_database
from popserv.interfaces import IDiagnosed, IPollingChecker


@implementer(IDiagnosed, IPollingChecker)
class AccountsChecker(SecretsChecker):
    """Checks credentials against the users in a database; the other arguments are as there."""

    def __init__(self, database: Database, *args: Any, **settings: Any) -> None:
        self._source: Accounts
        super().__init__(Accounts(database), *args, **settings)
        # Those of the store are the same, if it is in this database.
        self.use_decoys(Decoys(self._source.decoy_secret))

    @classmethod
    def from_file(cls, path: str) -> AccountsChecker:
        """Return a checker after reading the file of the store; the database is asked later.

        :raises FileError: the file cannot be used.
        """
        return cls(open_database(path))

    def poll(self) -> None:
        """See :class:`popserv.interfaces.IPollingChecker`."""
        self._source.poll()

    async def diagnose(self) -> Iterable[Finding]:
        """See :class:`popserv.interfaces.IDiagnosed`."""
        return await self._source.diagnose()
