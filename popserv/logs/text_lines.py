"""The lines of the log: Twisted's own text, made with less work."""

from __future__ import annotations

from functools import lru_cache
from math import floor
from typing import IO, Any

from twisted.logger import FileLogObserver, LogEvent, formatEventAsClassicLogText, formatTime

from popserv.logs.records import encodable

_HALF_MICROSECOND = 5e-7
"""Twisted rounds times to microseconds, and does not show them."""


def line_observer(file: IO[Any]) -> FileLogObserver:
    """Return an observer that writes what that of ``twisted.logger.textFileLogObserver`` writes.

    An event whose format has no fields, such as those of :mod:`popserv.server.session_events`,
    costs a tenth.
    """
    return FileLogObserver(file, line_of)


def line_of(event: LogEvent) -> str | None:
    """Return what ``twisted.logger.formatEventAsClassicLogText`` returns.

    What UTF-8 cannot encode, such as octets of a file name, is escaped: the file could not be
    written otherwise.
    """
    text, system = event.get("log_format"), event.get("log_system")
    if (
        type(text) is not str
        or not (system is None or type(system) is str)
        or "{" in text
        or "}" in text
        or "log_failure" in event
        or "log_flattened" in event
    ):
        line = formatEventAsClassicLogText(event, formatTime=_format_time)
        return None if line is None else encodable(line)
    if not text:
        return None
    if system is None:
        level = event.get("log_level")
        system = f"{event.get('log_namespace', '-')}#{'-' if level is None else level.name}"
    line = f"{_format_time(event.get('log_time'))} [{system}] {text}"
    return encodable(line.replace("\n", "\n\t") + "\n")


def _format_time(when: float | None) -> str:
    """Return a time as Twisted shows it, in whole seconds."""
    return formatTime(when) if when is None else _format_second(floor(when + _HALF_MICROSECOND))


@lru_cache(16)
def _format_second(second: int) -> str:
    # Takes Twisted a third of the time of a log line, and busy servers log many in a second.
    return formatTime(second)
