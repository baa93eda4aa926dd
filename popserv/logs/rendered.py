"""A Logger for events that are logged often."""

from __future__ import annotations

from time import time
from typing import Any

from twisted.logger import Logger


class RenderedLogger(Logger):
    """A Logger whose events have their text as format, and the fields of the text beside it.

    Twisted formats a text field by field in Python, which can take longer than the rest of an
    event.
    """

    def emit(self, level: Any, format: str | None = None, **fields: Any) -> None:  # noqa: A002
        """Emit an event; see Logger."""
        text = (format or "").format(**fields)
        # Logger.emit makes the same event, but first sorts all levels, to find this one there.
        fields.update(
            log_logger=self,
            log_level=level,
            log_namespace=self.namespace,
            log_source=self.source,
            log_format=text.replace("{", "{{").replace("}", "}}"),
            log_time=time(),
        )
        self.observer(fields)
