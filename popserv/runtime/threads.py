"""Threads for what would block: hashing passwords, reading directories and cold files.

Never the reactor's own pool: that one resolves names and is everybody's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from threading import Lock, Thread
from typing import Any, NoReturn, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from popserv.errors import TryLater

T = TypeVar("T")

StillNeeded = Callable[[], bool]
"""Tells, in any thread, whether somebody still waits for what was asked for."""


class BoundedThreadPool:
    """A pool of its own, with a bounded backlog; it starts at its first use, after any fork.

    The server ends when what has begun is over, unless nobody needs that (``awaited``).
    """

    def __init__(
        self,
        name: str,
        threads: int,
        backlog: int = 1000,
        reactor: Any = None,
        *,
        wait_at_shutdown: bool = True,
    ) -> None:
        self._pool = (ThreadPool if wait_at_shutdown else _UnawaitedPool)(0, threads, name)
        self._awaited = wait_at_shutdown
        self._backlog = backlog
        self._reactor = reactor
        self._pending = 0
        # Of those pending what has not begun, and may be dropped.
        self._droppable: dict[object, StillNeeded] = {}
        self._lock = Lock()

    def run(
        self, function: Callable[..., T], *args: Any, still_needed: StillNeeded | None = None
    ) -> Deferred[T]:
        """Return what ``function(*args)`` returns in a thread.

        With ``wanted`` it is not begun once that has turned false, and takes up no room in a
        backlog that is full; the Deferred fails then.

        :raises TryLater: the backlog is full.
        """
        if self._pending >= self._backlog:
            self._drop_unwanted()
        if self._pending >= self._backlog:
            raise TryLater("server too busy, try again later")
        if not self._pool.started:
            self._start()
        work: Callable[..., T] = self._run
        with self._lock:
            self._pending += 1
            if still_needed is not None:
                job = object()
                self._droppable[job] = still_needed
                work = partial(self._run_if_wanted, job)
        return deferToThreadPool(self._reactor, self._pool, work, function, *args)

    def _run(self, function: Callable[..., T], *args: Any) -> T:
        try:
            return function(*args)
        finally:
            # Not a callback of the Deferred, which may be cancelled while this goes on.
            with self._lock:
                self._pending -= 1

    def _run_if_wanted(self, job: object, function: Callable[..., T], *args: Any) -> T:
        with self._lock:
            still_needed = self._droppable.pop(job, None)
        if still_needed is None:
            raise TryLater
        return self._run(function if still_needed() else _drop, *args)

    def _drop_unwanted(self) -> None:
        with self._lock:
            for job in [job for job, still_needed in self._droppable.items() if not still_needed()]:
                del self._droppable[job]
                self._pending -= 1

    def _start(self) -> None:
        if self._reactor is None:
            from twisted.internet import reactor

            self._reactor = reactor
        self._pool.start()
        if self._awaited:
            self._reactor.addSystemEventTrigger("during", "shutdown", self._pool.stop)


class _UnawaitedPool(ThreadPool):
    threadFactory: Any = staticmethod(partial(Thread, daemon=True))


def _drop(*args: Any) -> NoReturn:
    raise TryLater
