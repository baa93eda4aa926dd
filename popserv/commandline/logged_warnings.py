"""Collects the warnings of options that are parsed, and of stores that a command uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    eventAsText,
    globalLogPublisher,
)
from zope.interface import provider

from popserv.core.printable import one_line


@contextmanager
def logged_warnings() -> Iterator[list[str]]:
    """Collect what is logged in the body of a with statement, from warnings on, a line each."""
    lines: list[str] = []

    @provider(ILogObserver)
    def note(event: LogEvent) -> None:
        lines.append(one_line(eventAsText(event, includeTimestamp=False, includeSystem=False)))

    observer = FilteringLogObserver(note, [LogLevelFilterPredicate(LogLevel.warn)])
    globalLogPublisher.addObserver(observer)
    try:
        yield lines
    finally:
        globalLogPublisher.removeObserver(observer)
