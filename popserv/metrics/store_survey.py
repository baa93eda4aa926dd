"""What only the database of a store knows, which the main process asks for all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred

from popserv.interfaces import IMeasuredStore
from popserv.metrics import catalogue
from popserv.metrics.samples import Samples
from popserv.runtime.regular import RegularWork

INTERVAL = 15.0
"""The mean seconds between two questions."""

MAX_AGE = 60.0
"""The seconds after which what the database has said is told no more."""

_METRICS = {
    "maildrops": catalogue.MAILDROPS,
    "messages": catalogue.MESSAGES,
    "collection_delay": catalogue.COLLECTION_DELAY,
    "standbys": catalogue.STANDBYS,
}


class StoreSurvey(Service):
    """Asks a store from time to time, so that a request for metrics never waits for a database."""

    def __init__(self, store: IMeasuredStore, reactor: Any) -> None:
        self._store = store
        self._reactor = reactor
        problem = "the metrics of the database cannot be read"
        self._regular = RegularWork(self._ask, INTERVAL, reactor, problem)
        self._known: Mapping[str, float] = {}
        self._asked = 0.0

    def startService(self) -> None:
        """Ask for the first time."""
        super().startService()
        self._regular.start(now=True)

    def stopService(self) -> Deferred[None]:
        """Ask no more."""
        super().stopService()
        return Deferred.fromCoroutine(self._regular.stop())

    def samples(self) -> Samples:
        """Return what is known; nothing if the database has not answered for long."""
        if self._reactor.seconds() - self._asked > MAX_AGE:
            return {}
        return {_METRICS[name].name: {(): value} for name, value in self._known.items()}

    async def _ask(self) -> None:
        self._known = await self._store.survey()
        self._asked = self._reactor.seconds()
