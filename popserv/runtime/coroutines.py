"""Coroutines that mostly have nothing to wait for."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from contextvars import copy_context
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

T = TypeVar("T")


def run_eagerly(coroutine: Coroutine[Any, Any, T]) -> T | Deferred[T]:
    """Run a coroutine to where it must wait: return what it returned, else a Deferred of that.

    What it raises before it waits is raised here.  A Deferred for each costs more than what
    most of them do.
    """
    # What it sets of its context is its own.
    context = copy_context()
    try:
        awaited = context.run(coroutine.send, None)
    except StopIteration as over:
        value: T = over.value
        return value
    return context.run(Deferred.fromCoroutine, _rest(coroutine, awaited))


def _rest(coroutine: Coroutine[Any, Any, T], awaited: Any) -> Generator[Any, Any, T]:
    while True:
        try:
            try:
                result = yield awaited
            except GeneratorExit:
                # Nobody will wait any more; the collector may have been at it before.
                coroutine.close()
                raise
            except BaseException as error:
                awaited = coroutine.throw(error)
            else:
                awaited = coroutine.send(result)
        except StopIteration as over:
            value: T = over.value
            return value
