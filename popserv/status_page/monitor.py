"""Samples the metrics of a server, and tells what its page shows."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from twisted.application.internet import TimerService
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from popserv.control.overview import Overview, Overviews
from popserv.metrics.totals import ServerMetrics, Snapshot
from popserv.status_page.contents import MAX_CERTIFICATES, MAX_SESSIONS, Contents
from popserv.status_page.history import INTERVAL
from popserv.status_page.rates import make_history, measure, plots

_log = Logger()


class Monitor(TimerService):
    """A service that samples the metrics while it runs.

    :param host: the server's name.
    """

    def __init__(
        self, metrics: ServerMetrics, overviews: Overviews, host: str, reactor: Any = None
    ) -> None:
        super().__init__(INTERVAL, self._sample)
        if reactor is None:
            from twisted.internet import reactor
        self.clock = self._reactor = reactor
        self._metrics = metrics
        self._overviews = overviews
        self._host = host
        self._history = make_history()

    def contents(self, refreshes: bool) -> Deferred[Contents]:
        """Return what the page shows now; see Contents."""
        asked = self._overviews.ask(MAX_SESSIONS, MAX_CERTIFICATES)
        return asked.addCallback(self._contents, refreshes)

    def _contents(self, overview: Overview, refreshes: bool) -> Contents:
        return Contents(
            datetime.now(timezone.utc),
            self._host,
            overview,
            list(plots(self._history, self._reactor.seconds())),
            refreshes,
        )

    def _sample(self) -> Deferred[None]:
        return self._metrics.snapshot().addCallbacks(self._add, self._fail)

    def _add(self, snapshot: Snapshot) -> None:
        # Without the answer of a process, the sum would be too small.
        sample = None if snapshot.unanswered else measure(snapshot.samples)
        self._history.add(self._reactor.seconds(), sample)

    def _fail(self, failure: Failure) -> None:
        self._history.add(self._reactor.seconds(), None)
        _log.failure("the metrics cannot be sampled", failure)
