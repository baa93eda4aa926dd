"""The sessions of each user: their number, and maildrops whose client is gone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import isawaitable
from typing import Any

from twisted.cred.portal import IRealm
from twisted.internet import defer
from twisted.internet.defer import Deferred, maybeDeferred
from zope.interface import Interface, alsoProvides, implementer

from popserv.auth.names import name_octets
from popserv.auth.realm import Avatar
from popserv.core.holder import Holder, client_holder
from popserv.core.user_settings import ConfiguredUser
from popserv.errors import MaildropBusy
from popserv.interfaces import IConfigurableRealm
from popserv.runtime.bus import WorkerBus
from popserv.runtime.coroutines import run_eagerly

MAX_SESSIONS = 10
"""The default of ``--max-user-sessions``."""

RELEASE_TIMEOUT = 5.0
"""Seconds in which the session of a client that is gone must release its maildrop."""
ANSWER_TIMEOUT = 10.0
"""Seconds in which another worker finds out whether the client of a session is gone."""

_TOPIC = "hand-over"


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
        # For each user the connections, and whether each has the maildrop open.
        self._holders: dict[bytes, dict[Holder, bool]] = {}
        # The users for whose sessions the server finds out whether the client is gone.
        self._handing_over: dict[bytes, list[Deferred[bool]]] = {}
        self._released: dict[Holder, Deferred[None]] = {}
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
        holders = self._holders.setdefault(user, {})
        if len(holders) >= self._maximum(avatarId):
            raise MaildropBusy("you have too many sessions")
        holders[holder] = False
        try:
            outcome = request()
        except MaildropBusy as error:
            outcome = defer.fail(error)
        except BaseException:
            self._remove(user, holder)
            raise
        if isinstance(outcome, tuple):
            return self._opened(user, holder, outcome)
        return run_eagerly(self._wait(user, holder, request, outcome))

    def _maximum(self, avatar_id: object) -> int:
        if isinstance(avatar_id, ConfiguredUser) and avatar_id.settings.max_user_sessions:
            return avatar_id.settings.max_user_sessions
        return self._max_sessions

    async def _wait(
        self, user: bytes, holder: Holder, request: Callable[[], Any], outcome: Deferred[Avatar]
    ) -> Avatar:
        try:
            try:
                avatar = await outcome
            except MaildropBusy:
                if not await self._take_over(user):
                    raise
                avatar = await maybeDeferred(request)
        except BaseException:
            self._remove(user, holder)
            raise
        return self._opened(user, holder, avatar)

    def _opened(self, user: bytes, holder: Holder, opened: Avatar) -> Avatar:
        interface, avatar, logout = opened
        self._holders[user][holder] = True
        return interface, avatar, partial(self._log_out, user, holder, logout)

    async def _log_out(self, user: bytes, holder: Holder, logout: Callable[[], Any]) -> None:
        try:
            outcome = logout()
            if isawaitable(outcome):
                await outcome
        finally:
            self._remove(user, holder)

    def _remove(self, user: bytes, holder: Holder) -> None:
        holders = self._holders[user]
        del holders[holder]
        if not holders:
            del self._holders[user]
        released = self._released.pop(holder, None)
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
        return any(self._holders.get(user, {}).values())

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
        opened = [each for each, is_open in self._holders.get(user, {}).items() if is_open]
        for holder in opened:
            if not await holder.is_gone():
                return False
        for holder in opened:
            if holder in self._holders.get(user, {}):
                released: Deferred[None] = Deferred()
                self._released[holder] = released
                holder.replace()
                try:
                    await released.addTimeout(RELEASE_TIMEOUT, self._reactor)
                except defer.TimeoutError:
                    del self._released[holder]
                    return False
        return bool(opened)
