"""What is known of a server as a whole: the sums of what its processes answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred

from popserv import __version__
from popserv.control.operations import Workers
from popserv.control.process import TOPIC
from popserv.control.sessions import order_of
from popserv.reloading.log_level import LevelFilter
from popserv.runtime.bus import Answers


@dataclass(frozen=True)
class Overview:
    """What is known of a server at one time.

    ``status`` and the items are as in the answers of the control socket.  ``certificate_count`` is
    the number of all certificates, and ``missing`` that of the processes that have not answered.
    """

    status: Mapping[str, Any]
    sessions: Sequence[Mapping[str, Any]]
    workers: Sequence[Mapping[str, Any]]
    certificates: Sequence[Mapping[str, Any]]
    certificate_count: int
    missing: int


class Overviews:
    """Asks all processes of a server.

    :param ask: see :class:`popserv.runtime.bus.WorkerBus`.
    :param workers: None in a server of one process.
    :param log_level: the filter of the log, if there is one.
    """

    def __init__(
        self,
        ask: Callable[[str, Any], Deferred[Answers]],
        workers: Workers | None,
        log_level: LevelFilter | None = None,
    ) -> None:
        self._ask = ask
        self._workers = workers
        self._log_level = log_level
        self._started = time.monotonic()

    def ask(self, max_sessions: int, max_certificates: int) -> Deferred[Overview]:
        """Return the status, the workers, and at most so many sessions and certificates.

        Sessions that are logged in come first, and certificates that end first.
        """
        answered = self._ask(TOPIC + "overview", [max_sessions, max_certificates])
        return answered.addCallback(self._overview, max_sessions)

    def status(self, processes: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Return the status of a server whose processes have this status."""
        caches: dict[str, int] = {}
        for each in processes:
            for name, size in each["caches"].items():
                caches[name] = caches.get(name, 0) + size
        return {
            "version": __version__,
            "uptime": round(time.monotonic() - self._started, 1),
            **{
                name: sum(each[name] for each in processes)
                for name in ("connections", "sessions", "accepted", "logins")
            },
            # Workers tell each other of failed logins.
            "networks_with_failures": max(
                (each["networks_with_failures"] for each in processes), default=0
            ),
            "caches": caches,
            "log_level": None if self._log_level is None else self._log_level.level,
        }

    def workers(self) -> Sequence[Mapping[str, Any]]:
        """Return what is known of each worker's process, in the order of their process IDs."""
        return [] if self._workers is None else self._workers.overview()

    def _overview(self, answers: Answers, max_sessions: int) -> Overview:
        processes = answers.given
        sessions = sorted(
            (session for each in processes for session in each["sessions"]),
            key=lambda each: (each["state"] == "AUTHORIZATION", order_of(each["id"])),
        )
        # All processes have the same certificates.
        nothing = {"certificates": [], "certificate_count": 0}
        certificates: Mapping[str, Any] = processes[0] if processes else nothing
        return Overview(
            self.status([each["status"] for each in processes]),
            sessions[:max_sessions],
            self.workers(),
            certificates["certificates"],
            certificates["certificate_count"],
            answers.missing,
        )
