"""A minimum time between two logins of one user (LOGIN-DELAY, RFC 2449 section 6.5)."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from twisted.cred.portal import IRealm
from twisted.internet.defer import Deferred, maybeDeferred
from zope.interface import Interface, alsoProvides, implementer

from popserv.auth.names import name_octets
from popserv.errors import LoginTooSoon
from popserv.interfaces import IConfigurableRealm
from popserv.runtime.bus import WorkerBus

_TOPIC = "logins"


@implementer(IRealm)
class LoginDelayRealm:
    """A realm that refuses a user's avatar until ``seconds`` have passed since the last login.

    ``realm`` provides the avatars.  Only logins that it allowed are counted.  A portal calls a
    realm after authentication, so only the user can learn of a recent login.

    ``now`` is a clock in seconds that must be the same for all workers; CLOCK_MONOTONIC is the
    same for all processes of a machine.  ``bus`` connects the server's workers.
    """

    def __init__(
        self,
        realm: IRealm,
        seconds: int,
        now: Callable[[], float] = time.monotonic,
        *,
        bus: WorkerBus | None = None,
    ) -> None:
        self._realm = realm
        if IConfigurableRealm.providedBy(realm):
            alsoProvides(self, IConfigurableRealm)
        self._seconds = seconds
        self._now = now
        # The time of each user's last login; the least recently stored first.
        self._logins: OrderedDict[bytes | tuple[()], float] = OrderedDict()
        self._bus = bus or WorkerBus()
        self._bus.subscribe(_TOPIC, self)

    def requestAvatar(
        self, avatarId: Any, mind: object, *interfaces: type[Interface]
    ) -> Deferred[Any]:
        """Return the realm's avatar; the realm gets ``avatarId`` as it is.

        :raises LoginTooSoon: the delay since the user's last login has not passed.
        """
        now = self._now()
        self._evict_expired(now)
        user = name_octets(avatarId)
        last = self._logins.get(user)
        # An expired login that another worker reported late may not be evicted yet.
        if last is not None and now - last < self._seconds:
            raise LoginTooSoon(math.ceil(self._seconds - (now - last)))
        avatar = maybeDeferred(self._realm.requestAvatar, avatarId, mind, *interfaces)
        return avatar.addCallback(self._record_login, user)

    # The subscriber of the worker bus

    def receive(self, update: Any, offset: float = 0.0) -> None:
        """Store a login at another worker."""
        name, at = update
        at += offset
        user = () if name is None else name.encode("latin-1")
        if at > self._logins.get(user, -math.inf):
            self._store(user, at)
        self._evict_expired(self._now())

    def replay(self) -> Iterable[Any]:
        """Yield the logins that are stored."""
        for user, at in self._logins.items():
            yield _login_update(user, at)

    def _record_login(self, avatar: Any, user: bytes | tuple[()]) -> Any:
        at = self._now()
        self._store(user, at)
        self._bus.publish(_TOPIC, _login_update(user, at))
        return avatar

    def _evict_expired(self, now: float) -> None:
        while self._logins and now - next(iter(self._logins.values())) >= self._seconds:
            self._logins.popitem(last=False)

    def _store(self, user: bytes | tuple[()], at: float) -> None:
        self._logins[user] = at
        self._logins.move_to_end(user)


def _login_update(user: bytes | tuple[()], at: float) -> Any:
    """Return the update for a login; the name is None for an anonymous user."""
    return [user.decode("latin-1") if isinstance(user, bytes) else None, at]
