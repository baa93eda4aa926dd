"""The lowest level of the events that are logged, which can be changed while the server runs."""

from __future__ import annotations

from twisted.logger import ILogObserver, LogEvent, LogLevel
from zope.interface import implementer

LEVELS = tuple(level.name for level in LogLevel.iterconstants())
"""The names of the levels, the lowest first."""


@implementer(ILogObserver)
class LevelFilter:
    """Passes the events of a level, and those above it, on to another observer.

    It starts with ``debug``, the lowest.
    """

    def __init__(self, observer: ILogObserver) -> None:
        self._observer = observer
        self._minimum = LogLevel.debug

    @property
    def level(self) -> str:
        """The name of the lowest level that is logged."""
        return str(self._minimum.name)

    def set_level(self, name: str) -> None:
        """Set the lowest level that is logged.

        :raises ValueError: there is no such level.
        """
        if name not in LEVELS:
            raise ValueError(f"{name!r} is no level; use one of {', '.join(LEVELS)}")
        self._minimum = LogLevel.levelWithName(name)

    def __call__(self, event: LogEvent) -> None:
        """Pass on an event; see ILogObserver."""
        if event.get("log_level", LogLevel.info) >= self._minimum:
            self._observer(event)
