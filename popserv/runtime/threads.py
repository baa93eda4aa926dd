"""Thread pools for blocking work, such as hashing passwords and reading directories.

The reactor's own pool is not used: the reactor resolves names in it, and other code in the process
shares it.
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
"""Returns whether the result of a job is still needed; it may be called in any thread."""


class BoundedThreadPool:
    """A pool of at most ``threads`` threads, with at most ``backlog`` unfinished jobs.

    The threads start at the first job, hence after any fork.  At shutdown the reactor waits for
    the jobs that are running, unless ``wait_at_shutdown`` is false.
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
        self._pool = (ThreadPool if wait_at_shutdown else _DaemonThreadPool)(0, threads, name)
        self._wait_at_shutdown = wait_at_shutdown
        self._backlog = backlog
        self._reactor = reactor
        self._unfinished = 0
        # The unfinished jobs that have not started, and may be dropped.
        self._droppable: dict[object, StillNeeded] = {}
        self._lock = Lock()

    def run(
        self, function: Callable[..., T], *args: Any, still_needed: StillNeeded | None = None
    ) -> Deferred[T]:
        """Call ``function(*args)`` in a thread, and return a Deferred of its result.

        If ``still_needed`` returns false when a thread is free for the job, the function is not
        called, and the Deferred fails with :exc:`~popserv.errors.TryLater`.  Such jobs are also
        dropped from a full backlog.

        :raises popserv.errors.TryLater: the backlog is full.
        """
        if self._unfinished >= self._backlog:
            self._drop_unneeded()
        if self._unfinished >= self._backlog:
            raise TryLater("server too busy, try again later")
        if not self._pool.started:
            self._start()
        work: Callable[..., T] = self._run
        with self._lock:
            self._unfinished += 1
            if still_needed is not None:
                job = object()
                self._droppable[job] = still_needed
                work = partial(self._run_if_needed, job)
        return deferToThreadPool(self._reactor, self._pool, work, function, *args)

    def _run(self, function: Callable[..., T], *args: Any) -> T:
        try:
            return function(*args)
        finally:
            # Not in a callback: the Deferred may be cancelled while the function runs.
            with self._lock:
                self._unfinished -= 1

    def _run_if_needed(self, job: object, function: Callable[..., T], *args: Any) -> T:
        with self._lock:
            still_needed = self._droppable.pop(job, None)
        if still_needed is None:
            raise TryLater
        return self._run(function if still_needed() else _raise_try_later, *args)

    def _drop_unneeded(self) -> None:
        with self._lock:
            for job in [job for job, still_needed in self._droppable.items() if not still_needed()]:
                del self._droppable[job]
                self._unfinished -= 1

    def _start(self) -> None:
        if self._reactor is None:
            from twisted.internet import reactor

            self._reactor = reactor
        self._pool.start()
        if self._wait_at_shutdown:
            self._reactor.addSystemEventTrigger("during", "shutdown", self._pool.stop)


class _DaemonThreadPool(ThreadPool):
    threadFactory: Any = staticmethod(partial(Thread, daemon=True))


def _raise_try_later(*args: Any) -> NoReturn:
    raise TryLater
