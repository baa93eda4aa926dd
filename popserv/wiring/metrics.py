"""Makes the parts of ``--metrics``, in a process of any role."""

from __future__ import annotations

import os
from collections.abc import Callable, Sized
from typing import TYPE_CHECKING, Any

from twisted.application import strports
from twisted.application.service import IService

from popserv.interfaces import IMeasuredStore
from popserv.listening.drain import Drainer
from popserv.listening.listeners import Listeners
from popserv.listening.reactor import AddressFamilyReactor
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
    lmtp: Sized,
) -> None:
    """Have the process that serves answer the question for its metrics.

    :param lmtp: the connections of ``--lmtp``.
    """
    ProcessMetrics(
        role.bus,
        role.number,
        instruments.counters,
        factory,
        connections,
        [options.store, *options.get("credCheckers", ())],
        options.certificates,
        lambda: drainer.is_draining,
        lmtp,
    )


def make_metrics_service(
    options: Options,
    role: WorkerRole,
    factory: POP3Factory,
    drainer: Drainer,
    supervisor: Supervisor | None,
    is_store_reachable: Callable[[], bool] | None = None,
) -> IService:
    """Return the service that listens for HTTP, in the main process of a server.

    :param is_store_reachable: of a store that servers share; None for another one.
    """
    from twisted.internet import reactor

    # Workers, which do not serve it, need not load it.
    from popserv.control.overview import Overviews  # noqa: PLC0415
    from popserv.metrics.site import make_site  # noqa: PLC0415
    from popserv.metrics.store_survey import StoreSurvey  # noqa: PLC0415
    from popserv.status_page.monitor import Monitor  # noqa: PLC0415
    from popserv.status_page.resource import StatusPage  # noqa: PLC0415

    def pids() -> set[int]:
        if supervisor is None:
            return {os.getpid()}
        return {each["pid"] for each in supervisor.overview()}

    ask = role.bus.ask_here if supervisor is None else supervisor.ask
    survey = None
    if IMeasuredStore.providedBy(options.store):
        survey = StoreSurvey(options.store, reactor)
    metrics = ServerMetrics(
        ask,
        options["workers"],
        pids,
        lambda: drainer.is_draining,
        dict if survey is None else survey.samples,
    )
    host = factory.host.decode("ascii")
    monitor = Monitor(metrics, Overviews(ask, supervisor), host)
    site = make_site(metrics, StatusPage(monitor.contents, host), is_store_reachable)
    listeners = Listeners(["--metrics"])
    opener: Any = AddressFamilyReactor(reactor)
    strports.service(options["metrics"], site, reactor=opener).setServiceParent(listeners)
    if survey is not None:
        survey.setServiceParent(listeners)
    monitor.setServiceParent(listeners)
    return IService(listeners)
