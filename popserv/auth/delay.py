"""A shortest time between two logins of one user (RFC 2449 section 6.5)."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from twisted.cred.portal import IRealm
from twisted.internet.defer import Deferred, maybeDeferred
from zope.interface import Interface, implementer

from popserv.errors import LoginTooSoon


@implementer(IRealm)
class LoginDelayRealm:
    """Another realm, whose avatars are to be had once in so many ``seconds``.

    Only a login that succeeded counts, and only who has proved a name is told of it.
    """

    def __init__(
        self, realm: IRealm, seconds: int, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._realm = realm
        self._seconds = seconds
        self._now = now
        # In the order of the logins; those long past go first.
        self._logins: OrderedDict[bytes | tuple[()], float] = OrderedDict()

    def requestAvatar(
        self, avatarId: bytes | tuple[()], mind: object, *interfaces: type[Interface]
    ) -> Deferred[Any]:
        """Return the realm's avatar.

        :raises LoginTooSoon: the user had it a moment ago.
        """
        now = self._now()
        while self._logins and now - next(iter(self._logins.values())) >= self._seconds:
            self._logins.popitem(last=False)
        last = self._logins.get(avatarId)
        if last is not None:
            raise LoginTooSoon(math.ceil(self._seconds - (now - last)))
        asked = maybeDeferred(self._realm.requestAvatar, avatarId, mind, *interfaces)
        return asked.addCallback(self._logged_in, avatarId)

    def _logged_in(self, avatar: Any, user: bytes | tuple[()]) -> Any:
        self._logins[user] = self._now()
        self._logins.move_to_end(user)
        return avatar
