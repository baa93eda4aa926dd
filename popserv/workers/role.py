"""Which part of a server one process is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from popserv.runtime.bus import WorkerBus


@dataclass(frozen=True)
class WorkerRole:
    """Worker ``number`` of so many, counted from 1."""

    number: int = 1
    of: int = 1
    bus: WorkerBus = field(default_factory=WorkerBus)
    """To the other workers."""
    reactor: Any = None
    """What the server's endpoints listen on; None: the reactor."""

    def part(self, whole: int) -> int:
        """Return this worker's part of a number; all parts together are the number."""
        return whole // self.of + (self.number <= whole % self.of)
