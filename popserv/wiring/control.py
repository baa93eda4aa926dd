"""Makes the services of ``--control``, ``--drain`` and hosts, in a process of any role."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from twisted.application import strports
from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError, ReactorNotRunning

from popserv.control.endpoint import socket_path
from popserv.control.host_service import HostService, StoreContact
from popserv.control.operations import Operations
from popserv.control.process import ProcessControl
from popserv.control.responder import Responder
from popserv.control.server import ControlFactory
from popserv.interfaces import ISharedStore
from popserv.listening.drain import TOPIC, Drainer
from popserv.listening.listeners import CannotStart
from popserv.listening.reactor import AddressFamilyReactor
from popserv.options.server import Options
from popserv.reloading.log_level import LevelFilter
from popserv.reloading.reloader import Reloader
from popserv.runtime.bus import Answers, WorkerBus
from popserv.runtime.permissions import reason_of
from popserv.server.connection_limit import CountedConnections
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


def make_responder(
    options: Options,
    drainer: Drainer,
    reloader: Reloader,
    log_level: LevelFilter | None,
    supervisor: Supervisor | None,
    bus: WorkerBus,
) -> Responder:
    """Return what carries out commands, in the main process of a server."""
    from twisted.internet import reactor

    running: Any = reactor

    def allow_drain(seconds: float) -> Deferred[Answers]:
        if supervisor is None:
            return succeed(Answers(()))
        # Workers that are started later have the time of --drain.
        supervisor.wait_for_sessions(max(seconds, options["drain"]))
        return supervisor.ask(TOPIC, seconds)

    def stop(seconds: float) -> None:
        # If workers are replaced, the server stops later, and with the time of --drain.
        drainer.allow(seconds)
        running.callLater(STOP_DELAY, _stop, running.stop)

    operations = Operations(
        ask=bus.ask_here if supervisor is None else supervisor.ask,
        workers=supervisor,
        reload=lambda: reloader.reload("popserv reload"),
        log_level=log_level,
        drain_seconds=options["drain"],
        allow_drain=allow_drain,
        stop=stop,
    )
    return Responder(operations)


def make_control_service(options: Options, responder: Responder) -> IService:
    """Return the service that listens on the control socket, in the main process of a server."""
    from twisted.internet import reactor

    opener: Any = AddressFamilyReactor(reactor)
    service = strports.service(options["control"], ControlFactory(responder), reactor=opener)
    listener = _ControlListener(socket_path(options["control"]))
    service.setServiceParent(listener)
    return listener


def make_host_service(
    options: Options, name: bytes, responder: Responder, drainer: Drainer, contact: StoreContact
) -> IService:
    """Return the service of a server with a shared store, in its main process."""
    from twisted.internet import reactor

    return HostService(
        ISharedStore(options.store).hosts,
        name.decode("ascii"),
        responder,
        lambda: drainer.is_draining,
        contact,
        reactor,
    )


def _stop(stop: Callable[[], object]) -> None:
    # A second popserv drain only changes the time that sessions have.
    with suppress(ReactorNotRunning):
        stop()


class _ControlListener(MultiService):
    """The service that listens on the control socket."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def privilegedStartService(self) -> None:
        """Open the socket while the process still has its privileges.

        :raises CannotStart: it cannot be opened.
        """
        try:
            super().privilegedStartService()
        except (CannotListenError, OSError) as error:
            reason = getattr(error, "socketError", error)
            raise CannotStart(
                f"popserv: --control {self._path}: "
                f"{reason_of(reason) if isinstance(reason, OSError) else reason}; its directory "
                "must exist and belong to the user that starts the server, and no other server "
                "may use it"
            ) from None
