"""Stops stores that have something to end, such as locks in a database, in the right order."""

from __future__ import annotations

from typing import Any

from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger

from popserv.interfaces import IMaildropFactory, IStoppingStore

_log = Logger()


class StoreService(MultiService):
    """Stops a store once the service that uses it has stopped."""

    def __init__(self, store: IStoppingStore, user: IService) -> None:
        super().__init__()
        self._store = store
        user.setServiceParent(self)

    def stopService(self) -> Deferred[Any]:
        """Stop the service that uses the store, and then the store."""
        return maybeDeferred(super().stopService).addBoth(
            lambda result: Deferred.fromCoroutine(_stop(self._store)).addCallback(lambda _: result)
        )


def stop_with_reactor(store: IMaildropFactory, reactor: Any = None) -> None:
    """Have a store stop when the reactor does, in a process in which nothing uses it then."""
    if IStoppingStore.providedBy(store):
        if reactor is None:
            from twisted.internet import reactor
        reactor.addSystemEventTrigger(
            "before", "shutdown", lambda: Deferred.fromCoroutine(_stop(store))
        )


async def _stop(store: Any) -> None:
    try:
        await store.stop()
    except Exception:
        _log.failure("the store cannot be stopped in order")
