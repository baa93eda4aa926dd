"""The rules for names with every checker: the default domain, folders, case, the users file.

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
from zope.interface import Interface, alsoProvides, implementer

from popserv.auth.names import (
    CaseInsensitiveNames,
    name_octets,
    prepared_name,
    readings,
    with_domain,
    with_folder,
)
from popserv.auth.passwords.checker import PasswdFileChecker
from popserv.auth.passwords.extra_fields import Client
from popserv.auth.passwords.users_file import User
from popserv.core.printable import printable
from popserv.core.user_folder import UserFolder
from popserv.core.user_settings import NO_SETTINGS, ConfiguredUser, avatar_id
from popserv.interfaces import (
    IAPOPTimestamps,
    ICertificateCredentials,
    ICredentialsSupport,
    IDefaultDomain,
    ISASLRelay,
    ITokenCredentials,
    IUserLookup,
)
from popserv.runtime.coroutines import run_eagerly


def with_client_names(
    checkers: Iterable[ICredentialsChecker], domain: bytes = b"", folder_delimiter: bytes = b""
) -> Sequence[ICredentialsChecker]:
    """Return checkers for the names that clients send.

    ``domain`` is added to names without ``@``, unless it is empty.  If one of the checkers has a
    users file, the other checkers also apply the rules of the users in it.  Unless
    ``folder_delimiter`` is empty, a client can append it and a folder to a user's name; the avatar
    ID is then a :class:`~popserv.core.user_folder.UserFolder`.
    """
    checkers = list(checkers)
    users = next((each for each in checkers if isinstance(each, PasswdFileChecker)), None)
    return [
        checker
        if checker is users and not (domain or folder_delimiter)
        else _ClientNamesChecker(checker, domain, folder_delimiter, users)
        for checker in checkers
    ]


_LISTING = (InMemoryUsernamePasswordDatabaseDontUse, FilePasswordDB)
"""The checkers of Twisted that list their users."""

_OPTIONAL = (ISASLRelay, IAPOPTimestamps)
"""The interfaces that a checker may provide besides, and that its wrapper provides then."""


def tells_names(checker: object) -> bool:
    """Return whether a checker can tell which names it knows."""
    return IUserLookup.providedBy(checker) or isinstance(checker, _LISTING)


@implementer(ICredentialsChecker, ICredentialsSupport)
class _ClientNamesChecker:
    def __init__(
        self,
        checker: Any,
        domain: bytes,
        folder_delimiter: bytes,
        users: PasswdFileChecker | None,
    ) -> None:
        self.credentialInterfaces = checker.credentialInterfaces
        self._checker = checker
        self._domain = domain
        self._delimiter = folder_delimiter
        self._users_file = users
        self._users = None if checker is users else users
        if IDefaultDomain.providedBy(checker):
            checker.default_domain = domain
        alsoProvides(self, *(each for each in _OPTIONAL if each.providedBy(checker)))
        if tells_names(checker):
            alsoProvides(self, IUserLookup)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._checker, name)

    def supports(self, credentials: type[Interface]) -> bool:
        if ICredentialsSupport.providedBy(self._checker):
            return bool(self._checker.supports(credentials))
        return True

    def requestAvatarId(self, credentials: ICredentials) -> Any:
        return run_eagerly(self._check(credentials))

    async def knows(self, name: bytes) -> bool:
        """See :class:`popserv.interfaces.IUserLookup`."""
        for each, _ in readings(with_domain(name, self._domain), self._delimiter):
            if isinstance(self._checker, _LISTING):
                is_known = self._listed(each) in _names_of(self._checker)
            else:
                is_known = await maybeDeferred(self._checker.knows, each)
            if is_known:
                return True
        return False

    async def _check(self, credentials: Any) -> Any:
        meant = [*readings(with_domain(credentials.username, self._domain), self._delimiter)]
        folder = b""
        if len(meant) > 1 and ITokenCredentials.providedBy(credentials):
            avatar, folder = await self._check_token(credentials, meant)
        else:
            credentials.username, folder = self._select(credentials, meant)
            avatar = await maybeDeferred(self._checker.requestAvatarId, credentials)
        avatar = self._maildrop(avatar)
        user = name_octets(avatar)
        if not (folder and isinstance(user, bytes)):
            return avatar
        # For the log and the reply.
        credentials.username = with_folder(credentials.username, self._delimiter, folder)
        settings = avatar.settings if isinstance(avatar, ConfiguredUser) else NO_SETTINGS
        return avatar_id(UserFolder(user, folder), settings)

    async def _check_token(
        self, credentials: Any, meant: Sequence[tuple[bytes, bytes]]
    ) -> tuple[bytes, bytes]:
        """Return the avatar ID of the user to whom a token belongs, and the folder.

        Only the token tells which of the names that the client may mean is the user's.
        """
        credentials.username = b""
        avatar = await maybeDeferred(self._checker.requestAvatarId, credentials)
        user = name_octets(avatar) or b""
        folder = dict(meant).get(user)
        if folder is None:
            await credentials.refuse({"status": "invalid_token"})
            raise UnauthorizedLogin(f'the token belongs to the user "{printable(user)}"')
        return user, folder

    def _select(
        self, credentials: Any, meant: Sequence[tuple[bytes, bytes]]
    ) -> tuple[bytes, bytes]:
        """Return the name of the user whom a client means, as the checker knows it, and the folder.

        If no user is known by any of the names, it is the shortest one: all folders of an unknown
        user then have one decoy, like those of a user.
        """
        if ITokenCredentials.providedBy(credentials):
            # The name that comes with a token must be exactly that of the token.
            return meant[0]
        if ICertificateCredentials.providedBy(credentials):
            # The exchange has compared the names with the certificate.
            return next((each for each in meant if each[0] in credentials.names), meant[0])
        known = (each for each in meant[:-1] if self._is_known(each[0]))
        name, folder = next(known, meant[-1])
        return self._listed(name), folder

    def _maildrop(self, avatar: Any) -> Any:
        """Return the avatar ID after the rules of the users file.

        :raises UnauthorizedLogin: they refuse the user.
        """
        user = self._find(avatar)
        if user is None:
            return avatar
        refusal = user.rules.refusal_of(Client.current(), time.time())
        if refusal:
            raise UnauthorizedLogin(refusal)
        settings = user.rules.settings
        if isinstance(avatar, ConfiguredUser):
            if settings not in (NO_SETTINGS, avatar.settings):
                raise UnauthorizedLogin("the user has settings in two places, which differ")
            settings = avatar.settings
        return avatar_id(user.maildrop, settings)

    def _find(self, name: object) -> User | None:
        """Return the user of the users file, if that is not the file of this checker."""
        octets = name.name if isinstance(name, ConfiguredUser) else name
        return self._users.find(octets) if self._users and isinstance(octets, bytes) else None

    def _is_known(self, name: bytes) -> bool:
        """Return whether a client may mean a user by a name, as far as there is a list of users."""
        names = CaseInsensitiveNames(_names_of(self._checker))
        is_in_file = self._users_file is not None and self._users_file.find(name) is not None
        return is_in_file or names.find(name, prepared_name(name)) is not None

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
