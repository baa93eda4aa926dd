"""Transports of connections: the client's address and user, output, STLS, standard streams.

This package may import tls, core, runtime, interfaces, errors and texts; it depends on
no POP3 command and no store.
"""

from popserv.transports.peers import (
    DescriptorAddress,
    details_of,
    has_disconnected,
    is_private,
    peer_name,
    uses_tls,
)
from popserv.transports.unix_users import peer_user

__all__ = [
    "DescriptorAddress",
    "details_of",
    "has_disconnected",
    "is_private",
    "peer_name",
    "peer_user",
    "uses_tls",
]
