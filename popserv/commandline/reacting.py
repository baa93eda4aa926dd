"""Runs the reactor for a command, because stores may need it."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


def run_in_reactor(coroutine: Coroutine[Any, Any, T], reactor: Any = None) -> T:
    """Run the reactor until a coroutine has ended, and return its result.

    :raises KeyboardInterrupt: the reactor was stopped, as by SIGINT.
    :raises Exception: as the coroutine.
    """
    if reactor is None:
        from twisted.internet import reactor
    outcome: list[T | Failure] = []

    def start() -> None:
        running = Deferred.fromCoroutine(coroutine)
        running.addBoth(outcome.append)
        running.addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(start)
    reactor.run()
    if not outcome:
        raise KeyboardInterrupt
    [result] = outcome
    if isinstance(result, Failure):
        result.raiseException()
    return result
