"""The networks that clients connect from, for limits that apply to each of them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from twisted.internet.interfaces import ITransport

Network = IPv4Network | IPv6Network

LOOPBACK: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
"""Addresses of this machine: a proxy or a webmail on it connects for many clients."""

_PREFIX_LENGTH = 64
"""Bits of a client's IPv6 network; a site is assigned at least a /64 and chooses the other bits."""


class Networks:
    """Finds the network of a client: one IPv4 address, or an IPv6 /64.

    Clients of this machine and of ``trusted_networks`` share an address with many others, so
    they have no network; clients of UNIX sockets have none either.
    """

    def __init__(self, trusted_networks: Iterable[Network] = ()) -> None:
        self._trusted_networks = (*LOOPBACK, *trusted_networks)
        # Parsing an address takes as long as the rest of a greeting.
        self._network_of_host = lru_cache(10_000)(self._network)

    def of(self, transport: ITransport) -> str | None:
        """Return the client's network as text, or None if it has none."""
        return self._network_of_host(getattr(transport.getPeer(), "host", None))

    def _network(self, host: str | None) -> str | None:
        try:
            address = ip_address(host or "")
        except ValueError:
            return None
        address = getattr(address, "ipv4_mapped", None) or address
        if any(address in network for network in self._trusted_networks):
            return None
        if isinstance(address, IPv6Address):
            # Its integer value has no zone.
            return str(ip_network((int(address), _PREFIX_LENGTH), strict=False))
        return str(address)
