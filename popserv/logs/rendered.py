"""A Logger for events that are logged often."""

from __future__ import annotations

from time import time
from typing import Any

from twisted.logger import Logger, LogLevel


class RenderedLogger(Logger):
    """A Logger whose events have their text as format, and the fields of the text beside it.

    Twisted formats a text field by field in Python, which can take longer than the rest of an
    event.
    """

    def info(self, format: str | None = None, **fields: Any) -> None:  # noqa: A002
        """Emit an event of the level info, as most events are; see Logger."""
        self._emit(LogLevel.info, format, fields)

    def emit(self, level: Any, format: str | None = None, **fields: Any) -> None:  # noqa: A002
        """Emit an event; see Logger."""
        self._emit(level, format, fields)

    def _emit(self, level: Any, template: str | None, event: dict[str, Any]) -> None:
        text = (template or "").format_map(event)
        # Logger.emit makes the same event, but first sorts all levels, to find this one there.
        event.update(
            log_logger=self,
            log_level=level,
            log_namespace=self.namespace,
            log_source=self.source,
            log_format=text.replace("{", "{{").replace("}", "}}"),
            log_time=time(),
        )
        self.observer(event)
