"""``twistd pop3``: from options to a service; the one room that knows everybody."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit, setrlimit
from socket import gethostname
from typing import TYPE_CHECKING, Any

from twisted.application import strports
from twisted.application.internet import TimerService
from twisted.application.service import IService
from twisted.cred.portal import IRealm, Portal
from twisted.internet.interfaces import IProtocolFactory
from twisted.logger import Logger

from popserv import __version__
from popserv.auth.delay import LoginDelayRealm
from popserv.auth.login import PortalLogin
from popserv.auth.mechanisms import BY_DEFAULT
from popserv.auth.realm import MaildropRealm
from popserv.command import Command, CommandTable
from popserv.commands import capa, rfc1460, sasl, utf8
from popserv.idle import MINIMUM
from popserv.listeners import CannotStart, Listeners
from popserv.maildrops.maildir import MaildirMaildrops
from popserv.options import Options
from popserv.protocol import POP3Factory
from popserv.session_options import SessionOptions
from popserv.workers.share import Share
from popserv.workers.supervisor import Supervisor

if TYPE_CHECKING:
    from popserv.tls import Certificates

__all__ = ["CannotStart", "Options", "makeService"]

_log = Logger()

_FDS_A_CONNECTION = 4
"""A socket and a Maildir, and its folders once a message is read."""


def makeService(options: Options, share: Share | None = None) -> IService:
    """Return the service that the options describe.

    Without a ``share`` it is the whole: with ``--workers`` the supervisor of processes that
    each have their share.
    """
    supervisor = None
    if share is None and options["workers"] > 1:
        supervisor = Supervisor(options["workers"], options.arguments)
        share = Share(reactor=supervisor.opener)
    share = share or Share()
    # A thread that reads a huge directory must not hold up the reactor for the usual 5 ms.
    sys.setswitchinterval(0.0005)
    maildrops = MaildirMaildrops(options["maildir"], remember=share.part(options["remember"]))
    realm: IRealm = MaildropRealm(maildrops)
    if options["login-delay"]:
        realm = LoginDelayRealm(realm, options["login-delay"], exchange=share.exchange)
    factory = make_factory(
        options,
        realm,
        login_delay=options["login-delay"],
        max_connections=share.part(options["max-connections"] or 0) or _room(),
        trusted=options["trusted"],
        exchange=share.exchange,
    )
    listeners = supervisor or Listeners()
    for endpoint in options["listen"]:
        strports.service(endpoint, factory, reactor=share.reactor).setServiceParent(listeners)
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


def make_factory(
    options: SessionOptions, realm: IRealm, *, login_delay: int = 0, **traits: Any
) -> POP3Factory:
    """Return the factory that the options describe, for users of the realm.

    ``traits`` are further ones of the factory.
    """
    if options["timeout"] < MINIMUM:
        _log.warn(
            "--timeout {given:g}: RFC 1725 section 3 wants {minimum} seconds at least; "
            "slow clients and people will be cut off",
            given=options["timeout"],
            minimum=MINIMUM,
        )
    portal = Portal(realm, options["credCheckers"])
    for mechanism in options["sasl"] if options["sasl"] is not BY_DEFAULT else ():
        if not PortalLogin(portal).offers(mechanism.credentials):
            _log.warn(
                "AUTH does not offer {name} now: no checker can serve it to all its users",
                name=mechanism.name.decode("ascii"),
            )
    host = options["hostname"] or gethostname().encode("ascii", "replace")
    return POP3Factory(
        CommandTable(_commands(options, login_delay)),
        portal,
        host=host,
        idle_timeout=options["timeout"],
        allow_plaintext=bool(options["allow-plaintext"]),
        tls=options.certificates,
        require_tls=bool(options["require-tls"]),
        workarounds=options["workarounds"],
        greeting=options["dialect"].greeting(host),
        **traits,
    )


def _commands(options: SessionOptions, login_delay: int) -> Iterable[Command]:
    """Return the commands of the dialect that the options leave, as the options want them."""
    wanted = (
        *capa.commands(
            implementation=None if options["hide-version"] else b"popserv-" + __version__.encode(),
            expire_days=options["expire"],
            login_delay=login_delay,
        ),
        *sasl.commands(options["sasl"]),
        utf8.lang_command(options["language"]),
        *([rfc1460.retr] if options["mark-seen"] else ()),
    )
    instead = {entry.keyword: entry for entry in wanted}
    return [
        instead.get(entry.keyword, entry)
        for entry in options["dialect"].commands
        if entry.keyword not in options["without"]
    ]


def _room() -> int:
    """Return how many connections the limit of open files allows, having raised it."""
    _, hard = getrlimit(RLIMIT_NOFILE)
    setrlimit(RLIMIT_NOFILE, (hard, hard))
    files = 1 << 20 if hard == RLIM_INFINITY else hard
    return max(1, min(10_000, (files - 100) // _FDS_A_CONNECTION))
