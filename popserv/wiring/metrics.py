"""Makes the parts of ``--metrics``, in a process of any role."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from twisted.application import strports
from twisted.application.service import IService

from popserv.listening.drain import Drainer
from popserv.listening.listeners import Listeners
from popserv.metrics.instruments import Instruments
from popserv.metrics.process import ProcessMetrics
from popserv.metrics.totals import ServerMetrics
from popserv.options.server import Options
from popserv.server.connection_limit import CountedConnections
from popserv.server.factory import POP3Factory

if TYPE_CHECKING:
    from popserv.workers.role import WorkerRole
    from popserv.workers.supervisor import Supervisor


def answer_for_process(
    options: Options,
    role: WorkerRole,
    instruments: Instruments,
    factory: POP3Factory,
    connections: CountedConnections,
    drainer: Drainer,
) -> None:
    """Have the process that serves answer the question for its metrics."""
    ProcessMetrics(
        role.bus,
        role.number,
        instruments.counters,
        factory,
        connections,
        [options.store, *options.get("credCheckers", ())],
        options.certificates,
        lambda: drainer.is_draining,
    )


def make_metrics_service(
    options: Options, role: WorkerRole, drainer: Drainer, supervisor: Supervisor | None
) -> IService:
    """Return the service that listens for HTTP, in the main process of a server."""
    from twisted.internet import reactor

    # Workers, which do not serve it, need not load it.
    from popserv.metrics.site import make_site  # noqa: PLC0415

    def pids() -> set[int]:
        if supervisor is None:
            return {os.getpid()}
        return {each["pid"] for each in supervisor.overview()}

    metrics = ServerMetrics(
        role.bus.ask_here if supervisor is None else supervisor.ask,
        options["workers"],
        pids,
        lambda: drainer.is_draining,
    )
    listeners = Listeners(["--metrics"])
    service = strports.service(options["metrics"], make_site(metrics), reactor=reactor)
    service.setServiceParent(listeners)
    return IService(listeners)
