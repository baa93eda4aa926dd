"""``twistd pop3``: from options to a service; the one room that knows everybody."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterable
from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit, setrlimit
from typing import TYPE_CHECKING

from twisted.application import strports
from twisted.application.internet import TimerService
from twisted.application.service import IService, MultiService
from twisted.cred.portal import IRealm, Portal
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IProtocolFactory
from twisted.logger import Logger

from popserv import __version__
from popserv.auth.delay import LoginDelayRealm
from popserv.auth.login import PortalLogin
from popserv.auth.mechanisms import BY_DEFAULT
from popserv.auth.realm import MaildropRealm
from popserv.command import Command, CommandTable
from popserv.commands import capa, rfc1725, sasl, stls, utf8
from popserv.exchange import Exchange
from popserv.idle import MINIMUM
from popserv.maildrops.maildir import MaildirMaildrops
from popserv.options import Options
from popserv.protocol import POP3Factory

if TYPE_CHECKING:
    from popserv.tls import Certificates

_log = Logger()

_FDS_A_CONNECTION = 4
"""A socket, and the directories of a Maildir."""


def makeService(options: Options) -> IService:
    """Return the service that the options describe."""
    if options["timeout"] < MINIMUM:
        _log.warn(
            "--timeout {given:g}: RFC 1725 section 3 wants {minimum} seconds at least; "
            "slow clients and people will be cut off",
            given=options["timeout"],
            minimum=MINIMUM,
        )
    # A thread that reads a huge directory must not hold up the reactor for the usual 5 ms.
    sys.setswitchinterval(0.0005)
    maildrops = MaildirMaildrops(options["maildir"], remember=options["remember"])
    realm: IRealm = MaildropRealm(maildrops)
    if options["login-delay"]:
        realm = LoginDelayRealm(realm, options["login-delay"])
    portal = Portal(realm)
    for checker in options["credCheckers"]:
        portal.registerChecker(checker)
    certificates = options.certificates
    for mechanism in options["sasl"] if options["sasl"] is not BY_DEFAULT else ():
        if not PortalLogin(portal).offers(mechanism.credentials):
            _log.warn(
                "AUTH does not offer {name} now: no checker can serve it to all its users",
                name=mechanism.name.decode("ascii"),
            )
    exchange = Exchange()
    factory = POP3Factory(
        CommandTable(_commands(options)),
        portal,
        host=options["hostname"],
        idle_timeout=options["timeout"],
        allow_plaintext=bool(options["allow-plaintext"]),
        tls=certificates,
        require_tls=bool(options["require-tls"]),
        workarounds=options["workarounds"],
        max_connections=options["max-connections"] or _room(),
        trusted=options["trusted"],
        exchange=exchange,
    )
    listeners = Listeners()
    for endpoint in options["listen"]:
        strports.service(endpoint, factory).setServiceParent(listeners)
    if certificates is not None:
        over_tls = _over_tls(certificates, factory)
        for endpoint in options["listen-tls"]:
            strports.service(endpoint, over_tls).setServiceParent(listeners)
        TimerService(_DAY, certificates.warn_of_expiry).setServiceParent(listeners)
    return listeners


_DAY = 24 * 60 * 60


def _over_tls(certificates: Certificates, factory: POP3Factory) -> IProtocolFactory:
    from twisted.protocols.tls import TLSMemoryBIOFactory

    over_tls: IProtocolFactory = TLSMemoryBIOFactory(certificates, False, factory)
    return over_tls


def _commands(options: Options) -> Iterable[Command]:
    """Return the commands that the options leave."""
    groups = (
        rfc1725.COMMANDS,
        capa.commands(
            implementation=None if options["hide-version"] else b"popserv-" + __version__.encode(),
            expire_days=options["expire"],
            login_delay=options["login-delay"],
        ),
        stls.COMMANDS,
        sasl.commands(options["sasl"]),
        (utf8.utf8, utf8.lang_command(options["language"])),
    )
    return [entry for group in groups for entry in group if entry.keyword not in options["without"]]


def _room() -> int:
    """Return how many connections the limit of open files allows, having raised it."""
    _, hard = getrlimit(RLIMIT_NOFILE)
    setrlimit(RLIMIT_NOFILE, (hard, hard))
    files = 1 << 20 if hard == RLIM_INFINITY else hard
    return max(1, min(10_000, (files - 100) // _FDS_A_CONNECTION))


class CannotStart(SystemExit, Exception):
    """Ends twistd with one line; an Exception, too, so that twistd removes its pidfile first."""


class Listeners(MultiService):
    """Ports, which are all opened or end the server."""

    def privilegedStartService(self) -> None:
        """Bind, while there is still the right to; the reason and a hint if that fails."""
        try:
            super().privilegedStartService()
        except CannotListenError as error:
            raise CannotStart(f"popserv: {error}{_hint(error)}") from None
        except (OSError, OverflowError) as error:
            raise CannotStart(f"popserv: cannot listen: {error}") from None


def _hint(error: CannotListenError) -> str:
    if isinstance(error.socketError, PermissionError):
        return (
            " Ports below 1024 are root's: start as root with twistd's --uid and --gid, "
            "or try --listen tcp:1110"
        )
    if getattr(error.socketError, "errno", None) == errno.EADDRNOTAVAIL:
        return " This machine has no such address."
    return " Is another server running there? Give another port by --listen"
