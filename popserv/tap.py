"""``twistd pop3``: makes the service that the options describe.

This module is the top layer: it may import every package of popserv, and twistd imports it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from io import TextIOWrapper
from os import getuid
from pwd import getpwuid
from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit, setrlimit
from socket import getaddrinfo
from typing import TYPE_CHECKING

from twisted.application import strports
from twisted.application.internet import TimerService
from twisted.application.service import IService
from twisted.cred.portal import IRealm
from twisted.internet.interfaces import IProtocolFactory

from popserv.auth.realm import MaildropRealm
from popserv.auth.throttle.login_delay import LoginDelayRealm
from popserv.auth.user_sessions import UserSessionsRealm
from popserv.commandline.factories import (
    make_factory,
    make_preauthenticated_factory,
    warn_about_short_timeout,
)
from popserv.commandline.option_values import split_proxy_prefix
from popserv.commandline.options import Options
from popserv.interfaces import IReloadable
from popserv.listening.drain import TOPIC as DRAIN_TOPIC
from popserv.listening.drain import Drainer
from popserv.listening.listeners import CannotStart, Listeners
from popserv.listening.reactor import AddressFamilyReactor
from popserv.reloading.log_level import LevelFilter
from popserv.reloading.reloader import Reloader
from popserv.reloading.service_manager import ServiceManager
from popserv.runtime.clock import use_steady_clock
from popserv.server.factory import POP3Factory
from popserv.server.proxy import ProxyFactory
from popserv.transports.networks import LOOPBACK
from popserv.transports.unix_users import peer_user
from popserv.workers.role import WorkerRole
from popserv.workers.supervisor import Supervisor

if TYPE_CHECKING:
    from popserv.control.sessions import CountedConnections
    from popserv.tls.certificates import Certificates

__all__ = ["CannotStart", "Options", "makeService"]

_DESCRIPTORS_PER_CONNECTION = 4
"""A socket, a Maildir, and the two folders of the Maildir once a message is read."""
_DAY = 24 * 60 * 60


def makeService(options: Options, role: WorkerRole | None = None) -> IService:
    """Return the service that the options describe.

    With a ``role`` it is the service of that worker.  Without one it is the whole server: a
    single process, or with ``--workers`` the supervisor.  The process handles SIGHUP if twistd or
    the supervisor has started it.
    """
    from twisted.internet import reactor

    use_steady_clock(reactor)
    is_worker = role is not None
    supervisor = None
    if role is None and options["workers"] > 1:
        supervisor = Supervisor(options["workers"], __name__, options.arguments)
        role = WorkerRole(reactor=supervisor.opener)
    role = role or WorkerRole(reactor=AddressFamilyReactor(reactor))
    _load_name_service()
    if isinstance(sys.__stdout__, TextIOWrapper):
        # If its encoding lacked a character, a line of the log would be lost.
        sys.__stdout__.reconfigure(errors="backslashreplace")
    # With Python's default, a thread that reads a large directory blocks the reactor for 5 ms.
    sys.setswitchinterval(0.0005)
    realm: IRealm = UserSessionsRealm(
        MaildropRealm(options.store), options["max-user-sessions"], bus=role.bus
    )
    if options["login-delay"]:
        realm = LoginDelayRealm(realm, options["login-delay"], bus=role.bus)
    warn_about_short_timeout(options)
    connections = _counted_connections() if options["control"] else None
    factory = make_factory(
        options,
        realm,
        max_connections=role.share_of(options["max-connections"] or 0)
        or _default_max_connections(),
        trusted_networks=options["trusted-networks"],
        bus=role.bus,
        connections=connections,
    )
    listeners = supervisor or Listeners()

    def listen(endpoints: Iterable[str], factory: IProtocolFactory) -> None:
        for endpoint in endpoints:
            is_proxied, inner = split_proxy_prefix(endpoint)
            service = strports.service(
                inner,
                ProxyFactory(factory, options["proxies"] or LOOPBACK) if is_proxied else factory,
                reactor=role.reactor,
            )
            service.setServiceParent(listeners)

    listen(options["listen"], factory)
    if options["preauth"]:
        preauthenticated = make_preauthenticated_factory(
            options,
            realm,
            peer_user,
            max_connections=factory.max_connections,
            connections=factory.connections,
        )
        listen(options["preauth"], preauthenticated)
    certificates = options.certificates
    if certificates is not None:
        listen(options["listen-tls"], _over_tls(certificates, factory))
        if supervisor is None and role.number == 1:
            # One worker warns for all; the supervisor does not reload certificates.
            TimerService(_DAY, certificates.warn_of_expiry).setServiceParent(listeners)
    drainer = None
    if options["drain"] or options["control"]:
        if supervisor is not None:
            supervisor.wait_for_sessions(options["drain"])
        drainer = Drainer(
            listeners,
            options["drain"],
            factory.connections,
            leaving=role.leaving,
            hurry=None if is_worker else partial(_end_drain, supervisor),
        )
        role.bus.answer(DRAIN_TOPIC, drainer.allow)
    service: IService = drainer or listeners
    if options.parent is None and not is_worker:
        return service
    reloadables: list[IReloadable] = [supervisor] if supervisor else _reloadables(options)
    if options.config is not None:
        reloadables.append(options.config)
    log_file = options.open_log_file()
    observer = log_file.observer if log_file is not None else options.standard_output()
    log_level = LevelFilter(observer) if options["control"] and observer is not None else None
    reloader = Reloader(
        reloadables,
        log_file,
        log_level or observer,
        logs_signals=not is_worker,
        manager=None if is_worker else ServiceManager(os.environ),
        status=f"serving, {options['workers']} workers" if supervisor else "serving",
    )
    service.setServiceParent(reloader)
    if drainer is not None and connections is not None:
        # A server without it need not load it.
        from popserv.commandline.control_service import (  # noqa: PLC0415
            answer_questions,
            make_control_service,
        )

        if supervisor is None:
            answer_questions(options, role.bus, factory, connections)
        if not is_worker:
            control = make_control_service(
                options, drainer, reloader, log_level, supervisor, role.bus
            )
            control.setServiceParent(drainer)
    return reloader


def _counted_connections() -> CountedConnections:
    # A server without --control need not load it.
    from popserv.control.sessions import CountedConnections  # noqa: PLC0415

    return CountedConnections()


def _end_drain(supervisor: Supervisor | None) -> None:
    """Have the workers end their sessions now."""
    if supervisor is not None:
        supervisor.ask(DRAIN_TOPIC, 0)


def _reloadables(options: Options) -> list[IReloadable]:
    used = [*options.get("credCheckers", ()), options.certificates]
    return [each for each in used if IReloadable.providedBy(each)]


def _over_tls(certificates: Certificates, factory: POP3Factory) -> IProtocolFactory:
    # TLS is an extra.
    from popserv.transports.tls import TLSFactory  # noqa: PLC0415

    over_tls: IProtocolFactory = TLSFactory(certificates, factory)
    return over_tls


def _load_name_service() -> None:
    """Load the C library's modules for host names and users, and Python's codec for host names.

    Later, the process may not be able to read their files, because of twistd's --uid or --chroot.
    """
    with suppress(OSError):
        getaddrinfo("localhost", None)
    with suppress(KeyError):
        getpwuid(getuid())


def _default_max_connections() -> int:
    """Raise the limit of open files; return the number of connections that it allows."""
    _, hard = getrlimit(RLIMIT_NOFILE)
    setrlimit(RLIMIT_NOFILE, (hard, hard))
    files = 1 << 20 if hard == RLIM_INFINITY else hard
    return max(1, min(10_000, (files - 100) // _DESCRIPTORS_PER_CONNECTION))
