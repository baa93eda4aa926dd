"""Questions of the supervisor and of workers, which the workers answer in bounded time.

A worker that has not answered in time, or could not answer, is counted as missing.  One that ends
meanwhile is not: nothing of it is left to be told.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Protocol

from twisted.internet.defer import Deferred, succeed

from popserv.runtime.bus import Answers

MAX_ANSWER = 1 << 19
"""The maximum octets of an answer; a longer one is not sent."""


class Answerer(Protocol):
    """A process that can be asked."""

    def send(self, line: bytes) -> object:
        """Send a line to the process."""


class Questions:
    """The questions that wait for answers."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._last = 0
        self._pending: dict[int, _Question] = {}

    def ask(
        self, processes: Iterable[Answerer], topic: str, question: Any, seconds: float
    ) -> Deferred[Answers]:
        """Ask these processes."""
        asked = list(processes)
        if not asked:
            return succeed(Answers(()))
        self._last += 1
        number = self._last
        timeout = self._reactor.callLater(seconds, self._finish, number)
        pending = self._pending[number] = _Question(asked, timeout)
        line = question_line(number, topic, question, seconds)
        for each in asked:
            each.send(line)
        return pending.finished

    def receive(self, process: Answerer, argument: bytes) -> None:
        """Process an answer of a process; one that was not asked for, or is late, is ignored."""
        number, *answer = json.loads(argument)
        pending = self._pending.get(number)
        if pending is not None:
            pending.receive(process, answer)
            self._finish_if_complete(number)

    def forget(self, process: Answerer) -> None:
        """Wait no more for the answers of a process that has ended."""
        for number, pending in list(self._pending.items()):
            pending.forget(process)
            self._finish_if_complete(number)

    def _finish_if_complete(self, number: int) -> None:
        if not self._pending[number].waiting:
            self._finish(number)

    def _finish(self, number: int) -> None:
        pending = self._pending.pop(number)
        if pending.timeout.active():
            pending.timeout.cancel()
        pending.finished.callback(pending.answers())


class _Question:
    def __init__(self, asked: list[Answerer], timeout: Any) -> None:
        self.asked = asked
        self.timeout = timeout
        self.waiting = list(asked)
        self.finished: Deferred[Answers] = Deferred()
        self._received: list[tuple[int, Any]] = []
        self._ended = 0

    def receive(self, process: Answerer, answer: list[Any]) -> None:
        if process in self.waiting:
            self.waiting.remove(process)
            self._received += [(self.asked.index(process), each) for each in answer[:1]]

    def forget(self, process: Answerer) -> None:
        if process in self.waiting:
            self.waiting.remove(process)
            self._ended += 1

    def answers(self) -> Answers:
        given = [answer for _, answer in sorted(self._received, key=lambda each: each[0])]
        return Answers(given, len(self.asked) - self._ended - len(given))


def question_line(number: int, topic: str, question: Any, seconds: float) -> bytes:
    """Return the line of a question."""
    return b"ask " + json.dumps([number, topic, question, seconds]).encode()


def answer_line(number: int, answers: Answers) -> bytes:
    """Return the line that answers a question of the supervisor, in a worker."""
    line = b"answer " + _encode([number, *answers.given])
    return line if len(line) <= MAX_ANSWER else b"answer [%d]" % number


def answers_line(number: int, answers: Answers) -> bytes:
    """Return the line that passes the answers to the worker that has asked, in the supervisor."""
    line = b"answers " + _encode([number, answers.given, answers.missing])
    if len(line) <= MAX_ANSWER:
        return line
    return b"answers [%d, [], %d]" % (number, answers.missing + len(answers.given))


def _encode(value: Any) -> bytes:
    # In ASCII, most names outside it would be several times as long.  Names of files may contain
    # surrogates, which json.loads accepts.
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
