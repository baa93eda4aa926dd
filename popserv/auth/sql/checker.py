"""The checker of ``--auth sql:FILE``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.logger import Logger
from zope.interface import implementer

from popserv.auth.passwords.checker import SecretsChecker
from popserv.auth.sql.config import SQLConfig
from popserv.auth.sql.source import SQLUsers
from popserv.core.findings import Finding
from popserv.interfaces import IDiagnosed, IReloadable
from popserv.runtime.config_files import FileError

_log = Logger()


@implementer(IDiagnosed, IReloadable)
class SQLChecker(SecretsChecker):
    """Checks credentials against the users in an SQL database; the arguments are as there."""

    def __init__(self, config: SQLConfig, *args: Any, **settings: Any) -> None:
        self._source: SQLUsers
        super().__init__(SQLUsers(config), *args, **settings)
        self._path = config.path

    @classmethod
    def from_file(cls, path: str) -> SQLChecker:
        """Return a checker after reading its file; the database is asked at the first login.

        :raises FileError: the file cannot be used.
        """
        return cls(SQLConfig(path))

    async def diagnose(self) -> Iterable[Finding]:
        """See :class:`popserv.interfaces.IDiagnosed`."""
        return await self._source.diagnose()

    def reload(self) -> None:
        """See :class:`popserv.interfaces.IReloadable`."""
        try:
            source = SQLUsers(SQLConfig(self._path))
        except FileError as error:
            _log.critical("{error}; the old settings stay in use", error=error)
            return
        self._source.close()
        self._source = source
