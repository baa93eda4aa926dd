"""Clients by the network that they come from, where it is one party's."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from twisted.internet.interfaces import ITransport

Network = IPv4Network | IPv6Network

LOOPBACK: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
"""What a proxy or a webmail on this machine comes from, for all its clients."""

_PREFIX = 64
"""Bits of an IPv6 address that one party has at least; the others are any machine's to choose."""


class Networks:
    """Names the network of a client: one IPv4 address, or a /64 of IPv6.

    Addresses in ``trusted``, and those of this machine, stand for many clients, who must
    not be taken for one; they have no network here, and neither have UNIX sockets.
    """

    def __init__(self, trusted_networks: Iterable[Network] = ()) -> None:
        self._trusted_networks = (*LOOPBACK, *trusted_networks)
        # To parse one costs as much as the rest of a greeting.
        self._known = lru_cache(10_000)(self._network)

    def of(self, transport: ITransport) -> str | None:
        """Return the name of the client's network, or None if it has none of its own."""
        return self._known(getattr(transport.getPeer(), "host", None))

    def _network(self, host: str | None) -> str | None:
        try:
            address = ip_address(host or "")
        except ValueError:
            return None
        address = getattr(address, "ipv4_mapped", None) or address
        if any(address in network for network in self._trusted_networks):
            return None
        if isinstance(address, IPv6Address):
            # By its number, for it may have a zone.
            return str(ip_network((int(address), _PREFIX), strict=False))
        return str(address)
