"""The networks that clients connect from, for limits that apply to each of them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

from popserv.transports.peers import ProxiedAddress

Network = IPv4Network | IPv6Network

LOOPBACK: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
"""Addresses of this machine: a proxy or a webmail on it connects for many clients."""

_PREFIX_LENGTH = 64
"""Bits of a client's IPv6 network; a site is assigned at least a /64 and chooses the other bits."""


def parse_address(host: str | None) -> IPv4Address | IPv6Address | None:
    """Return an IP address, of an IPv4-mapped one that of IPv4; None if it is none."""
    try:
        address = ip_address(host or "")
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def parse_network(text: str) -> Network | None:
    """Return the network of an address, or one such as 192.0.2.0/24; None if it is none.

    Bits of an address after its prefix do not matter.
    """
    host, _, length = text.partition("/")
    address = parse_address(host)
    if address is None:
        return None
    kind = IPv4Network if isinstance(address, IPv4Address) else IPv6Network
    try:
        # Its integer value has no zone.
        return kind((int(address), length or address.max_prefixlen), strict=False)
    except ValueError:
        return None


def is_in(address: IPv4Address | IPv6Address, networks: Iterable[Network]) -> bool:
    """Return whether one of the networks contains an address."""
    return any(address in network for network in networks)


class Networks:
    """Finds the network of a client: one IPv4 address, or an IPv6 /64.

    Clients of this machine and of ``trusted_networks`` share an address with many others, so
    they have no network; clients of UNIX sockets have none either.  A client whose address a
    proxy reports is no client of this machine, whatever the address.
    """

    def __init__(self, trusted_networks: Iterable[Network] = ()) -> None:
        self._trusted_networks = tuple(trusted_networks)
        # Parsing an address takes as long as the rest of a greeting.
        self._network_of_host = lru_cache(10_000)(self._network)

    def of(self, address: object) -> str | None:
        """Return the network of a client's address as text, or None if it has none."""
        is_proxied = isinstance(address, ProxiedAddress)
        return self._network_of_host(getattr(address, "host", None), is_proxied)

    def _network(self, host: str | None, is_proxied: bool) -> str | None:
        address = parse_address(host)
        if address is None:
            return None
        trusted = self._trusted_networks if is_proxied else (*LOOPBACK, *self._trusted_networks)
        if is_in(address, trusted):
            return None
        if isinstance(address, IPv6Address):
            # Its integer value has no zone.
            return str(ip_network((int(address), _PREFIX_LENGTH), strict=False))
        return str(address)
