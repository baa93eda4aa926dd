"""Connections of mail transfer agents that count deliveries; only servers with ``--metrics``."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import BinaryIO

from popserv.delivery.lmtp import LMTPServer
from popserv.delivery.outcomes import (
    BARE_LF,
    DELIVERED,
    NO_ROOM,
    NO_SUCH_USER,
    QUOTA_EXCEEDED,
    REFUSED,
    SYNTAX,
    TOO_LARGE,
    TOO_MANY_RECIPIENTS,
    TRY_LATER,
    UNKNOWN_PARAMETER,
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
    SYNTAX: "invalid",
    UNKNOWN_PARAMETER: "invalid",
    BARE_LF: "invalid",
    TOO_LARGE: "over-limit",
    TOO_MANY_RECIPIENTS: "over-limit",
    TRY_LATER: "temporary",
}


class MeasuredLMTPServer(LMTPServer):
    """An LMTP connection that counts deliveries.

    :ivar counters: the counters of the process; a subclass sets them.
    """

    counters: Counters

    def note_refusal(self, reply: Reply, recipients: int) -> None:
        """Count; see LMTPServer."""
        self.counters.add(catalogue.DELIVERED, (_OUTCOMES[reply],), recipients)

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
