"""Makes the realm and the protocol factories that the options describe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from twisted.cred.portal import IRealm, Portal
from twisted.logger import Logger

from popserv import __version__
from popserv.auth.client_names import with_client_names
from popserv.auth.ordered import in_order
from popserv.auth.passwords.decoys import Decoys
from popserv.auth.portal import PortalAuthenticator
from popserv.auth.preauth import PreauthenticatedChecker
from popserv.auth.realm import MaildropRealm
from popserv.auth.sasl.mechanisms import DEFAULT_MECHANISMS, Mechanism, external
from popserv.auth.throttle.login_delay import LoginDelayRealm
from popserv.auth.user_sessions import UserSessionsRealm
from popserv.commands import capa, rfc1460, sasl, utf8
from popserv.core.command import Command, CommandTable
from popserv.interfaces import (
    IDecoyMaker,
    IMaildropFactory,
    IPollingChecker,
    IRelayedCredentials,
    ISASLRelay,
    ISharedStore,
)
from popserv.options.server import Options
from popserv.options.session import SessionOptions
from popserv.runtime.bus import WorkerBus
from popserv.server.factory import POP3Factory
from popserv.server.idle import MIN_IDLE_TIMEOUT
from popserv.server.preauth import Identify, PreauthenticatedFactory

if TYPE_CHECKING:
    from popserv.metrics.instruments import Instruments

_log = Logger()


def make_realm(options: Options, bus: WorkerBus, instruments: Instruments | None = None) -> IRealm:
    """Return the realm of the store of the options, with the limits of logins."""
    realm: IRealm = MaildropRealm(options.store)
    if instruments is not None:
        realm = instruments.measure_realm(realm)
    realm = UserSessionsRealm(realm, options["max-user-sessions"], bus=bus)
    if ISharedStore.providedBy(options.store):
        # Only the store knows of logins on all hosts.
        options.store.login_delay = options["login-delay"]
    elif options["login-delay"]:
        realm = LoginDelayRealm(realm, options["login-delay"], bus=bus)
    return realm


def make_factory(options: SessionOptions, realm: IRealm, **settings: Any) -> POP3Factory:
    """Return a factory for clients that log in with the checkers of the options.

    ``settings`` are additional arguments of :class:`POP3Factory`.
    """
    given = options.get("credCheckers", ())
    checkers = in_order(
        with_client_names(
            given,
            options["default-domain"],
            options["folder-delimiter"],
            options["folder"].encode("utf-8", "surrogateescape"),
        )
    )
    _share_decoys([*given, *checkers], options.store)
    portal = Portal(realm, checkers)
    if options["sasl"] is not DEFAULT_MECHANISMS:
        _warn_of_missing(options, portal)
    return POP3Factory(
        CommandTable(_commands(options)),
        portal,
        allow_plaintext=bool(options["allow-plaintext"]),
        tls=options.certificates,
        require_tls=bool(options["require-tls"]),
        **_common_settings(options),
        **settings,
    )


def start_polling(options: SessionOptions) -> None:
    """Have the checkers of the options look up what they support."""
    for checker in options.get("credCheckers", ()):
        if IPollingChecker.providedBy(checker):
            checker.poll()


def _share_decoys(checkers: Iterable[object], store: IMaildropFactory) -> None:
    """Have the checkers make the decoys of all hosts, if the store is shared by several."""
    if ISharedStore.providedBy(store):
        decoys = Decoys(ISharedStore(store).decoy_secret)
        for each in checkers:
            if IDecoyMaker.providedBy(each):
                IDecoyMaker(each).use_decoys(decoys)


def _warn_of_missing(options: SessionOptions, portal: Portal) -> None:
    """Log a warning for each mechanism of ``--sasl`` that cannot be offered."""
    if ISASLRelay.providedBy(portal.checkers.get(IRelayedCredentials)):
        # Another server decides, which has not been asked yet.
        return
    if any(map(IPollingChecker.providedBy, options.get("credCheckers", ()))):
        # Likewise a database.
        return
    authenticator = PortalAuthenticator(portal)
    for mechanism in options["sasl"]:
        if not authenticator.supports(mechanism.credentials):
            _log.warn(
                "AUTH does not offer {name}: no checker supports it for all its users",
                name=mechanism.name.decode("ascii"),
            )


def make_preauthenticated_factory(
    options: SessionOptions, realm: IRealm, identify: Identify, **settings: Any
) -> PreauthenticatedFactory:
    """Return a factory for clients that do not log in; ``identify`` returns the user's name.

    ``settings`` are additional arguments of :class:`PreauthenticatedFactory`.
    """
    return PreauthenticatedFactory(
        CommandTable(_commands(options)),
        Portal(realm, with_client_names([PreauthenticatedChecker()], options["default-domain"])),
        identify=identify,
        **_common_settings(options),
        **settings,
    )


def warn_about_short_timeout(options: SessionOptions) -> None:
    """Log a warning if the timeout is shorter than RFC 1725 section 3 permits."""
    if options["timeout"] < MIN_IDLE_TIMEOUT:
        _log.warn(
            "--timeout {given:g}: RFC 1725 section 3 requires at least {minimum} seconds; "
            "slow clients and people will be disconnected",
            given=options["timeout"],
            minimum=MIN_IDLE_TIMEOUT,
        )


def _common_settings(options: SessionOptions) -> Mapping[str, Any]:
    """Return the arguments that both kinds of factories have."""
    return {
        "host": options["hostname"],
        "idle_timeout": options["timeout"],
        "downgrader": options.downgrader,
        "workarounds": options["workarounds"],
        "greeting": options["dialect"].greeting,
    }


def _mechanisms(options: SessionOptions) -> Sequence[Mechanism]:
    """Return the mechanisms of the options; EXTERNAL compares names itself."""
    configured = external(options["default-domain"], options["folder-delimiter"])
    return [configured if each.name == configured.name else each for each in options["sasl"]]


def _commands(options: SessionOptions) -> Iterable[Command]:
    """Return the commands of the dialect, configured, without those of ``--without``."""
    configured = (
        *capa.commands(
            implementation=None if options["hide-version"] else b"popserv-" + __version__.encode(),
            expire_days=options["expire"],
            login_delay=options.get("login-delay", 0),
        ),
        *sasl.commands(_mechanisms(options), options.relayed),
        utf8.lang_command(options["language"]),
        *([rfc1460.retr] if options["mark-seen"] else ()),
    )
    replacements = {command.keyword: command for command in configured}
    return [
        replacements.get(command.keyword, command)
        for command in options["dialect"].commands
        if command.keyword not in options["without"]
    ]
