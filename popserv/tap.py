"""``twistd pop3``: from options to a service; the one room that knows everybody."""

from __future__ import annotations

import sys
from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit, setrlimit
from typing import TYPE_CHECKING

from twisted.application import strports
from twisted.application.internet import TimerService
from twisted.application.service import IService
from twisted.cred.portal import IRealm
from twisted.internet.interfaces import IProtocolFactory

from popserv.auth.realm import MaildropRealm
from popserv.auth.throttle.login_delay import LoginDelayRealm
from popserv.commandline.factories import make_factory, make_preauthenticated, warn_of_timeout
from popserv.commandline.options import Options
from popserv.maildrops.maildir.store import MaildirMaildrops
from popserv.server.factory import POP3Factory
from popserv.server.listeners import CannotStart, Listeners
from popserv.transports.unix_users import peer_user
from popserv.workers.role import WorkerRole
from popserv.workers.supervisor import Supervisor

if TYPE_CHECKING:
    from popserv.tls.certificates import Certificates

__all__ = ["CannotStart", "Options", "makeService"]

_FDS_A_CONNECTION = 4
"""A socket and a Maildir, and its folders once a message is read."""


def makeService(options: Options, share: WorkerRole | None = None) -> IService:
    """Return the service that the options describe.

    Without a ``share`` it is the whole: with ``--workers`` the supervisor of processes that
    each have their share.
    """
    supervisor = None
    if share is None and options["workers"] > 1:
        supervisor = Supervisor(options["workers"], __name__, options.arguments)
        share = WorkerRole(reactor=supervisor.opener)
    share = share or WorkerRole()
    # A thread that reads a huge directory must not hold up the reactor for the usual 5 ms.
    sys.setswitchinterval(0.0005)
    maildrops = MaildirMaildrops(
        options["maildir"], cache_messages=share.share_of(options["cache-messages"])
    )
    realm: IRealm = MaildropRealm(maildrops)
    if options["login-delay"]:
        realm = LoginDelayRealm(realm, options["login-delay"], bus=share.bus)
    warn_of_timeout(options)
    factory = make_factory(
        options,
        realm,
        max_connections=share.share_of(options["max-connections"] or 0) or _room(),
        trusted_networks=options["trusted-networks"],
        bus=share.bus,
    )
    listeners = supervisor or Listeners()
    for endpoint in options["listen"]:
        strports.service(endpoint, factory, reactor=share.reactor).setServiceParent(listeners)
    if options["preauth"]:
        known = make_preauthenticated(
            options,
            realm,
            peer_user,
            max_connections=factory.max_connections,
            connections=factory.connections,
        )
        for endpoint in options["preauth"]:
            strports.service(endpoint, known, reactor=share.reactor).setServiceParent(listeners)
    certificates = options.certificates
    if certificates is not None:
        over_tls = _over_tls(certificates, factory)
        for endpoint in options["listen-tls"]:
            strports.service(endpoint, over_tls, reactor=share.reactor).setServiceParent(listeners)
        if supervisor is None and share.number == 1:
            # The supervisor shows no certificates, and does not read them anew.
            TimerService(_DAY, certificates.warn_of_expiry).setServiceParent(listeners)
    return listeners


_DAY = 24 * 60 * 60


def _over_tls(certificates: Certificates, factory: POP3Factory) -> IProtocolFactory:
    from twisted.protocols.tls import TLSMemoryBIOFactory

    over_tls: IProtocolFactory = TLSMemoryBIOFactory(certificates, False, factory)
    return over_tls


def _room() -> int:
    """Return how many connections the limit of open files allows, having raised it."""
    _, hard = getrlimit(RLIMIT_NOFILE)
    setrlimit(RLIMIT_NOFILE, (hard, hard))
    files = 1 << 20 if hard == RLIM_INFINITY else hard
    return max(1, min(10_000, (files - 100) // _FDS_A_CONNECTION))
