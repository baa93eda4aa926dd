"""What a service must know of its worker process: number, share of limits, and bus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from popserv.runtime.bus import WorkerBus


@dataclass(frozen=True)
class WorkerRole:
    """The role of a worker; by default that of a server's only process."""

    number: int = 1
    """The worker's number, from 1 to ``count``."""
    count: int = 1
    """How many workers the server has."""
    bus: WorkerBus = field(default_factory=WorkerBus)
    """Sends updates to the other workers, and receives theirs."""
    reactor: Any = None
    """The reactor that the server's endpoints listen on; None stands for Twisted's."""

    leaving: Callable[[], object] = lambda: None
    """Tells the supervisor that this worker accepts no more connections."""

    def share_of(self, total: int) -> int:
        """Return this worker's share of a limit; the shares of all workers add up to the total."""
        return total // self.count + (self.number <= total % self.count)
