"""Calls of functions that wait for another server: in threads, with a bounded backlog and time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout

from popserv.auth.users.outages import ServerUnavailable
from popserv.core.session import client_is_connected
from popserv.runtime.threads import BoundedThreadPool

T = TypeVar("T")

BACKLOG = 100
"""The greatest number of look-ups that wait or run; further logins are told to try later."""


class LookUps:
    """Look-ups in threads of their own, each given up after ``timeout`` seconds.

    ``name`` is that of the ``threads`` threads; ``run`` calls a function in one of them, and
    ``reactor`` is a clock.
    """

    def __init__(
        self,
        name: str,
        timeout: float,
        threads: int,
        *,
        backlog: int = BACKLOG,
        reactor: Any = None,
        run: Callable[..., Deferred[Any]] | None = None,
    ) -> None:
        self._timeout = timeout
        self._reactor = reactor
        pool = BoundedThreadPool(name, threads, backlog, wait_at_shutdown=False)
        self._run = run or pool.run

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function in a thread, and return its result.

        :raises ServerUnavailable: it takes too long.
        :raises popserv.errors.TryLater: too many others wait, or the client has gone.
        """
        if self._reactor is None:
            # twistd chooses the reactor after everything is imported.
            from twisted.internet import reactor

            self._reactor = reactor
        is_connected = client_is_connected.get()
        is_waiting = True
        called = self._run(function, *args, still_needed=lambda: is_waiting and is_connected())
        called.addTimeout(self._timeout, self._reactor)
        try:
            result: T = await called
            return result
        except DeferredTimeout:
            raise ServerUnavailable(f"no answer within {self._timeout:g} s") from None
        finally:
            is_waiting = False
