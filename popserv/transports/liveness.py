"""Whether the client of a connection is still there, found out without octets of the protocol.

The kernel learns that a client has vanished, for example because its network has changed, only
after it has tried to send something for a long time.  Linux sends keepalive probes (RFC 1122
section 4.2.3.6) on demand, and tells in ``TCP_INFO`` when the client has last acknowledged
anything, and how many probes and retransmissions it has not.  A living client acknowledges a probe
within its round-trip time, whatever the program at the other end does.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, NamedTuple

from twisted.protocols.policies import ProtocolWrapper

from popserv.transports.peers import has_disconnected

HAS_PROBES = sys.platform.startswith("linux")
"""Whether the kernel can be asked; elsewhere only connections that it knows to be broken are."""

PROBE_SECONDS = 3.0
"""Seconds in which a client must acknowledge one of the probes, which are a second apart."""
MIN_UNANSWERED = 2
"""How many probes or retransmissions must be unanswered for a client to be gone."""

_POLL_INTERVAL = 0.05
_RECENT = 1.0
"""Seconds since an acknowledgement in which a client counts as living without a probe."""
_TCP_INFO_SIZE = 104


class _TCPInfo(NamedTuple):
    """What is used of struct tcp_info (``linux/tcp.h``)."""

    unanswered: int
    """Retransmissions and probes since the last acknowledgement."""
    seconds_since_ack: float


async def is_gone(transport: Any, wait: Callable[[float], Awaitable[object]]) -> bool:
    """Return whether nobody is at the other end of a connection, within PROBE_SECONDS.

    A connection of which nothing can be found out is not gone, such as one that is not of TCP, or
    one whose client has a full buffer and has not been asked for a while.  ``wait`` waits for a
    number of seconds.
    """
    if has_disconnected(transport):
        return True
    connection = _tcp_socket(transport)
    if connection is None:
        return False
    try:
        if _tcp_info(connection).seconds_since_ack < _RECENT:
            return False
        was_on = connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        try:
            _send_probes(connection)
            return await _has_no_answer(connection, transport, wait)
        finally:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, was_on)
    except OSError:
        # It was closed meanwhile.
        return True


async def _has_no_answer(
    connection: socket.socket, transport: Any, wait: Callable[[float], Awaitable[object]]
) -> bool:
    start = monotonic()
    while True:
        await wait(_POLL_INTERVAL)
        if has_disconnected(transport):
            return True
        seconds, info = monotonic() - start, _tcp_info(connection)
        if info.seconds_since_ack < seconds:
            return False
        if seconds >= PROBE_SECONDS:
            return info.unanswered >= MIN_UNANSWERED


def _send_probes(connection: socket.socket) -> None:
    """Have the kernel send a probe now, if nothing else is under way, and each second."""
    for option, value in (
        (socket.TCP_KEEPINTVL, 1),
        # The kernel must not break the connection.
        (socket.TCP_KEEPCNT, 100),
        (socket.TCP_KEEPIDLE, 1),
    ):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _tcp_socket(transport: Any) -> socket.socket | None:
    """Return the TCP socket of a transport, if it has one that can be probed."""
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    # After STLS, getHandle returns the TLS connection.
    found = getattr(transport, "socket", None)
    if HAS_PROBES and isinstance(found, socket.socket) and found.family != socket.AF_UNIX:
        return found
    return None


def _tcp_info(connection: socket.socket) -> _TCPInfo:
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
    # tcpi_retransmits, tcpi_probes and, in milliseconds, tcpi_last_ack_recv.
    return _TCPInfo(info[2] + info[3], int.from_bytes(info[56:60], sys.byteorder) / 1000)
