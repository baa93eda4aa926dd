"""What the workers of one server tell each other.

A topic is one component's, the same in each worker.  What is told are small facts of JSON;
each stands for itself, may be told again, and takes some time to arrive.  A server of one
process has nobody to tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol


class Subscriber(Protocol):
    """A component that shares a topic with its like in the other workers."""

    def receive(self, fact: Any) -> None:
        """Take a fact that another worker told."""

    def replay(self) -> Iterable[Any]:
        """Yield what a worker that has just begun should know."""


class WorkerBus:
    """One worker's end: tells the others, and hands on what they tell.

    ``carry`` takes a topic and a fact to all others, as soon as may be.
    """

    def __init__(self, carry: Callable[[str, Any], object] | None = None) -> None:
        self._carry = carry
        self._listeners: dict[str, Subscriber] = {}

    def subscribe(self, topic: str, listener: Subscriber) -> None:
        """Hand what others tell of a topic to this listener."""
        self._listeners[topic] = listener

    def publish(self, topic: str, fact: Any) -> None:
        """Tell all others."""
        if self._carry is not None:
            self._carry(topic, fact)

    def receive(self, topic: str, fact: Any) -> None:
        """Take in what another worker told."""
        listener = self._listeners.get(topic)
        if listener is not None:
            listener.receive(fact)

    def replay_all(self) -> Iterator[None]:
        """Tell everything again, a fact a step, for a worker that has just begun."""
        for topic, listener in self._listeners.items():
            # As it is now, for meanwhile it may change.
            for fact in list(listener.replay()):
                self.publish(topic, fact)
                yield
