"""The log as JSON: one object a line."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from functools import lru_cache
from typing import IO, Any

from twisted.logger import FileLogObserver, LogEvent

from popserv.logs.records import record_of

_encode = json.JSONEncoder(allow_nan=False).encode


def json_observer(file: IO[Any]) -> FileLogObserver:
    """Return an observer that writes a line for each event that has a text."""
    return FileLogObserver(file, json_line)


def json_line(event: LogEvent) -> str | None:
    """Return the line of an event, which consists of ASCII characters."""
    record = record_of(event)
    if record is None:
        return None
    shown: dict[str, Any] = {
        "time": _utc_time(record.time),
        "level": record.level.name,
        "source": record.source,
        "message": record.message,
    }
    if record.worker is not None:
        shown["worker"] = record.worker
    if record.traceback:
        shown["traceback"] = record.traceback
    return _encode({**shown, **record.fields}) + "\n"


def _utc_time(when: float) -> str:
    """Return a time as ISO 8601 in UTC, with microseconds."""
    second, microsecond = divmod(round(when * 1_000_000), 1_000_000)
    return f"{_utc_second(second)}.{microsecond:06}Z"


@lru_cache(16)
def _utc_second(second: int) -> str:
    # Takes longer than the rest of a line, and busy servers log many in a second.
    return datetime.fromtimestamp(second, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
