"""Makes the services of ``--control`` and ``--drain``, in a process of any role."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.application import strports
from twisted.application.service import IService
from twisted.internet.defer import Deferred, succeed

from popserv.control.operations import Operations
from popserv.control.process import ProcessControl
from popserv.control.responder import Responder
from popserv.control.server import ControlFactory
from popserv.control.sessions import CountedConnections
from popserv.listening.drain import TOPIC, Drainer
from popserv.options.server import Options
from popserv.reloading.log_level import LevelFilter
from popserv.reloading.reloader import Reloader
from popserv.runtime.bus import WorkerBus
from popserv.server.factory import POP3Factory

if TYPE_CHECKING:
    from popserv.workers.supervisor import Supervisor

STOP_DELAY = 0.1
"""Seconds in which the answer to ``popserv drain`` is sent before the server stops."""


def answer_questions(
    options: Options, bus: WorkerBus, factory: POP3Factory, connections: CountedConnections
) -> None:
    """Have the process that serves answer the questions of the control socket."""
    ProcessControl(
        bus,
        factory,
        [options.store, *options.get("credCheckers", ())],
        options.certificates,
        connections,
    )


def make_control_service(
    options: Options,
    drainer: Drainer,
    reloader: Reloader,
    log_level: LevelFilter | None,
    supervisor: Supervisor | None,
    bus: WorkerBus,
) -> IService:
    """Return the service that listens on the control socket, in the main process of a server."""
    from twisted.internet import reactor

    running: Any = reactor

    def allow_drain(seconds: float) -> Deferred[Any]:
        drainer.allow(seconds)
        if supervisor is None:
            return succeed(None)
        # Workers that are started later have the time of --drain.
        supervisor.wait_for_sessions(max(seconds, options["drain"]))
        return supervisor.ask(TOPIC, seconds)

    operations = Operations(
        ask=bus.ask_here if supervisor is None else supervisor.ask,
        workers=supervisor,
        reload=lambda: reloader.reload("popserv reload"),
        log_level=log_level,
        drain_seconds=options["drain"],
        allow_drain=allow_drain,
        stop=lambda: running.callLater(STOP_DELAY, running.stop),
    )
    service: IService = strports.service(
        options["control"], ControlFactory(Responder(operations)), reactor=reactor
    )
    return service
