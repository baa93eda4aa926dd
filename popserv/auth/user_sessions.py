"""The sessions of each user: their number, and maildrops whose client is gone."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from inspect import isawaitable
from typing import Any

from twisted.cred.portal import IRealm
from twisted.internet import defer
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure
from zope.interface import Interface, alsoProvides, implementer

from popserv.auth.names import name_octets
from popserv.auth.realm import Avatar
from popserv.core.holder import Holder, client_holder
from popserv.core.user_settings import ConfiguredUser
from popserv.errors import MaildropBusy
from popserv.interfaces import IConfigurableRealm
from popserv.runtime.bus import WorkerBus

MAX_SESSIONS = 10
"""The default of ``--max-user-sessions``."""

RELEASE_TIMEOUT = 5.0
"""Seconds in which the session of a client that is gone must release its maildrop."""
ANSWER_TIMEOUT = 10.0
"""Seconds in which another worker finds out whether the client of a session is gone."""

_TOPIC = "hand-over"


class _Login:
    """A login of a user, which has the maildrop open once it has the avatar.

    It is the logout function of that avatar.  There is one for each client that is logged in.
    """

    __slots__ = ("_logout", "_realm", "holder", "is_open", "user")

    _logout: Callable[[], Any]

    def __init__(self, realm: UserSessionsRealm, user: bytes, holder: Holder) -> None:
        self.user = user
        self.holder = holder
        self.is_open = False
        self._realm = realm

    def opened(self, avatar: Avatar) -> Avatar:
        interface, mailbox, self._logout = avatar
        self.is_open = True
        return interface, mailbox, self

    async def __call__(self) -> None:
        try:
            outcome = self._logout()
            if isawaitable(outcome):
                await outcome
        finally:
            self._realm._remove(self)


@implementer(IRealm)
class UserSessionsRealm:
    """A realm that knows which connection has which maildrop open.

    If a maildrop is locked by a session of this server whose client is gone, that session is ended,
    and the new login gets the maildrop.  The session of a client that is there keeps it.

    A user can have ``max_sessions`` sessions in this process, or as many as the user's settings
    say, logins under way included.  With the stores of popserv only one of them can have the
    maildrop; the others wait for it, or for the answer of a client that may be gone.

    :param realm: provides the avatars; it is called after authentication, so that only the user can
        learn of another session.
    """

    def __init__(
        self,
        realm: IRealm,
        max_sessions: int = MAX_SESSIONS,
        *,
        bus: WorkerBus | None = None,
        reactor: Any = None,
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor
        self._realm = realm
        if IConfigurableRealm.providedBy(realm):
            alsoProvides(self, IConfigurableRealm)
        self._max_sessions = max_sessions
        self._reactor = reactor
        self._bus = bus or WorkerBus()
        self._logins: dict[bytes, list[_Login]] = {}
        # The users for whose sessions the server finds out whether the client is gone.
        self._handing_over: dict[bytes, list[Deferred[bool]]] = {}
        self._released: dict[_Login, Deferred[None]] = {}
        self._bus.answer(_TOPIC, self._answer)

    def requestAvatar(
        self, avatarId: Any, mind: object, *interfaces: type[Interface]
    ) -> Avatar | Deferred[Avatar]:
        """Return the realm's avatar; the realm gets ``avatarId`` as it is.

        :raises MaildropBusy: the user has too many sessions, or one that keeps the maildrop.
        """
        user, holder = name_octets(avatarId), client_holder.get()
        request = partial(self._realm.requestAvatar, avatarId, mind, *interfaces)
        if holder is None or not isinstance(user, bytes):
            avatar: Avatar | Deferred[Avatar] = request()
            return avatar
        logins = self._logins.setdefault(user, [])
        if len(logins) >= self._maximum(avatarId):
            raise MaildropBusy("you have too many sessions")
        login = _Login(self, user, holder)
        logins.append(login)
        try:
            outcome = request()
        except MaildropBusy as error:
            outcome = defer.fail(error)
        except BaseException:
            self._remove(login)
            raise
        if isinstance(outcome, tuple):
            return login.opened(outcome)
        # A coroutine would cost another Deferred, whatever the outcome is.
        run = copy_context().run
        return outcome.addCallbacks(
            login.opened, lambda failure: run(self._failed, login, request, failure)
        )

    def _maximum(self, avatar_id: object) -> int:
        if isinstance(avatar_id, ConfiguredUser) and avatar_id.settings.max_user_sessions:
            return avatar_id.settings.max_user_sessions
        return self._max_sessions

    def _failed(
        self, login: _Login, request: Callable[[], Any], failure: Failure
    ) -> Failure | Deferred[Avatar]:
        """Try again if that may help, in the context of the login."""
        if failure.check(MaildropBusy):
            return Deferred.fromCoroutine(self._try_again(login, request, failure))
        self._remove(login)
        return failure

    async def _try_again(
        self, login: _Login, request: Callable[[], Any], failure: Failure
    ) -> Avatar:
        try:
            if not await self._take_over(login.user):
                failure.raiseException()
            avatar = await maybeDeferred(request)
        except BaseException:
            self._remove(login)
            raise
        return login.opened(avatar)

    def _remove(self, login: _Login) -> None:
        logins = self._logins[login.user]
        logins.remove(login)
        if not logins:
            del self._logins[login.user]
        released = self._released.pop(login, None)
        if released is not None:
            released.callback(None)

    # Handing over

    async def _take_over(self, user: bytes) -> bool:
        """Return whether the maildrop was released by a session whose client is gone."""
        if self._has_open(user):
            return await self._release(user)
        answers = await self._bus.ask_others(_TOPIC, user.decode("latin-1"), ANSWER_TIMEOUT)
        return any(answers.given)

    def _answer(self, name: str) -> Deferred[bool]:
        return Deferred.fromCoroutine(self._release(name.encode("latin-1")))

    def _has_open(self, user: bytes) -> bool:
        return any(login.is_open for login in self._logins.get(user, ()))

    async def _release(self, user: bytes) -> bool:
        """End the sessions of this process whose client is gone; return whether all are."""
        waiting = self._handing_over.get(user)
        if waiting is not None:
            # One login finds out for all.
            found: Deferred[bool] = Deferred()
            waiting.append(found)
            return await found
        waiting = self._handing_over[user] = []
        is_released = False
        try:
            is_released = await self._release_each(user)
        finally:
            del self._handing_over[user]
            for each in waiting:
                each.callback(is_released)
        return is_released

    async def _release_each(self, user: bytes) -> bool:
        opened = [login for login in self._logins.get(user, ()) if login.is_open]
        for login in opened:
            if not await login.holder.is_gone():
                return False
        for login in opened:
            if login in self._logins.get(user, ()):
                released: Deferred[None] = Deferred()
                self._released[login] = released
                login.holder.replace()
                try:
                    await released.addTimeout(RELEASE_TIMEOUT, self._reactor)
                except defer.TimeoutError:
                    return False
        return bool(opened)
