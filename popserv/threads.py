"""Threads for what would block: hashing passwords, reading directories and cold files.

Never the reactor's own pool: that one resolves names and is everybody's.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from popserv.errors import TryLater

T = TypeVar("T")


class Threads:
    """A pool of its own, with a bounded backlog; it starts at its first use, after any fork."""

    def __init__(self, name: str, threads: int, backlog: int = 1000, reactor: Any = None) -> None:
        self._pool = ThreadPool(0, threads, name)
        self._backlog = backlog
        self._reactor = reactor
        self._pending = 0
        self._lock = Lock()

    def run(self, function: Callable[..., T], *args: Any) -> Deferred[T]:
        """Return what ``function(*args)`` returns in a thread.

        :raises TryLater: the backlog is full.
        """
        if self._pending >= self._backlog:
            raise TryLater("server too busy, try again later")
        if not self._pool.started:
            self._start()
        with self._lock:
            self._pending += 1
        return deferToThreadPool(self._reactor, self._pool, self._run, function, *args)

    def _run(self, function: Callable[..., T], *args: Any) -> T:
        try:
            return function(*args)
        finally:
            # Not a callback of the Deferred, which may be cancelled while this goes on.
            with self._lock:
                self._pending -= 1

    def _start(self) -> None:
        if self._reactor is None:
            from twisted.internet import reactor

            self._reactor = reactor
        self._pool.start()
        self._reactor.addSystemEventTrigger("during", "shutdown", self._pool.stop)
