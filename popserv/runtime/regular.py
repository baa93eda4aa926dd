"""Work that a process does again and again, such as asking a database what is new."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import SystemRandom
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from popserv.errors import TryLater

_log = Logger()


class RegularWork:
    """Calls a function about every ``interval`` seconds, from :meth:`start` to :meth:`stop`.

    ``work`` is called again only when the awaitable that it returned has a result.  TryLater stands
    for what others log; any other exception is logged as ``problem``, once until it succeeds.
    ``reactor`` provides IReactorTime.
    """

    def __init__(
        self, work: Callable[[], Awaitable[object]], interval: float, reactor: Any, problem: str
    ) -> None:
        self._work = work
        self._interval = interval
        self._reactor = reactor
        self._problem = problem
        self._random = SystemRandom()
        self._call: Any = None
        self._running: Deferred[None] | None = None
        self._has_failed = False

    def start(self, *, now: bool = False) -> None:
        """Start, unless it has started; with ``now``, the first call is made at once."""
        if self._call is None and self._running is None:
            self._begin() if now else self._wait()

    async def stop(self) -> None:
        """Call the function no more, and wait for what is under way."""
        if self._running is not None:
            await self._running
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _wait(self) -> None:
        # Not all processes at a time.
        seconds = self._interval * self._random.uniform(0.5, 1.5)
        self._call = self._reactor.callLater(seconds, self._begin)

    def _begin(self) -> None:
        self._call = None
        self._running = Deferred.fromCoroutine(self._try())
        self._running.addCallback(self._ended)

    def _ended(self, result: None) -> None:
        self._running = None
        self._wait()

    async def _try(self) -> None:
        try:
            await self._work()
        except TryLater:
            pass
        except Exception:
            if not self._has_failed:
                self._has_failed = True
                _log.failure("{problem}", problem=self._problem)
        else:
            self._has_failed = False
