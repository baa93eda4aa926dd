"""Endpoints that only this machine can connect to, unless their interface is given."""

from __future__ import annotations

import re

_LOOPBACK = {"tcp": "127.0.0.1", "ssl": "127.0.0.1", "tcp6": r"\:\:1"}
"""The kinds of endpoints that have an interface, and its default."""
_POSITION = {"tcp": 1, "tcp6": 1, "ssl": 4}
"""Which of the arguments without a name is the interface."""


def with_interface(endpoint: str) -> str:
    """Return a server endpoint of Twisted with the interface of this machine, unless it has one."""
    kind, *arguments = re.split(r"(?<!\\):", endpoint)
    if kind not in _LOOPBACK or any(each.startswith("interface=") for each in arguments):
        return endpoint
    if len([each for each in arguments if "=" not in each]) > _POSITION[kind]:
        return endpoint
    return f"{endpoint}:interface={_LOOPBACK[kind]}"
