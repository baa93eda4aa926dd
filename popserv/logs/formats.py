"""The values of ``--log-format``."""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, Any

from twisted.logger import ILogObserver

from popserv.logs.journal import JournalObserver
from popserv.logs.json_lines import json_observer
from popserv.logs.text_lines import line_observer


def _journal_observer(file: IO[Any]) -> ILogObserver:
    return JournalObserver(line_observer(file))


TEXT = "text"
FORMATS: dict[str, Callable[[IO[Any]], ILogObserver]] = {
    TEXT: line_observer,
    "json": json_observer,
    "journald": _journal_observer,
}
"""Makes the observer for a file; the journal's observer writes there what it cannot send."""
