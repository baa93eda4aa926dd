"""``twistd pop3``: makes the service that the options describe.

This module is the top layer: it may import every package of popserv, and twistd imports it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence, Sized
from functools import partial
from typing import TYPE_CHECKING

from twisted.application.internet import TimerService
from twisted.application.service import IService

from popserv.interfaces import IReloadable, ISharedStore, IStoppingStore
from popserv.listening.drain import TOPIC as DRAIN_TOPIC
from popserv.listening.drain import Drainer
from popserv.listening.listeners import CannotStart, Listeners
from popserv.listening.reactor import AddressFamilyReactor
from popserv.maildrops.stopping import StoreService
from popserv.options.server import Options
from popserv.reloading.log_level import LevelFilter
from popserv.reloading.reloader import Reloader
from popserv.reloading.service_manager import ServiceManager
from popserv.runtime.clock import use_steady_clock
from popserv.runtime.polling import poll_faster
from popserv.server.connection_limit import CountedConnections
from popserv.wiring.delivery import make_lmtp_factory
from popserv.wiring.endpoints import add_listeners
from popserv.wiring.factories import (
    make_factory,
    make_realm,
    start_polling,
    warn_about_short_timeout,
)
from popserv.wiring.privileges import OwnersService
from popserv.wiring.process import default_max_connections, log_user, prepare_process
from popserv.workers.role import WorkerRole
from popserv.workers.supervisor import Supervisor

if TYPE_CHECKING:
    from popserv.control.host_service import StoreContact
    from popserv.metrics.instruments import Instruments

__all__ = ["CannotStart", "Options", "makeService"]

_DAY = 24 * 60 * 60


def makeService(options: Options, role: WorkerRole | None = None) -> IService:
    """Return the service that the options describe.

    With a ``role`` it is the service of that worker.  Without one it is the whole server: a
    single process, or with ``--workers`` the supervisor.  The process handles SIGHUP if twistd or
    the supervisor has started it.
    """
    from twisted.internet import reactor

    use_steady_clock(reactor)
    poll_faster(reactor)
    prepare_process()
    is_worker = role is not None
    supervisor = None
    if role is None and options["workers"] > 1:
        supervisor = Supervisor(options["workers"], __name__, options.arguments)
        role = WorkerRole(reactor=supervisor.opener)
    role = role or WorkerRole(reactor=AddressFamilyReactor(reactor))
    warn_about_short_timeout(options)
    instruments = _make_instruments() if options["metrics"] else None
    realm = make_realm(options, role.bus, instruments)
    is_shared = ISharedStore.providedBy(options.store)
    is_steered = options["control"] or is_shared
    connections = CountedConnections() if is_steered or options["metrics"] else None
    # Also with --max-connections, whose connections need files as well.
    allowed = default_max_connections()
    factory = make_factory(
        options,
        realm,
        max_connections=role.share_of(options["max-connections"] or 0) or allowed,
        trusted_networks=options["trusted-networks"],
        bus=role.bus,
        connections=connections,
    )
    if instruments is not None:
        instruments.measure_factory(factory)
    listeners = supervisor or Listeners()
    lmtp = make_lmtp_factory(options) if options["lmtp"] else None
    if instruments is not None:
        instruments.measure_store(options.store)
        if lmtp is not None:
            instruments.measure_lmtp(lmtp)
    add_listeners(listeners, options, factory, realm, role.reactor, instruments, lmtp)
    if options.certificates is not None and supervisor is None and role.number == 1:
        # One worker warns for all; the supervisor does not reload certificates.
        TimerService(_DAY, options.certificates.warn_of_expiry).setServiceParent(listeners)
    if supervisor is None:
        reactor.callWhenRunning(start_polling, options)
        if is_shared:
            use_secret = factory.throttle.penalties.use_key
            reactor.callWhenRunning(ISharedStore(options.store).share, role.bus, use_secret)
    if supervisor is None and role.number == 1:
        # When it runs, twistd has given up its privileges.
        reactor.callWhenRunning(log_user, options.store)
    deliverers: Sized = () if lmtp is None else lmtp.connections
    drainer = None
    if options["drain"] or connections is not None:
        served = [factory.connections, deliverers]
        drainer = _make_drainer(options, role, served, supervisor, listeners, is_worker=is_worker)
    if connections is not None and supervisor is None:
        # A server without --control and --metrics need not load it.
        from popserv.wiring.control import answer_questions  # noqa: PLC0415

        answer_questions(options, role.bus, factory, connections)
    # Only what twistd starts is steered; see below.
    is_main = options.parent is not None and not is_worker
    contact = _make_contact() if is_shared and is_main else None
    if instruments is not None and connections is not None and drainer is not None:
        # A server without it need not load it.
        from popserv.wiring import metrics  # noqa: PLC0415

        if supervisor is None:
            metrics.answer_for_process(
                options, role, instruments, factory, connections, drainer, deliverers
            )
        if not is_worker:
            site = metrics.make_metrics_service(
                options,
                role,
                factory,
                drainer,
                supervisor,
                None if contact is None else contact.is_reachable,
            )
            site.setServiceParent(drainer)
    service: IService = drainer or listeners
    if IStoppingStore.providedBy(options.store) and (supervisor is None or is_shared):
        service = StoreService(options.store, service)
    if options["as-owners"]:
        service = OwnersService(service, has_workers=supervisor is not None)
    if options.parent is None and not is_worker:
        return service
    log_file = options.open_log_file()
    observer = log_file.observer if log_file is not None else options.standard_output()
    log_level = LevelFilter(observer) if is_steered and observer is not None else None
    reloader = Reloader(
        _reloadables(options, supervisor),
        log_file,
        log_level or observer,
        logs_signals=not is_worker,
        manager=None if is_worker else ServiceManager(os.environ),
        status=f"serving, {options['workers']} workers" if supervisor else "serving",
        time_to_stop=drainer.time_to_stop if drainer is not None else lambda: 0.0,
    )
    service.setServiceParent(reloader)
    if is_steered and drainer is not None and is_main:
        from popserv.wiring import control  # noqa: PLC0415

        responder = control.make_responder(
            options, drainer, reloader, log_level, supervisor, role.bus
        )
        if options["control"]:
            control.make_control_service(options, responder).setServiceParent(drainer)
        if contact is not None:
            host = control.make_host_service(options, factory.host, responder, drainer, contact)
            host.setServiceParent(drainer)
    return reloader


def _make_drainer(
    options: Options,
    role: WorkerRole,
    connections: Iterable[Sized],
    supervisor: Supervisor | None,
    listeners: Listeners,
    *,
    is_worker: bool,
) -> Drainer:
    """Return the service that stops ``listeners`` first and waits for the connections."""
    if supervisor is not None:
        supervisor.wait_for_sessions(options["drain"])
    drainer = Drainer(
        listeners,
        options["drain"],
        connections,
        leaving=role.leaving,
        hurry=None if is_worker else partial(_end_drain, supervisor),
    )
    role.bus.answer(DRAIN_TOPIC, drainer.allow)
    return drainer


def _end_drain(supervisor: Supervisor | None) -> None:
    """Have the workers end their sessions now."""
    if supervisor is not None:
        supervisor.ask(DRAIN_TOPIC, 0)


def _make_instruments() -> Instruments:
    # A server without --metrics need not load them.
    from popserv.metrics.instruments import Instruments  # noqa: PLC0415

    return Instruments()


def _make_contact() -> StoreContact:
    # A server whose store is not shared need not load it.
    from popserv.control.host_service import StoreContact  # noqa: PLC0415

    return StoreContact(time.monotonic)


def _reloadables(options: Options, supervisor: Supervisor | None) -> Sequence[IReloadable]:
    """Return what SIGHUP reads again in this process."""
    used = [*options.get("credCheckers", ()), options.certificates]
    if supervisor is not None:
        used = [supervisor]
    return [each for each in (*used, options.config) if IReloadable.providedBy(each)]
