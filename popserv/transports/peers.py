"""The client at the other end of a connection: its address, and whether it is connected."""

from __future__ import annotations

import select
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IAddress, ISSLTransport, ITransport
from twisted.protocols.haproxy._wrapper import HAProxyProtocolWrapper
from twisted.protocols.policies import ProtocolWrapper
from zope.interface import Interface, implementer

from popserv.core.connection_details import ConnectionDetails


@implementer(IAddress)
@dataclass(frozen=True)
class DescriptorAddress:
    """The address of a client that is connected by open file descriptors: a terminal or pipes.

    ``is_local`` tells whether the descriptors lead to a process or to a terminal line of this
    machine; the source of that process's data cannot be known.
    """

    name: str
    is_local: bool

    def __str__(self) -> str:
        return self.name


@implementer(IAddress)
@dataclass(frozen=True)
class ProxiedAddress:
    """The address of a client that is connected to a proxy, as the proxy reports it.

    An address of the loopback interface does not mean that the connection is local: it may be
    one of the proxy's machine.
    """

    host: str
    port: int


class ITLSAtProxy(Interface):
    """A transport whose client is connected by TLS to the proxy at its other end."""


def uses_tls(transport: ITransport) -> bool:
    """Return whether the client uses TLS, with this server or with the proxy before it."""
    return ISSLTransport.providedBy(transport) or ITLSAtProxy.providedBy(transport)


def is_private(transport: ITransport) -> bool:
    """Return whether nobody can eavesdrop on a connection, because it uses TLS or is local."""
    return uses_tls(transport) or is_local(transport.getPeer())


def is_local(address: object) -> bool:
    """Return whether a client with this address is on this machine, and connected directly."""
    if isinstance(address, ProxiedAddress):
        return False
    host = getattr(address, "host", None)
    if host is not None:
        return _is_loopback(host)
    return isinstance(address, UNIXAddress) or getattr(address, "is_local", False)


def host_and_port(address: Any) -> tuple[str, int] | None:
    """Return the IP address and the port of an address, or None if it has none."""
    return (_unmapped(address.host), address.port) if hasattr(address, "port") else None


def _unmapped(host: str) -> str:
    """Return an IP address; on a socket for both families, IPv4 addresses are mapped."""
    return host.removeprefix("::ffff:") if "." in host else host


def details_of(transport: Any) -> ConnectionDetails:
    """Return what checkers may know of a connection, which may be lost."""
    peer = transport.getPeer()
    try:
        local = host_and_port(transport.getHost())
    except AttributeError:
        # A TCP transport does not know its own end any more.
        local = None
    return ConnectionDetails(host_and_port(peer), local, uses_tls(transport), is_local(peer))


@lru_cache(1000)
def _is_loopback(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def has_disconnected(transport: Any) -> bool:
    """Return whether a connection that is not being read is broken; safe in any thread.

    A client that has closed its connection normally looks like one that has only finished
    sending and waits for replies; for both the answer is False.
    """
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    if not hasattr(transport, "fileno"):
        return False
    try:
        poll = select.poll()
        poll.register(transport.fileno(), 0)
        return bool(poll.poll(0))
    except (OSError, ValueError):
        return True


def is_behind_twisted_proxy(transport: Any) -> bool:
    """Return whether a transport is from Twisted's endpoint ``haproxy:``.

    It gives the address of the proxy until the header has come, and then that of the header,
    whoever has sent it.
    """
    while isinstance(transport, ProtocolWrapper):
        if isinstance(transport, HAProxyProtocolWrapper):
            return True
        transport = transport.transport
    return False


def peer_name(transport: ITransport) -> str:
    """Return the client's address and port for the log, or the kind of its transport.

    Examples are ``192.0.2.1:4321`` and ``[2001:db8::1]:4321``.
    """
    peer: Any = transport.getPeer()
    if isinstance(peer, UNIXAddress):
        # The clients of a UNIX socket are rarely bound to a path.
        return "UNIX socket"
    if not hasattr(peer, "port"):
        return str(peer)
    host = _unmapped(peer.host)
    return f"[{host}]:{peer.port}" if ":" in host else f"{host}:{peer.port}"
