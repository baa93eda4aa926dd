"""The rules for names with every checker: the default domain, case, the users file.

:func:`with_client_names` wraps the checkers of a portal where that is needed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from twisted.cred.checkers import (
    FilePasswordDB,
    ICredentialsChecker,
    InMemoryUsernamePasswordDatabaseDontUse,
)
from twisted.cred.credentials import ICredentials
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import maybeDeferred
from zope.interface import Interface, implementer

from popserv.auth.names import CaseInsensitiveNames, prepared_name, with_domain
from popserv.auth.passwords.checker import PasswdFileChecker
from popserv.auth.passwords.users_file import User
from popserv.core.session import client_address
from popserv.interfaces import ICredentialsSupport, IDefaultDomain, ITokenCredentials
from popserv.runtime.coroutines import run_eagerly


def with_client_names(
    checkers: Iterable[ICredentialsChecker], domain: bytes = b""
) -> Sequence[ICredentialsChecker]:
    """Return checkers for the names that clients send.

    ``domain`` is added to names without ``@``, unless it is empty.  If one of the checkers has a
    users file, the other checkers also apply the rules of the users in it.
    """
    checkers = list(checkers)
    users = next((each for each in checkers if isinstance(each, PasswdFileChecker)), None)
    return [
        checker if checker is users and not domain else _ClientNamesChecker(checker, domain, users)
        for checker in checkers
    ]


@implementer(ICredentialsChecker, ICredentialsSupport)
class _ClientNamesChecker:
    def __init__(self, checker: Any, domain: bytes, users: PasswdFileChecker | None) -> None:
        self.credentialInterfaces = checker.credentialInterfaces
        self._checker = checker
        self._domain = domain
        self._users = None if checker is users else users
        if IDefaultDomain.providedBy(checker):
            checker.default_domain = domain

    def supports(self, credentials: type[Interface]) -> bool:
        if ICredentialsSupport.providedBy(self._checker):
            return bool(self._checker.supports(credentials))
        return True

    def requestAvatarId(self, credentials: ICredentials) -> Any:
        return run_eagerly(self._check(credentials))

    async def _check(self, credentials: Any) -> Any:
        credentials.username = with_domain(credentials.username, self._domain)
        if not ITokenCredentials.providedBy(credentials):
            # The name that comes with a token must be exactly that of the token.
            credentials.username = self._listed(credentials.username)
        avatar = await maybeDeferred(self._checker.requestAvatarId, credentials)
        user = self._find(avatar)
        if user is None:
            return avatar
        refusal = user.rules.refusal_of(client_address.get(), time.time())
        if refusal:
            raise UnauthorizedLogin(refusal)
        return user.maildrop

    def _find(self, name: object) -> User | None:
        """Return the user of the users file, if that is not the file of this checker."""
        return self._users.find(name) if self._users and isinstance(name, bytes) else None

    def _listed(self, name: bytes) -> bytes:
        """Return the name that a client means in the list of users, if there is one."""
        user = self._find(name)
        if user is not None:
            name = user.name
        names = CaseInsensitiveNames(_names_of(self._checker))
        return names.find(name, prepared_name(name)) or name


def _names_of(checker: Any) -> Sequence[bytes]:
    """Return the names that a checker of Twisted lists."""
    if isinstance(checker, InMemoryUsernamePasswordDatabaseDontUse):
        return list(checker.users)
    if isinstance(checker, FilePasswordDB):
        return [name for name, _ in checker._loadCredentials()]
    return ()
