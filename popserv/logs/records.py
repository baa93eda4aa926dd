"""What programs read of an event: its message, and fields with stable names.

``docs/reference/log-fields.rst`` describes the fields.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from twisted.logger import LogEvent, LogLevel, eventAsText
from twisted.python.reflect import safe_str

FIELDS = (
    *("event", "peer", "user", "method", "tls", "reason", "seconds", "retrieved", "octets"),
    *("removed", "left", "text", "cause", "sender", "recipients"),
)
"""The fields of the events of :mod:`popserv.server.session_events`, by their names, and of
:mod:`popserv.delivery.events`."""


class Record(NamedTuple):
    """An event.  No text contains what UTF-8 cannot encode."""

    time: float
    level: LogLevel
    source: str
    """Its namespace, or the system of an event of Twisted's old log."""
    message: str
    traceback: str
    """That of an exception, or empty."""
    worker: int | None
    """The number of the worker that logged it, if any."""
    fields: dict[str, str | int | float]
    """Those of FIELDS, for an event that has a name."""


def record_of(event: LogEvent) -> Record | None:
    """Return the record of an event, or None if the event has no text."""
    if "log_traceback" in event:
        # It comes from a worker, without the exception.
        message, traceback = event["log_message"], event["log_traceback"]
    else:
        message, traceback = split_text(event)
    if not (message or traceback):
        return None
    return Record(
        event.get("log_time") or 0.0,
        event.get("log_level") or LogLevel.info,
        encodable(event.get("log_namespace") or event.get("log_system") or "-"),
        encodable(message),
        encodable(traceback),
        event.get("log_worker"),
        fields_of(event),
    )


def fields_of(event: LogEvent) -> dict[str, str | int | float]:
    """Return the fields of an event, if it has a name: numbers, and texts for all else."""
    if "event" not in event:
        return {}
    return {name: _simple(event[name]) for name in FIELDS if name in event}


def split_text(event: LogEvent) -> tuple[str, str]:
    """Return the message of an event, and the traceback of its exception or nothing."""
    text = event.get("log_format")
    if type(text) is str and "{" not in text and "}" not in text and "log_failure" not in event:
        # Most events of a busy server; Twisted takes ten times as long.
        return text, ""
    message = eventAsText(
        event, includeTraceback=False, includeTimestamp=False, includeSystem=False
    )
    if "log_failure" not in event:
        return message, ""
    whole = eventAsText(event, includeTimestamp=False, includeSystem=False)
    return message, whole[len(message) + 1 :]


def _simple(value: Any) -> str | int | float:
    # JSON has no numbers such as NaN.
    is_number = type(value) is int or (type(value) is float and abs(value) < float("inf"))
    return value if is_number else encodable(value)


def encodable(value: Any) -> str:
    """Return a value as text that UTF-8 can encode."""
    text: str = value if type(value) is str else safe_str(value)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")
