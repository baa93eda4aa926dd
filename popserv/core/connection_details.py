"""What a checker can find out about the connection on which a client is logging in."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import NamedTuple


class ConnectionDetails(NamedTuple):
    """The ends of a connection, as IP address and port, and how it is protected.

    An end is None if it has no IP address, as on a UNIX socket; the end of the server is also None
    if the client has disconnected.  ``uses_tls`` tells whether the client uses TLS, with this
    server or with a proxy before it, and ``is_local`` whether it is on this machine.
    """

    remote: tuple[str, int] | None = None
    local: tuple[str, int] | None = None
    uses_tls: bool = False
    is_local: bool = False

    @property
    def address(self) -> str | None:
        """The client's IP address, or None if it has none."""
        return None if self.remote is None else self.remote[0]

    @property
    def is_private(self) -> bool:
        """Whether nobody can eavesdrop on the connection."""
        return self.uses_tls or self.is_local


connection_details: ContextVar[Callable[[], ConnectionDetails]] = ContextVar(
    "connection_details", default=ConnectionDetails
)
"""A function that returns the details of the connection on which a client is logging in.

A checker reads the variable when it is called, and may call the function as long as it checks.
"""
