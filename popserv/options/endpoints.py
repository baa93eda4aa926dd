"""Arguments of endpoints for which popserv has other defaults than Twisted."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from popserv.control.endpoint import split_endpoint

BACKLOG = socket.SOMAXCONN
"""The greatest number of connections that wait to be accepted, if the system allows as many.

With Twisted's 50, a client whose packet finds the queue full repeats it after a second.
"""

_LOOPBACK = {"tcp": "127.0.0.1", "ssl": "127.0.0.1", "tcp6": r"\:\:1"}
"""The kinds of endpoints that have an interface, and the loopback address of each."""

# The places of arguments that are given without their names, by the kind of the endpoint.
_INTERFACES: Mapping[str, int] = {"tcp": 1, "tcp6": 2, "ssl": 4}
_BACKLOGS: Mapping[str, int] = {"tcp": 2, "tcp6": 1, "ssl": 5, "unix": 2}


def with_interface(endpoint: str) -> str:
    """Return a server endpoint of Twisted with the interface of this machine, unless it has one."""
    kind = _kind_without("interface", _INTERFACES, endpoint)
    return endpoint if kind is None else f"{endpoint}:interface={_LOOPBACK[kind]}"


def with_backlog(endpoint: str) -> str:
    """Return a server endpoint of Twisted with the backlog of BACKLOG, unless it has one."""
    kind = _kind_without("backlog", _BACKLOGS, endpoint)
    return endpoint if kind is None else f"{endpoint}:backlog={BACKLOG}"


def _kind_without(name: str, places: Mapping[str, int], endpoint: str) -> str | None:
    """Return the kind of an endpoint that can have an argument, and does not; otherwise None."""
    kind, unnamed, named = split_endpoint(endpoint)
    # Twisted finds the kinds that are plugins, such as tcp6, without regard to case.
    kind = kind.lower()
    if kind not in places or name in named or len(unnamed) > places[kind]:
        return None
    return kind
