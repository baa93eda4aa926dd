"""Makes the services that listen on the endpoints of the options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.application import strports
from twisted.cred.portal import IRealm
from twisted.internet.interfaces import IProtocolFactory

from popserv.delivery.factory import LMTPFactory
from popserv.listening.listeners import Listeners
from popserv.options.endpoints import with_backlog
from popserv.options.server import Options
from popserv.options.values import split_proxy_prefix
from popserv.server.factory import POP3Factory
from popserv.server.proxy import ProxyFactory
from popserv.transports.networks import LOOPBACK
from popserv.transports.unix_users import peer_user
from popserv.wiring.factories import make_preauthenticated_factory

if TYPE_CHECKING:
    from popserv.metrics.instruments import Instruments
    from popserv.tls.certificates import Certificates


def add_listeners(
    listeners: Listeners,
    options: Options,
    factory: POP3Factory,
    realm: IRealm,
    reactor: Any,
    instruments: Instruments | None = None,
    lmtp: LMTPFactory | None = None,
) -> None:
    """Add a service for each endpoint of ``--listen``, ``--listen-tls``, ``--preauth``, ``--lmtp``.

    :param factory: of the clients that log in.
    :param reactor: opens the ports.
    :param instruments: measure the clients of ``--preauth``.
    :param lmtp: of the clients of ``--lmtp``.
    """

    def listen(option: str, factory: IProtocolFactory) -> None:
        for endpoint in options[option]:
            is_proxied, inner = split_proxy_prefix(endpoint)
            proxied = ProxyFactory(factory, options["proxies"] or LOOPBACK) if is_proxied else None
            service = strports.service(with_backlog(inner), proxied or factory, reactor=reactor)
            listeners.add(service, f"--{option}")

    listen("listen", factory)
    if options["preauth"]:
        preauthenticated = make_preauthenticated_factory(
            options,
            realm,
            peer_user,
            max_connections=factory.max_connections,
            connections=factory.connections,
        )
        if instruments is not None:
            instruments.measure_factory(preauthenticated)
        listen("preauth", preauthenticated)
    if lmtp is not None:
        listen("lmtp", lmtp)
    if options.certificates is not None:
        listen("listen-tls", _over_tls(options.certificates, factory))


def _over_tls(certificates: Certificates, factory: POP3Factory) -> IProtocolFactory:
    # TLS is an extra.
    from popserv.transports.tls import TLSFactory  # noqa: PLC0415

    over_tls: IProtocolFactory = TLSFactory(certificates, factory)
    return over_tls
