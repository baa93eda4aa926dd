"""What a checker can find out about the connection on which a client is logging in."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import NamedTuple


class ConnectionDetails(NamedTuple):
    """The ends of a connection, as IP address and port, and whether nobody can eavesdrop on it.

    An end is None if it has no IP address, as on a UNIX socket.
    """

    remote: tuple[str, int] | None = None
    local: tuple[str, int] | None = None
    is_private: bool = False


connection_details: ContextVar[Callable[[], ConnectionDetails]] = ContextVar(
    "connection_details", default=ConnectionDetails
)
"""A function that returns the details of the connection on which a client is logging in.

A checker reads the variable, and calls the function, before it waits for anything.
"""
