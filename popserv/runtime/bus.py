"""Sends updates and questions between the worker processes of one server.

Each topic belongs to one component, which subscribes to it in every worker.  An update is a
small JSON value.  Each update is complete in itself, may arrive more than once, and arrives
with a delay.  In a server of one process, updates are discarded.  Times in updates are those of
``time.monotonic``.

Updates may also go to servers on other hosts, and come from there (``carry``).

A question is a small JSON value, too, and so is its answer.  A process that does not answer in
time is left out, and counted; one that ends meanwhile is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

_log = Logger()

QUESTION_TIMEOUT = 2.0
"""Seconds in which every process must answer a question, unless the question says otherwise."""


class Answers(NamedTuple):
    """What the processes have answered to one question."""

    given: Sequence[Any]
    """The answers, in the order of the processes."""
    missing: int = 0
    """How many processes have not answered in time."""


Answer = Callable[[Any], Any]
"""Answers a question; the result may be a Deferred."""


class Subscriber(Protocol):
    """A component that shares state with the same component in the other workers."""

    def receive(self, update: Any, offset: float = 0.0) -> None:
        """Apply an update that another worker has published.

        ``offset`` is to be added to the times in it: another host has another clock.
        """

    def replay(self) -> Iterable[Any]:
        """Yield the updates that bring a new worker up to date."""


class WorkerBus:
    """The bus as one worker sees it.

    ``send`` sends a topic and an update to all other workers, without blocking.  ``ask`` sends a
    topic and a question to all other workers, which have some seconds to answer.  Both are None
    in a server of one process.
    """

    def __init__(
        self,
        send: Callable[[str, Any], object] | None = None,
        ask: Callable[[str, Any, float], Deferred[Answers]] | None = None,
    ) -> None:
        self._carriers = [] if send is None else [send]
        self._ask = ask
        self._subscribers: dict[str, Subscriber] = {}
        self._answers: dict[str, Answer] = {}

    def subscribe(self, topic: str, subscriber: Subscriber) -> None:
        """Pass the updates of a topic from other workers to its one subscriber."""
        self._subscribers[topic] = subscriber

    def publish(self, topic: str, update: Any) -> None:
        """Send an update to all other workers."""
        for send in self._carriers:
            send(topic, update)

    def carry(self, send: Callable[[str, Any], object]) -> None:
        """Have updates of this process sent elsewhere as well, without blocking."""
        self._carriers.append(send)

    def receive(self, topic: str, update: Any, offset: float = 0.0) -> None:
        """Pass an update from elsewhere to the subscriber of its topic, if there is one.

        ``offset`` is what ``time.monotonic`` of this host is ahead of that in the update.
        """
        subscriber = self._subscribers.get(topic)
        if subscriber is not None:
            subscriber.receive(update, offset)

    def replay_all(self) -> Iterator[None]:
        """Publish the updates that bring a new worker up to date, one at each step."""
        for topic, subscriber in self._subscribers.items():
            # A copy: the subscriber's state may change between two steps.
            for update in list(subscriber.replay()):
                self.publish(topic, update)
                yield

    # Questions

    def answer(self, topic: str, answer: Answer) -> None:
        """Have this function answer the questions of a topic in this process."""
        self._answers[topic] = answer

    def ask_others(
        self, topic: str, question: Any, seconds: float = QUESTION_TIMEOUT
    ) -> Deferred[Answers]:
        """Ask all other workers, which have some seconds to answer."""
        if self._ask is None:
            return succeed(Answers(()))
        return self._ask(topic, question, seconds)

    def ask_here(
        self, topic: str, question: Any, seconds: float = QUESTION_TIMEOUT
    ) -> Deferred[Answers]:
        """Ask this process, as a server of one process asks all of its processes."""
        answered: Deferred[Any] = maybeDeferred(lambda: self._answers[topic](question))
        return answered.addCallbacks(lambda answer: Answers((answer,)), self._log_failure)

    def _log_failure(self, failure: Failure) -> Answers:
        _log.failure("a question of another process cannot be answered", failure)
        return Answers((), 1)
