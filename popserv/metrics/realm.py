"""A realm that measures how long the store takes; only servers with ``--metrics`` have it."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from twisted.cred.portal import IRealm
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import Interface, implementer

from popserv.auth.realm import Avatar
from popserv.errors import MaildropBusy
from popserv.interfaces import IConfigurableRealm
from popserv.metrics import catalogue
from popserv.metrics.counters import Counters


@implementer(IRealm, IConfigurableRealm)
class MeasuredRealm:
    """Another realm, such as MaildropRealm, of which openings and failures are counted.

    A maildrop that another session has open is no failure.
    """

    def __init__(self, realm: IRealm, counters: Counters) -> None:
        self._realm = realm
        self._counters = counters

    def requestAvatar(
        self, avatarId: Any, mind: object, *interfaces: type[Interface]
    ) -> Avatar | Deferred[Avatar]:
        """Return the realm's avatar; see IRealm."""
        started = perf_counter()
        try:
            outcome: Any = self._realm.requestAvatar(avatarId, mind, *interfaces)
        except Exception:
            self._failed(Failure())
            raise
        if isinstance(outcome, Deferred):
            return outcome.addCallbacks(self._opened, self._failed, (started,))
        avatar: Avatar = self._opened(outcome, started)
        return avatar

    def _opened(self, avatar: Any, started: float) -> Any:
        self._counters.observe(catalogue.OPEN_SECONDS, perf_counter() - started)
        return avatar

    def _failed(self, failure: Failure) -> Failure:
        if not failure.check(MaildropBusy):
            self._counters.add(catalogue.STORE_ERRORS, ("open",))
        return failure
