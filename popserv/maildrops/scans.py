"""Counts what stores do to open maildrops that are not in memory, for ``--metrics``."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

Record = Callable[[int], object]
"""Called after a scan, in any thread, with the number of messages that it has counted."""


def record_nothing(messages: int) -> None:
    """Do nothing after a scan."""


class ScanCounts:
    """How many scans there were, and how many messages they have counted."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._scans = self._messages = 0

    def record(self, messages: int) -> None:
        """Count a scan; see Record."""
        with self._lock:
            self._scans += 1
            self._messages += messages

    def totals(self) -> tuple[int, int]:
        """Return the number of scans and of messages; see IScanCounts."""
        return self._scans, self._messages
