"""The rules for names with every checker: the default domain, folders, case, users' own rules.

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

from popserv.auth.credentials import is_named
from popserv.auth.names import (
    CaseInsensitiveNames,
    name_octets,
    prepared_name,
    readings,
    with_domain,
    with_folder,
)
from popserv.auth.users.user import User, UserDirectory
from popserv.core.connection_details import connection_details
from popserv.core.printable import printable
from popserv.core.user_folder import INBOX, avatar_id_of
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
    checkers: Iterable[ICredentialsChecker],
    domain: bytes = b"",
    folder_delimiter: bytes = b"",
    folder: bytes = INBOX,
) -> Sequence[ICredentialsChecker]:
    """Return checkers for the names that clients send.

    ``domain`` is added to names without ``@``, unless it is empty.  Unless ``folder_delimiter`` is
    empty, a client can append it and a folder to a user's name; the avatar ID is then a
    :class:`~popserv.core.user_folder.UserFolder`, unless it is ``folder``, the folder of
    names that name none.

    A checker of tokens or hosts also applies the rules of the first of the others that knows the
    user.  One that cannot look users up itself applies those of the checkers before it: it may
    return another user than the client has named.
    """
    checkers = list(checkers)
    directories = [each for each in checkers if isinstance(each, UserDirectory)]
    before: list[UserDirectory] = []
    wrapped: list[ICredentialsChecker] = []
    for checker in checkers:
        if not isinstance(checker, UserDirectory):
            others = tuple(before) if is_named(checker) else directories
            wrapped.append(_ClientNamesChecker(checker, domain, folder_delimiter, folder, others))
            continue
        before.append(checker)
        if domain or folder_delimiter:
            checker = _ClientNamesChecker(checker, domain, folder_delimiter, folder, ())
        wrapped.append(checker)
    return wrapped


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
        folder: bytes,
        directories: Sequence[UserDirectory],
    ) -> None:
        self._checker = checker
        self._domain = domain
        self._delimiter = folder_delimiter
        self._folder = folder
        self._directories = directories
        self._is_named = is_named(checker)
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
            if await self._knows(each):
                return True
        return False

    async def _knows(self, name: bytes) -> bool:
        """Return whether the checker knows a user by a name, as far as it can tell."""
        if IUserLookup.providedBy(self._checker):
            return bool(await maybeDeferred(self._checker.knows, name))
        return self._listed(name) is not None

    async def _check(self, credentials: Any) -> Any:
        meant = [*readings(with_domain(credentials.username, self._domain), self._delimiter)]
        if ITokenCredentials.providedBy(credentials):
            avatar, folder = await self._check_token(credentials, meant)
            avatar = await self._maildrop(avatar)
        else:
            avatar, folder = await self._check_name(credentials, meant)
        user = name_octets(avatar)
        if not (folder and isinstance(user, bytes)):
            return avatar
        # For the log and the reply.
        credentials.username = with_folder(credentials.username, self._delimiter, folder)
        settings = avatar.settings if isinstance(avatar, ConfiguredUser) else NO_SETTINGS
        return avatar_id(avatar_id_of(user, folder, self._folder), settings)

    async def _check_name(
        self, credentials: Any, meant: Sequence[tuple[bytes, bytes]]
    ) -> tuple[Any, bytes]:
        """Return the avatar ID of the user whom a client has named, and the folder."""
        name, folder = await self._select(credentials, meant)
        credentials.username = name
        avatar = await maybeDeferred(self._checker.requestAvatarId, credentials)
        # In the order of checkers, the others do not know the name that the client has sent.
        if not self._is_named or name_octets(avatar) != name:
            avatar = await self._maildrop(avatar)
        return avatar, folder

    async def _check_token(
        self, credentials: Any, meant: Sequence[tuple[bytes, bytes]]
    ) -> tuple[Any, bytes]:
        """Return the avatar ID of the user to whom a token belongs, and the folder.

        The name that comes with a token must be exactly that of the token.  If the client may mean
        several names, only the token tells which of them is the user's.
        """
        (name, folder), *others = meant
        credentials.username = b"" if others else name
        avatar = await maybeDeferred(self._checker.requestAvatarId, credentials)
        if not others:
            return avatar, folder
        user = name_octets(avatar)
        for name, folder in meant:
            if name == user:
                return avatar, folder
        await credentials.refuse({"status": "invalid_token"})
        raise UnauthorizedLogin(f'the token belongs to the user "{printable(user or b"")}"')

    async def _select(
        self, credentials: Any, meant: Sequence[tuple[bytes, bytes]]
    ) -> tuple[bytes, bytes]:
        """Return the name of the user whom a client means, as the checker knows it, and the folder.

        If no user is known by any of the names, it is the shortest one: all folders of an unknown
        user then have one decoy, like those of a user.
        """
        if ICertificateCredentials.providedBy(credentials):
            # The exchange has compared the names with the certificate.
            return next((each for each in meant if each[0] in credentials.names), (b"", b""))
        *longer, (name, folder) = meant
        for each in longer:
            if await self._knows(each[0]) or await self._is_known(each[0]):
                name, folder = each
                break
        user = None if self._is_named else await self._find(name)
        name = name if user is None else user.name
        return self._listed(name) or name, folder

    async def _maildrop(self, avatar: Any) -> Any:
        """Return the avatar ID after the rules that others have for the user.

        :raises UnauthorizedLogin: they refuse the user.
        """
        user = await self._find(name_octets(avatar))
        if user is None:
            return avatar
        refusal = user.rules.refusal_of(connection_details.get(), time.time())
        if refusal:
            raise UnauthorizedLogin(refusal)
        settings = user.rules.settings
        if isinstance(avatar, ConfiguredUser):
            if settings not in (NO_SETTINGS, avatar.settings):
                raise UnauthorizedLogin("the user has settings in two places, which differ")
            settings = avatar.settings
        return avatar_id(user.maildrop, settings)

    async def _is_known(self, name: bytes) -> bool:
        """Return whether another checker knows a user by a name, unless it was asked before."""
        return not self._is_named and await self._find(name) is not None

    async def _find(self, name: bytes | tuple[()]) -> User | None:
        """Return the user whom another checker knows by a name."""
        if isinstance(name, bytes):
            for directory in self._directories:
                user = await directory.find(name)
                if user is not None:
                    return user
        return None

    def _listed(self, name: bytes) -> bytes | None:
        """Return the name that a client means in a list of users, or None."""
        return listed_name(self._checker, name)


def listed_name(checker: object, name: bytes) -> bytes | None:
    """Return the name that is meant among the users whom a checker of Twisted lists, or None."""
    return CaseInsensitiveNames(_names_of(checker)).find(name, prepared_name(name))


def _names_of(checker: Any) -> Sequence[bytes]:
    """Return the names that a checker of Twisted lists."""
    if isinstance(checker, InMemoryUsernamePasswordDatabaseDontUse):
        return list(checker.users)
    if isinstance(checker, FilePasswordDB):
        return [name for name, _ in checker._loadCredentials()]
    return ()
