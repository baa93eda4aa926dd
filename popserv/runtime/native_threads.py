"""Threads that run functions in C, and never wait for the interpreter's lock.

A thread of Python waits for the lock of the interpreter when it gets a job, after each system call
and when it passes on the result, and the reactor's thread waits for it as often.  Where a function
in C needs no interpreter, ``popserv/_speedups.c`` also has one that returns the call as a job: with
the suffix ``_job``, the same parameters, and the same result.  A thread reads the addresses of jobs
from one pipe, and writes those of finished ones to another, which the reactor reads.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from struct import Struct
from threading import Thread
from types import BuiltinFunctionType
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from popserv.runtime.file_credentials import acting_as
from popserv.runtime.speedups import SPEEDUPS

_JOB = "_job"
_in_c: Any = SPEEDUPS

_makers: dict[object, Callable[..., Any]] = {
    getattr(_in_c, name.removesuffix(_JOB)): getattr(_in_c, name)
    for name in dir(_in_c)
    if name.endswith(_JOB)
}

_ADDRESS = Struct("P")
_MAX_ADDRESSES = 500


def prepare_job(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Return a call as a job, or None if it needs the interpreter.

    :raises Exception: the function does not accept the arguments.
    """
    # Others may not be hashable.
    if type(function) is not BuiltinFunctionType or function not in _makers:
        return None
    return _makers[function](*args)


@implementer(IReadDescriptor)
class NativeThreads:
    """At most ``threads`` threads; one starts when a job finds none free.

    They have the file credentials of the process.  The reactor reads the results while there are
    unfinished jobs.

    :raises OSError: there are not enough file descriptors.
    """

    def __init__(self, name: str, threads: int, reactor: Any) -> None:
        self._name = name
        self._max_threads = threads
        self._threads: list[Thread] = []
        self._reactor = reactor
        self._unfinished: dict[int, tuple[Any, Deferred[Any]]] = {}
        self._is_stopped = False
        self._jobs = os.pipe()
        try:
            self._finished = os.pipe()
        except OSError:
            _close(self._jobs)
            raise

    def __len__(self) -> int:
        """Return the number of unfinished jobs."""
        return len(self._unfinished)

    def run(self, job: Any) -> Deferred[Any]:
        """Run a job, and return a Deferred of its result.

        :raises OSError: it cannot be passed on, and is not run.
        :raises RuntimeError: no thread can be started, and there is none; or they were stopped.
        """
        if self._is_stopped:
            raise RuntimeError("the threads were stopped")
        if len(self._threads) < min(len(self._unfinished) + 1, self._max_threads):
            self._start_thread()
        address = _in_c.job_address(job)
        if not self._unfinished:
            self._reactor.addReader(self)
        deferred: Deferred[Any] = Deferred()
        self._unfinished[address] = job, deferred
        try:
            # Last: from now on, a thread may use the job.  The pipe has room for a pool's backlog.
            os.write(self._jobs[1], _ADDRESS.pack(address))
        except OSError:
            self._take(address)
            raise
        return deferred

    def _take(self, address: int) -> tuple[Any, Deferred[Any]]:
        """Return a job that has ended, or not begun, and its Deferred."""
        taken = self._unfinished.pop(address)
        if not self._unfinished:
            self._reactor.removeReader(self)
        return taken

    def _start_thread(self) -> None:
        name = f"{self._name}-native-{len(self._threads)}"
        pipes = (self._jobs[0], self._finished[1])
        thread = Thread(target=_in_c.run_jobs, args=pipes, name=name)
        try:
            with acting_as(None):
                thread.start()
        except RuntimeError:
            if not self._threads:
                raise
            return
        self._threads.append(thread)

    def stop(self) -> None:
        """Wait for the unfinished jobs, and end the threads."""
        self._is_stopped = True
        while self._unfinished:
            self.doRead()
        os.close(self._jobs[1])
        for thread in self._threads:
            thread.join()
        os.close(self._jobs[0])
        _close(self._finished)

    # IReadDescriptor

    def fileno(self) -> int:
        """Return the descriptor of the pipe with finished jobs."""
        return self._finished[0]

    def doRead(self) -> None:
        """Pass on the results of finished jobs."""
        octets = os.read(self._finished[0], _MAX_ADDRESSES * _ADDRESS.size)
        finished = [self._take(address) for (address,) in _ADDRESS.iter_unpack(octets)]
        for job, deferred in finished:
            try:
                result = _in_c.job_result(job)
            except Exception:
                result = Failure()
            deferred.callback(result)

    def connectionLost(self, reason: Failure) -> None:
        """Do nothing: the reactor stops, after the threads."""

    def logPrefix(self) -> str:
        """Return the name of the threads."""
        return self._name


def _close(pipe: tuple[int, int]) -> None:
    for fd in pipe:
        os.close(fd)
