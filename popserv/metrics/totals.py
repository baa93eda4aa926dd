"""The metrics of a whole server: those of all its processes, added up."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from popserv import __version__
from popserv.metrics import catalogue
from popserv.metrics.process import TOPIC
from popserv.metrics.samples import Samples, combine, from_plain, only
from popserv.runtime.bus import Answers

MAX_AGE = 1.0
"""Seconds for which a snapshot answers further requests, so that many of them cost little."""


class Snapshot(NamedTuple):
    """The metrics of a server at one time.

    :ivar samples: their values, by name and labels.
    :ivar missing: the numbers of the workers that do not serve, or have not answered in time.
    :ivar is_draining: whether the server waits for its sessions to end.
    :ivar taken_at: the time by ``time.monotonic``.
    :ivar unanswered: the number of processes that were asked, and have not answered in time.
    """

    samples: Samples
    missing: Collection[int]
    is_draining: bool
    taken_at: float
    unanswered: int = 0


class ServerMetrics:
    """Asks all processes of a server for their metrics, and adds them up.

    What a process has counted stays part of the sums when it has ended, or does not answer, so that
    no sum becomes smaller: Prometheus would take that for a restart of the server.  What it has
    counted since it was last asked is lost.

    :param ask: asks all processes; see :class:`popserv.runtime.bus.WorkerBus`.
    :param workers: how many processes serve.
    :param pids: returns the IDs of the processes that there are.
    :param is_draining: returns whether the server waits for its sessions to end.
    :param surveyed: returns further samples, which no process has.
    """

    def __init__(
        self,
        ask: Callable[[str, Any], Deferred[Answers]],
        workers: int,
        pids: Callable[[], Collection[int]],
        is_draining: Callable[[], bool],
        surveyed: Callable[[], Samples] = dict,
        *,
        now: Callable[[], float] = time.monotonic,
        started: float | None = None,
    ) -> None:
        self._ask = ask
        self._workers = range(1, workers + 1)
        self._pids = pids
        self._is_draining = is_draining
        self._surveyed = surveyed
        self._now = now
        self._started = time.time() if started is None else started
        # What each process has counted, by its ID and the time of its start.
        self._counted: dict[tuple[int, float], Samples] = {}
        self._ended: Samples = {}
        self._last: Snapshot | None = None
        self._waiting: list[Deferred[Any]] | None = None

    def snapshot(self) -> Deferred[Snapshot]:
        """Return the metrics of now, or of at most MAX_AGE ago."""
        if self._last is not None and self._now() - self._last.taken_at < MAX_AGE:
            return succeed(self._last)
        wanted: Deferred[Any] = Deferred()
        if self._waiting is not None:
            # One question for all.
            self._waiting.append(wanted)
        else:
            self._waiting = [wanted]
            self._ask(TOPIC, None).addCallback(self._add_up).addBoth(self._finish)
        return wanted

    def _finish(self, outcome: Snapshot | Failure) -> None:
        waiting, self._waiting = self._waiting, None
        for each in waiting or ():
            each.callback(outcome)

    def _add_up(self, answers: Answers) -> Snapshot:
        gauges = []
        serving = set()
        for each in answers.given:
            samples = from_plain(each["samples"])
            self._counted[each["pid"], each["started"]] = only(samples, gauges=False)
            gauges.append(only(samples, gauges=True))
            if each["is_serving"]:
                serving.add(each["worker"])
        self._fold_ended()
        is_draining = self._is_draining()
        own: Samples = {
            catalogue.WORKER_UP.name: {
                (str(number),): int(number in serving) for number in self._workers
            },
            catalogue.DRAINING.name: {(): int(is_draining)},
            catalogue.START_TIME.name: {(): self._started},
            catalogue.BUILD_INFO.name: {(__version__,): 1},
        }
        samples = combine([self._ended, *self._counted.values(), *gauges, own, self._surveyed()])
        missing = [number for number in self._workers if number not in serving]
        self._last = Snapshot(samples, missing, is_draining, self._now(), answers.missing)
        return self._last

    def _fold_ended(self) -> None:
        """Keep one sum for all processes that have ended."""
        pids = self._pids()
        for key in [key for key in self._counted if key[0] not in pids]:
            self._ended = combine([self._ended, self._counted.pop(key)])
