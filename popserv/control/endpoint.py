"""The address of the control socket, which the server and its client have in common."""

from __future__ import annotations

import re

DEFAULT_ENDPOINT = "unix:/run/popserv/control"
"""Where the commands look for a server."""


def socket_path(endpoint: str) -> str:
    """Return the path of a UNIX socket, from a server endpoint of Twisted.

    :raises ValueError: it is another kind of endpoint; no other has permissions.
    """
    kind, *parts = re.split(r"(?<!\\):", endpoint)
    if kind != "unix" or not parts or not parts[0]:
        raise ValueError(
            f"{endpoint} is no UNIX socket, whose permissions say who may use it; use one such as "
            f"{DEFAULT_ENDPOINT}"
        )
    return re.sub(r"\\(.)", r"\1", parts[0].removeprefix("address="))


def with_mode(endpoint: str) -> str:
    """Return the endpoint with the mode 0600, unless it has a mode, by its name or its place."""
    _, *arguments = re.split(r"(?<!\\):", endpoint)
    unnamed = [each for each in arguments if not re.match("[a-z]+=", each)]
    is_given = len(unnamed) > 1 or any(each.startswith("mode=") for each in arguments)
    return endpoint if is_given else f"{endpoint}:mode=600"
