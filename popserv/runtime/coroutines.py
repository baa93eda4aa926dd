"""Runs coroutines that usually return without waiting, and avoids a Deferred for those."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from contextvars import copy_context
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

T = TypeVar("T")


def run_eagerly(coroutine: Coroutine[Any, Any, T]) -> T | Deferred[T]:
    """Run a coroutine until it waits.

    Return its result if it finishes without waiting, otherwise a Deferred of its result.  An
    exception raised before it waits is raised here.  The coroutine runs in a copy of the
    current context.  For most coroutines a Deferred costs more than the work they do.
    """
    context = copy_context()
    try:
        awaited = context.run(coroutine.send, None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    return context.run(Deferred.fromCoroutine, _resume(coroutine, awaited))


def _resume(coroutine: Coroutine[Any, Any, T], awaited: Any) -> Generator[Any, Any, T]:
    """Run the rest of a coroutine that waits for ``awaited``."""
    while True:
        try:
            try:
                result = yield awaited
            except GeneratorExit:
                # The Deferred was garbage collected, and the coroutine possibly before it.
                coroutine.close()
                raise
            except BaseException as error:
                awaited = coroutine.throw(error)
            else:
                awaited = coroutine.send(result)
        except StopIteration as stop:
            value: T = stop.value
            return value
