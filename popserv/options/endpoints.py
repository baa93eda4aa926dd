"""Arguments of endpoints for which popserv has other defaults than Twisted."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping, Sequence

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
    kind, arguments = _split(endpoint)
    if kind not in _LOOPBACK or _has(arguments, "interface", _INTERFACES[kind]):
        return endpoint
    return f"{endpoint}:interface={_LOOPBACK[kind]}"


def with_backlog(endpoint: str) -> str:
    """Return a server endpoint of Twisted with the backlog of BACKLOG, unless it has one."""
    kind, arguments = _split(endpoint)
    if kind not in _BACKLOGS or _has(arguments, "backlog", _BACKLOGS[kind]):
        return endpoint
    return f"{endpoint}:backlog={BACKLOG}"


def _split(endpoint: str) -> tuple[str, Sequence[str]]:
    """Return the kind of an endpoint in lower case, and its arguments."""
    kind, *arguments = re.split(r"(?<!\\):", endpoint)
    # Twisted finds the kinds that are plugins, such as tcp6, without regard to case.
    return kind.lower(), arguments


def _has(arguments: Sequence[str], name: str, place: int) -> bool:
    """Return whether an argument is given, by its name or by its place."""
    unnamed = [each for each in arguments if "=" not in each]
    return len(unnamed) > place or any(each.startswith(f"{name}=") for each in arguments)
