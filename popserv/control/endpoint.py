"""The address of the control socket, which the server and its client have in common."""

from __future__ import annotations

import re

DEFAULT_ENDPOINT = "unix:/run/popserv/control"
"""Where the commands look for a server."""


def socket_path(endpoint: str) -> str:
    """Return the path of a UNIX socket, from a server endpoint of Twisted.

    :raises ValueError: it is another kind of endpoint; no other has permissions.
    """
    kind, unnamed, named = split_endpoint(endpoint)
    path = unnamed[0] if unnamed else named.get("address")
    if kind != "unix" or not path:
        raise ValueError(
            f"{endpoint} is no UNIX socket, whose permissions say who may use it; use one such as "
            f"{DEFAULT_ENDPOINT}"
        )
    return re.sub(r"\\(.)", r"\1", path)


def with_mode(endpoint: str) -> str:
    """Return the endpoint with the mode 0600, unless it has a mode."""
    _, unnamed, named = split_endpoint(endpoint)
    return endpoint if "mode" in named or len(unnamed) > 1 else f"{endpoint}:mode=600"


def split_endpoint(endpoint: str) -> tuple[str, list[str], dict[str, str]]:
    """Return the kind of an endpoint of Twisted, and its arguments without and with names.

    Escapes stay as they are.
    """
    kind, *arguments = re.split(r"(?<!\\):", endpoint)
    unnamed: list[str] = []
    named: dict[str, str] = {}
    for each in arguments:
        name, *values = re.split(r"(?<!\\)=", each, maxsplit=1)
        if values:
            (named[name],) = values
        else:
            unnamed.append(each)
    return kind, unnamed, named
