"""A command table that counts; only servers with ``--metrics`` have it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from time import perf_counter
from typing import Any

from popserv.core.command import Command, CommandTable, Handler, Outcome
from popserv.core.replies import Reply
from popserv.core.session import Session
from popserv.metrics import catalogue
from popserv.metrics.catalogue import OTHER
from popserv.metrics.counters import Counters

_UNKNOWN = (OTHER,)


class MeasuredCommands(CommandTable):
    """Commands that are counted when clients send them, valid or not."""

    def __init__(self, commands: Iterable[Command], counters: Counters) -> None:
        super().__init__(
            replace(each, run=_measured(each.run, counters)) if each.keyword == b"RETR" else each
            for each in commands
        )
        self._values = counters.values(catalogue.COMMANDS)
        self._labels = {each.encode("ascii"): (each,) for each in catalogue.COMMAND_NAMES}

    def find(self, session: Session, keyword: bytes) -> Command:
        """Count a command, and return it; see CommandTable.

        :raises BadCommand: as there.
        """
        self._values[self._labels.get(keyword, _UNKNOWN)] += 1
        return super().find(session, keyword)


def _measured(run: Handler, counters: Counters) -> Handler:
    """Return RETR with counters of messages, octets and time."""
    messages = counters.values(catalogue.RETRIEVED_MESSAGES)
    retrieved = counters.values(catalogue.RETRIEVED_BYTES)

    def retr(session: Session, n: int) -> Outcome:
        started, octets = perf_counter(), session.retrieved_octets

        def sent() -> None:
            counters.observe(catalogue.RETR_SECONDS, perf_counter() - started)
            messages[()] += 1
            retrieved[()] += session.retrieved_octets - octets

        outcome = run(session, n)
        if isinstance(outcome, bytes):
            sent()
            return outcome
        if isinstance(outcome, Reply):
            return _when_sent(outcome, sent)
        return _await(outcome, sent)

    return retr


async def _await(outcome: Coroutine[Any, Any, Reply], sent: Callable[[], None]) -> Reply:
    return _when_sent(await outcome, sent)


def _when_sent(reply: Reply, sent: Callable[[], None]) -> Reply:
    """Return the reply of RETR, which calls a function when its body is written."""
    recorded = reply.sent

    def both() -> None:
        if recorded is not None:
            recorded()
        sent()

    return reply._replace(sent=both)
