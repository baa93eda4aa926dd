"""Delivers a message to a recipient, with a line in the log."""

from __future__ import annotations

from typing import Any, BinaryIO

from popserv.delivery.events import log_delivered, log_failed_delivery
from popserv.delivery.outcomes import DELIVERED, Reply, reply_to
from popserv.delivery.recipients import Recipient
from popserv.interfaces import IFinalDelivery


async def deliver_to(
    store: IFinalDelivery,
    recipient: Recipient,
    message: BinaryIO,
    peer: str,
    sender: bytes,
    octets: int,
) -> Reply:
    """Deliver a message, and return the reply that says what has become of it.

    ``peer``, ``sender`` and ``octets``, those of the message, are for the log.
    """
    target: Any = store
    user, settings = recipient
    try:
        await target.deliver_new(user, settings, message)
    except Exception as error:
        reply = reply_to(error)
        log_failed_delivery(peer, sender, user, reply, error)
        return reply
    log_delivered(peer, sender, user, octets)
    return DELIVERED
