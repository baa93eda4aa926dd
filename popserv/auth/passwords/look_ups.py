"""Look-ups of users in another server: in threads, with a bounded backlog and time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.logger import Logger

from popserv.auth.passwords.sources import SourceUnavailable
from popserv.core.printable import one_line
from popserv.core.session import client_is_connected
from popserv.runtime.threads import BoundedThreadPool

_log = Logger()

T = TypeVar("T")

BACKLOG = 100
"""The greatest number of look-ups that wait or run; further logins are told to try later."""

_MAX_PROBLEM = 300


class LookUpFailed(Exception):
    """A server cannot be asked; the message says why, for the log."""


class LookUps:
    """The look-ups that the file at ``path`` describes, each given up after ``timeout`` seconds.

    ``server`` says what is asked, for the log.  ``threads`` is the number of threads; ``run`` calls
    a function in one of them, and ``reactor`` is a clock.
    """

    def __init__(
        self,
        path: str,
        server: str,
        timeout: int,
        threads: int,
        reactor: Any = None,
        run: Callable[..., Deferred[Any]] | None = None,
    ) -> None:
        self._path = path
        self._server = server
        self._timeout = timeout
        self._reactor = reactor
        self._pool = BoundedThreadPool(
            f"popserv-{server}", threads, BACKLOG, wait_at_shutdown=False
        )
        self._run = run or self._pool.run
        self._is_available = True

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function in a thread, and return its result.

        :raises SourceUnavailable: it has raised LookUpFailed, or takes too long.  The first time
            that is logged; every client would cause such a line.
        :raises popserv.errors.TryLater: too many others wait, or the client has gone.
        """
        if self._reactor is None:
            from twisted.internet import reactor

            self._reactor = reactor
        called = self._run(function, *args, still_needed=client_is_connected.get())
        called.addTimeout(self._timeout, self._reactor)
        try:
            result: T = await called
        except DeferredTimeout:
            raise self._unavailable(f"no answer within {self._timeout} s") from None
        except LookUpFailed as error:
            raise self._unavailable(str(error)) from error
        if not self._is_available:
            self._is_available = True
            _log.info("{path}: the {server} answers again", path=self._path, server=self._server)
        return result

    def _unavailable(self, problem: str) -> SourceUnavailable:
        if self._is_available:
            self._is_available = False
            _log.critical(
                "{path}: the {server} cannot be asked, and logins are refused until it can: "
                "{problem}",
                path=self._path,
                server=self._server,
                problem=one_line(problem)[:_MAX_PROBLEM],
            )
        return SourceUnavailable(problem)
