"""What a supervisor does when something happens to one of its workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from popserv.workers.worker_process import WorkerProcess


class WorkerEvents(Protocol):
    """What the supervisor does when something happens to a worker."""

    def message_received(self, word: bytes, line: bytes, worker: WorkerProcess) -> None:
        """Process a message that is not for the worker's own object; ``word`` begins the line."""

    def worker_ready(self, worker: WorkerProcess) -> None:
        """The worker accepts connections."""

    def worker_leaving(self, worker: WorkerProcess) -> None:
        """The worker has stopped accepting connections by itself, and will exit."""

    def worker_ended(self, worker: WorkerProcess) -> None:
        """The worker's process has exited; it is not restarted if it was a candidate or leaving."""
