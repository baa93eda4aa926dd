"""Stopping without cutting off sessions, for ``--drain``."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Sized
from functools import partial
from typing import Any

from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

_log = Logger()

_POLL_INTERVAL = 0.1
"""Seconds between two looks whether all connections have ended."""

STOP_TIMEOUT = 30.0
"""Seconds that a process has to exit after its sessions have ended."""

TOPIC = "drain"
"""The topic of the question, on the bus, that gives sessions another number of seconds."""


class Drainer(MultiService):
    """The service of a process that stops in two steps.

    It first closes the ports, and then waits until the connections have ended, at most ``seconds``.
    The services that were added to it run until then.

    :ivar is_draining: whether the ports are closed.
    :param listeners: the service of the ports.  In a supervisor, its workers wait.
    :param connections: the connections of this process, in any number of containers.
    :param leaving: called when the ports are closed and there is something to wait for.
    :param hurry: called when a second SIGTERM, or SIGINT, ends the waiting; None if this process
        does not handle them.
    """

    is_draining = False

    def __init__(
        self,
        listeners: IService,
        seconds: float,
        connections: Iterable[Sized],
        *,
        leaving: Callable[[], object] = lambda: None,
        hurry: Callable[[], object] | None = None,
        reactor: Any = None,
    ) -> None:
        super().__init__()
        if reactor is None:
            from twisted.internet import reactor
        self._reactor: Any = reactor
        self._listeners = listeners
        self._seconds = seconds
        self._connections = tuple(connections)
        self._leaving = leaving
        self._hurry = hurry
        self._closed_at = 0.0
        self._check = LoopingCall(self._look)
        self._check.clock = self._reactor
        listeners.setServiceParent(self)

    def allow(self, seconds: float) -> None:
        """Wait this many seconds for connections, from the time at which the ports were closed."""
        self._seconds = seconds

    def time_to_stop(self) -> float:
        """Return the seconds that the process may take to stop; 0 if it does not wait."""
        return self._seconds + STOP_TIMEOUT if self._seconds else 0.0

    def stopService(self) -> Deferred[Any]:
        """Close the ports, wait for the connections, and stop the other services."""
        self.is_draining = True
        self._closed_at = self._reactor.seconds()
        closed: Deferred[Any] = self.removeService(self._listeners)
        if self._seconds:
            _log.info(
                "no more connections are accepted; sessions have {seconds:g} s to end",
                seconds=self._seconds,
            )
            self._leaving()
            if self._hurry is not None:
                for number in (signal.SIGTERM, signal.SIGINT):
                    signal.signal(number, partial(self._signal_received, self._hurry))
        ended: Deferred[Any] = self._check.start(_POLL_INTERVAL)
        ended.addCallback(lambda _: closed)
        return ended.addCallback(lambda _: MultiService.stopService(self))

    def _look(self) -> None:
        is_over = self._reactor.seconds() - self._closed_at >= self._seconds
        if is_over or not any(map(len, self._connections)):
            self._check.stop()

    def _signal_received(self, hurry: Callable[[], object], number: int, frame: object) -> None:
        # Twisted's own handler would log an error, because the reactor is stopping already.
        self.allow(0)
        self._reactor.callFromThread(hurry)
