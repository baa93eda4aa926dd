"""A shortest time between two logins of one user (RFC 2449 section 6.5)."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from twisted.cred.portal import IRealm
from twisted.internet.defer import Deferred, maybeDeferred
from zope.interface import Interface, implementer

from popserv.errors import LoginTooSoon
from popserv.runtime.bus import WorkerBus

_TOPIC = "logins"


@implementer(IRealm)
class LoginDelayRealm:
    """Another realm, whose avatars are to be had once in so many ``seconds``.

    Only a login that succeeded counts, and only who has proved a name is told of it.
    Other processes of this machine are told by ``exchange``; ``now`` must be a clock that
    all of them see alike.
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
        self._seconds = seconds
        self._now = now
        # In the order of the logins; those long past go first.
        self._logins: OrderedDict[bytes | tuple[()], float] = OrderedDict()
        self._bus = bus or WorkerBus()
        self._bus.subscribe(_TOPIC, self)

    def requestAvatar(
        self, avatarId: bytes | tuple[()], mind: object, *interfaces: type[Interface]
    ) -> Deferred[Any]:
        """Return the realm's avatar.

        :raises LoginTooSoon: the user had it a moment ago.
        """
        now = self._now()
        self._forget(now)
        last = self._logins.get(avatarId)
        # One of which another process told late may stand behind younger ones.
        if last is not None and now - last < self._seconds:
            raise LoginTooSoon(math.ceil(self._seconds - (now - last)))
        asked = maybeDeferred(self._realm.requestAvatar, avatarId, mind, *interfaces)
        return asked.addCallback(self._logged_in, avatarId)

    def receive(self, fact: Any) -> None:
        """Take a login in another process."""
        name, when = fact
        user = () if name is None else name.encode("latin-1")
        if when > self._logins.get(user, -math.inf):
            self._note(user, when)
        self._forget(self._now())

    def replay(self) -> Iterable[Any]:
        """Yield all logins that count still."""
        for user, when in self._logins.items():
            yield _fact(user, when)

    def _logged_in(self, avatar: Any, user: bytes | tuple[()]) -> Any:
        when = self._now()
        self._note(user, when)
        self._bus.publish(_TOPIC, _fact(user, when))
        return avatar

    def _forget(self, now: float) -> None:
        while self._logins and now - next(iter(self._logins.values())) >= self._seconds:
            self._logins.popitem(last=False)

    def _note(self, user: bytes | tuple[()], when: float) -> None:
        self._logins[user] = when
        self._logins.move_to_end(user)


def _fact(user: bytes | tuple[()], when: float) -> Any:
    return [user.decode("latin-1") if isinstance(user, bytes) else None, when]
