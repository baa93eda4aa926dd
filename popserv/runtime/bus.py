"""Sends updates between the worker processes of one server.

Each topic belongs to one component, which subscribes to it in every worker.  An update is a
small JSON value.  Each update is complete in itself, may arrive more than once, and arrives
with a delay.  In a server of one process, updates are discarded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol


class Subscriber(Protocol):
    """A component that shares state with the same component in the other workers."""

    def receive(self, update: Any) -> None:
        """Apply an update that another worker has published."""

    def replay(self) -> Iterable[Any]:
        """Yield the updates that bring a new worker up to date."""


class WorkerBus:
    """The bus as one worker sees it.

    ``send`` sends a topic and an update to all other workers, without blocking.  It is None in
    a server of one process.
    """

    def __init__(self, send: Callable[[str, Any], object] | None = None) -> None:
        self._send = send
        self._subscribers: dict[str, Subscriber] = {}

    def subscribe(self, topic: str, subscriber: Subscriber) -> None:
        """Pass the updates of a topic from other workers to its one subscriber."""
        self._subscribers[topic] = subscriber

    def publish(self, topic: str, update: Any) -> None:
        """Send an update to all other workers."""
        if self._send is not None:
            self._send(topic, update)

    def receive(self, topic: str, update: Any) -> None:
        """Pass an update from another worker to the subscriber of its topic, if there is one."""
        subscriber = self._subscribers.get(topic)
        if subscriber is not None:
            subscriber.receive(update)

    def replay_all(self) -> Iterator[None]:
        """Publish the updates that bring a new worker up to date, one at each step."""
        for topic, subscriber in self._subscribers.items():
            # A copy: the subscriber's state may change between two steps.
            for update in list(subscriber.replay()):
                self.publish(topic, update)
                yield
