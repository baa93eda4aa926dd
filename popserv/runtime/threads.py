"""Thread pools for blocking work, such as hashing passwords and reading directories.

The reactor's own pool is not used: the reactor resolves names in it, and other code in the process
shares it.  Nor is its class, ThreadPool, which takes twice as long to pass on a job and its result.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, TypeVar
from weakref import WeakSet

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from popserv.errors import TryLater
from popserv.runtime.file_credentials import FileCredentials, acting_as, current, switch
from popserv.runtime.native_threads import NativeThreads, prepare_job

T = TypeVar("T")

RunInThread = Callable[..., Awaitable[Any]]
"""Calls a function with arguments where it may block; the awaitable has its return value."""

StillNeeded = Callable[[], bool]
"""Returns whether the result of a job is still needed; it may be called in any thread."""


_pools: WeakSet[BoundedThreadPool] = WeakSet()


def thread_jobs() -> Mapping[str, int]:
    """Return the number of unfinished jobs of all pools of this process, by the pools' names."""
    jobs: dict[str, int] = {}
    for pool in _pools:
        jobs[pool.name] = jobs.get(pool.name, 0) + pool.unfinished
    return jobs


class BoundedThreadPool:
    """A pool of at most ``threads`` threads, with at most ``backlog`` unfinished jobs.

    A job has the file credentials of the thread that has passed it on.  A thread starts when a job
    finds none free, hence after any fork.  At shutdown the reactor waits for the unfinished jobs,
    unless ``wait_at_shutdown`` is false.

    What needs no interpreter is run by up to ``threads`` others, see
    :class:`~popserv.runtime.native_threads.NativeThreads`.
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
        self.name = name
        _pools.add(self)
        self._max_threads = threads
        self._threads: list[Thread] = []
        # A job is a Deferred, a function and its arguments; None ends a thread.
        self._jobs: SimpleQueue[tuple[Deferred[Any], Callable[..., Any], tuple[Any, ...]] | None]
        self._jobs = SimpleQueue()
        self._wait_at_shutdown = wait_at_shutdown
        self._backlog = backlog
        self._reactor = reactor
        self._unfinished = 0
        self._native: NativeThreads | None = None
        self._has_trigger = self._is_stopped = False
        # The unfinished jobs that have not started, and may be dropped.
        self._droppable: dict[object, StillNeeded] = {}
        self._lock = Lock()

    @property
    def unfinished(self) -> int:
        """The number of jobs that run, or wait for a thread."""
        return self._unfinished + (0 if self._native is None else len(self._native))

    def run(
        self, function: Callable[..., T], *args: Any, still_needed: StillNeeded | None = None
    ) -> Deferred[T]:
        """Call ``function(*args)`` in a thread, and return a Deferred of its result.

        If ``still_needed`` returns false when a thread is free for the job, the function is not
        called, and the Deferred fails with :exc:`~popserv.errors.TryLater`.  Such jobs are also
        dropped from a full backlog.

        :raises popserv.errors.TryLater: the backlog is full, no thread can be started, or the
            reactor stops.
        """
        if self._is_stopped:
            raise TryLater
        if self.unfinished >= self._backlog:
            self._drop_unneeded()
        if self.unfinished >= self._backlog:
            raise TryLater("server too busy, try again later")
        if self._wait_at_shutdown and current() is None:
            job = prepare_job(function, args)
            if job is not None:
                with suppress(OSError, RuntimeError):
                    return self._native_threads().run(job)
        if len(self._threads) < min(self._unfinished + 1, self._max_threads):
            self._start_thread()
        deferred: Deferred[T] = Deferred()
        work: Callable[..., T] = self._run
        with self._lock:
            self._unfinished += 1
            if still_needed is not None:
                self._droppable[deferred] = still_needed
                work = partial(self._run_if_needed, deferred)
        self._jobs.put((deferred, work, (current(), function, *args)))
        return deferred

    def _run(
        self, credentials: FileCredentials | None, function: Callable[..., T], *args: Any
    ) -> T:
        try:
            # They stay until the next job, which may be for the same user.
            switch(credentials)
            return function(*args)
        finally:
            # Not in a callback: the Deferred may be cancelled while the function runs.
            with self._lock:
                self._unfinished -= 1

    def _run_if_needed(
        self,
        job: object,
        credentials: FileCredentials | None,
        function: Callable[..., T],
        *args: Any,
    ) -> T:
        with self._lock:
            still_needed = self._droppable.pop(job, None)
        if still_needed is None:
            raise TryLater
        result: T = self._run(credentials, _call_if, still_needed, function, *args)
        return result

    def _drop_unneeded(self) -> None:
        with self._lock:
            for job in [job for job, still_needed in self._droppable.items() if not still_needed()]:
                del self._droppable[job]
                self._unfinished -= 1

    def _native_threads(self) -> NativeThreads:
        if self._native is None:
            self._native = NativeThreads(self.name, self._max_threads, self._find_reactor())
            self._stop_at_shutdown()
        return self._native

    def _find_reactor(self) -> Any:
        if self._reactor is None:
            from twisted.internet import reactor

            self._reactor = reactor
        return self._reactor

    def _start_thread(self) -> None:
        self._find_reactor()
        name = f"{self.name}-{len(self._threads)}"
        thread = Thread(target=self._work, name=name, daemon=not self._wait_at_shutdown)
        try:
            # It inherits the credentials of this one.
            with acting_as(None):
                thread.start()
        except RuntimeError as error:
            # The system's limit on threads is reached; the present ones can do the job.
            if not self._threads:
                raise TryLater from error
            return
        self._threads.append(thread)
        if self._wait_at_shutdown:
            self._stop_at_shutdown()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            deferred, work, args = job
            try:
                result = work(*args)
            except BaseException:
                result = Failure()
            self._reactor.callFromThread(deferred.callback, result)
            # Nothing of a job is kept while the thread waits.
            del job, deferred, work, args, result

    def _stop_at_shutdown(self) -> None:
        if not self._has_trigger:
            self._has_trigger = True
            self._find_reactor().addSystemEventTrigger("during", "shutdown", self._stop)

    def _stop(self) -> None:
        if self._native is not None:
            # First: what follows its jobs may need the other threads.
            self._native.stop()
        self._is_stopped = True
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()


def _call_if(still_needed: StillNeeded, function: Callable[..., T], *args: Any) -> T:
    if not still_needed():
        raise TryLater
    return function(*args)
