"""The log as JSON: one object a line."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import IO, Any

from twisted.logger import FileLogObserver, LogEvent

from popserv.logs.records import record_of


def json_observer(file: IO[Any]) -> FileLogObserver:
    """Return an observer that writes a line for each event that has a text."""
    return FileLogObserver(file, json_line)


def json_line(event: LogEvent) -> str | None:
    """Return the line of an event, which consists of ASCII characters."""
    record = record_of(event)
    if record is None:
        return None
    when = datetime.fromtimestamp(record.time, timezone.utc)
    shown: dict[str, Any] = {
        "time": when.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "level": record.level.name,
        "source": record.source,
        "message": record.message,
    }
    if record.worker is not None:
        shown["worker"] = record.worker
    if record.traceback:
        shown["traceback"] = record.traceback
    return json.dumps({**shown, **record.fields}, allow_nan=False) + "\n"
