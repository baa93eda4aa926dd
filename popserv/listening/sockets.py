"""Opens the sockets of one port: one, or several among which the kernel distributes connections."""

from __future__ import annotations

import socket
import sys
from contextlib import ExitStack
from typing import Any

from twisted.internet.abstract import isIPv6Address
from twisted.internet.error import CannotListenError

HAS_PORT_BALANCING = sys.platform.startswith("linux") and hasattr(socket, "SO_REUSEPORT")
"""Whether the kernel distributes connections among the sockets of one port (SO_REUSEPORT)."""


def listening_sockets(
    interface: str, port: int, backlog: int, count: int = 1
) -> list[socket.socket]:
    """Return sockets that listen on a TCP port and are not blocking; ``interface`` is an address.

    No socket listens that is not returned: the kernel resets connections that nobody accepts.

    :param count: how many; more than one requires HAS_PORT_BALANCING.
    :raises CannotListenError: the port is in use, or cannot be bound for another reason.
    """
    with ExitStack() as opened:
        try:
            family, address = _resolved(interface, port)
            # Without SO_REUSEPORT, so that a port in use is refused even if its socket has that.
            first = opened.enter_context(_bound(family, address, socket.SO_REUSEADDR))
            sockets = [first]
            if count > 1:
                first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                options = socket.SO_REUSEADDR, socket.SO_REUSEPORT
                address = first.getsockname()
                for _ in range(count - 1):
                    sockets.append(opened.enter_context(_bound(family, address, *options)))
            for each in sockets:
                each.listen(backlog)
        except OSError as error:
            raise CannotListenError(interface, port, error) from error
        opened.pop_all()
    return sockets


def _resolved(interface: str, port: int) -> tuple[int, Any]:
    """Return the address family, and the address as sockets have it."""
    if not isIPv6Address(interface):
        return socket.AF_INET, (interface, port)
    # An address may have a zone, such as fe80::1%eth0.
    ((family, *_, address), *_) = socket.getaddrinfo(
        interface, port, socket.AF_INET6, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST
    )
    return family, address


def _bound(family: int, address: Any, *options: int) -> socket.socket:
    with ExitStack() as opened:
        bound = opened.enter_context(socket.socket(family))
        bound.setblocking(False)
        for option in options:
            bound.setsockopt(socket.SOL_SOCKET, option, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
        opened.pop_all()
    return bound
