"""The client at the other end of a connection: its address, and whether it is connected."""

from __future__ import annotations

import select
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IAddress, ISSLTransport, ITransport
from twisted.protocols.policies import ProtocolWrapper
from zope.interface import implementer


@implementer(IAddress)
@dataclass(frozen=True)
class DescriptorAddress:
    """Where a client is that came with two open descriptors: a terminal, a pipe, a file.

    ``is_local`` tells whether they lead to another process of this machine, or to a line that
    is plugged into it; what is behind that process nobody here can see.
    """

    name: str
    is_local: bool

    def __str__(self) -> str:
        return self.name


def is_private(transport: ITransport) -> bool:
    """Tell whether nobody else can read along: TLS, or a client on this very machine."""
    if ISSLTransport.providedBy(transport):
        return True
    peer = transport.getPeer()
    host = getattr(peer, "host", None)
    if host is not None:
        return _is_loopback(host)
    return isinstance(peer, UNIXAddress) or getattr(peer, "is_local", False)


@lru_cache(1000)
def _is_loopback(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def has_disconnected(transport: Any) -> bool:
    """Tell, in any thread, whether the connection is broken, though nothing is read from it.

    A client that has closed it in order cannot be told from one that has said all and waits
    for its answers; that one has not gone.
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


def peer_name(transport: ITransport) -> str:
    """Return the client's address and port for the log, or what it has in their place."""
    peer: Any = transport.getPeer()
    if isinstance(peer, UNIXAddress):
        # Of clients hardly one has a name.
        return "UNIX socket"
    return f"{peer.host}:{peer.port}" if hasattr(peer, "port") else str(peer)
