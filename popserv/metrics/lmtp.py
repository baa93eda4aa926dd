"""Connections of mail transfer agents that count deliveries; only servers with ``--metrics``."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import BinaryIO

from popserv.delivery.lmtp import LMTPServer
from popserv.delivery.outcomes import (
    DELIVERED,
    NO_ROOM,
    NO_SUCH_USER,
    QUOTA_EXCEEDED,
    REFUSED,
    TRY_LATER,
    Reply,
)
from popserv.delivery.recipients import Recipient
from popserv.metrics import catalogue
from popserv.metrics.counters import Counters

_OUTCOMES: Mapping[Reply, str] = {
    DELIVERED: "delivered",
    NO_SUCH_USER: "unknown-user",
    QUOTA_EXCEEDED: "full",
    NO_ROOM: "full",
    REFUSED: "refused",
    TRY_LATER: "temporary",
}


class MeasuredLMTPServer(LMTPServer):
    """An LMTP connection that counts deliveries.

    :ivar counters: the counters of the process; a subclass sets them.
    """

    counters: Counters

    async def deliver(
        self, recipient: Recipient, message: BinaryIO, sender: bytes, octets: int
    ) -> Reply:
        """Deliver, and count; see LMTPServer."""
        started = perf_counter()
        reply = await super().deliver(recipient, message, sender, octets)
        counters = self.counters
        counters.observe(catalogue.DELIVERY_SECONDS, perf_counter() - started)
        counters.add(catalogue.DELIVERED, (_OUTCOMES[reply],))
        if reply is DELIVERED:
            counters.add(catalogue.DELIVERED_BYTES, (), octets)
        return reply
