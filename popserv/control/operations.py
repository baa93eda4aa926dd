"""What the control socket can do with a server, whether it has one process or many."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from popserv.reloading.log_level import LevelFilter
from popserv.runtime.bus import Answers

DEFAULT_DRAIN = 60
"""The seconds that sessions have after ``popserv drain``, if the server has no ``--drain``."""


class Workers(Protocol):
    """The workers of a server."""

    @property
    def is_replacing(self) -> bool:
        """Whether workers are being replaced."""

    def replace_workers(self) -> Deferred[None]:
        """Replace each worker by a new process; not while ``is_replacing``."""

    def overview(self) -> Sequence[Mapping[str, Any]]:
        """Return what is known of each worker's process."""


@dataclass(frozen=True)
class Operations:
    """The operations of a server."""

    ask: Callable[[str, Any], Deferred[Answers]]
    """Asks all processes; see :class:`popserv.runtime.bus.WorkerBus`."""
    workers: Workers | None
    """The workers; None in a server of one process."""
    reload: Callable[[], object]
    """Does what SIGHUP does."""
    log_level: LevelFilter | None
    """The filter of the log; None if twistd writes the log by itself."""
    drain_seconds: float
    """The value of ``--drain``."""
    allow_drain: Callable[[float], Deferred[Answers]]
    """Gives sessions of workers some seconds from the time at which they stop accepting."""
    stop: Callable[[float], object]
    """Stops the server, and gives the sessions of this process so many seconds."""
