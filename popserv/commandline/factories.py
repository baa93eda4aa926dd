"""From options to the factory whose connections are what the options describe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from twisted.cred.portal import IRealm, Portal
from twisted.logger import Logger

from popserv import __version__
from popserv.auth.portal import PortalAuthenticator
from popserv.auth.preauth import PreauthenticatedChecker
from popserv.auth.sasl.mechanisms import DEFAULT_MECHANISMS
from popserv.commandline.session_options import SessionOptions
from popserv.commands import capa, rfc1460, sasl, utf8
from popserv.core.command import Command, CommandTable
from popserv.server.factory import POP3Factory
from popserv.server.idle import MINIMUM_TIMEOUT
from popserv.server.preauth import Identify, PreauthenticatedFactory

_log = Logger()


def make_factory(options: SessionOptions, realm: IRealm, **traits: Any) -> POP3Factory:
    """Return a factory for users of the realm who log in as the options want it.

    ``traits`` are further ones of the factory.
    """
    portal = Portal(realm, options.get("credCheckers", ()))
    for mechanism in options["sasl"] if options["sasl"] is not DEFAULT_MECHANISMS else ():
        if not PortalAuthenticator(portal).supports(mechanism.credentials):
            _log.warn(
                "AUTH does not offer {name} now: no checker can serve it to all its users",
                name=mechanism.name.decode("ascii"),
            )
    return POP3Factory(
        CommandTable(_commands(options)),
        portal,
        allow_plaintext=bool(options["allow-plaintext"]),
        tls=options.certificates,
        require_tls=bool(options["require-tls"]),
        **_traits(options),
        **traits,
    )


def make_preauthenticated(
    options: SessionOptions, realm: IRealm, identify: Identify, **traits: Any
) -> PreauthenticatedFactory:
    """Return a factory for users of the realm whom ``identify`` names.

    ``traits`` are further ones of the factory.
    """
    return PreauthenticatedFactory(
        CommandTable(_commands(options)),
        Portal(realm, [PreauthenticatedChecker()]),
        identify=identify,
        **_traits(options),
        **traits,
    )


def warn_of_timeout(options: SessionOptions) -> None:
    """Log a line if the timeout is shorter than the RFC's."""
    if options["timeout"] < MINIMUM_TIMEOUT:
        _log.warn(
            "--timeout {given:g}: RFC 1725 section 3 wants {minimum} seconds at least; "
            "slow clients and people will be cut off",
            given=options["timeout"],
            minimum=MINIMUM_TIMEOUT,
        )


def _traits(options: SessionOptions) -> Mapping[str, Any]:
    return {
        "host": options["hostname"],
        "idle_timeout": options["timeout"],
        "workarounds": options["workarounds"],
        "greeting": options["dialect"].greeting,
    }


def _commands(options: SessionOptions) -> Iterable[Command]:
    """Return the commands of the dialect that the options leave, as the options want them."""
    wanted = (
        *capa.commands(
            implementation=None if options["hide-version"] else b"popserv-" + __version__.encode(),
            expire_days=options["expire"],
            login_delay=options.get("login-delay", 0),
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
