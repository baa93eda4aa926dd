"""Coroutines that mostly have nothing to wait for."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

T = TypeVar("T")


def begun(coroutine: Coroutine[Any, Any, T]) -> T | Deferred[T]:
    """Run a coroutine to where it must wait: return what it returned, else a Deferred of that.

    What it raises before it waits is raised here.  A Deferred for each costs more than what
    most of them do.
    """
    try:
        awaited = coroutine.send(None)
    except StopIteration as over:
        value: T = over.value
        return value
    return Deferred.fromCoroutine(_rest(coroutine, awaited))


def _rest(coroutine: Coroutine[Any, Any, T], awaited: Any) -> Generator[Any, Any, T]:
    while True:
        try:
            result = yield awaited
        except BaseException as error:
            go_on, given = coroutine.throw, error
        else:
            go_on, given = coroutine.send, result
        try:
            awaited = go_on(given)
        except StopIteration as over:
            value: T = over.value
            return value
