"""Delivers a message to recipients, with lines in the log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, BinaryIO

from popserv.delivery.events import log_delivered, log_failed_delivery
from popserv.delivery.outcomes import DELIVERED, Reply, reply_to
from popserv.delivery.recipients import Recipient
from popserv.interfaces import IFinalDelivery, IJointDelivery


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
    return await _logged(
        store, "deliver_new", (*recipient, message), [recipient], peer, sender, octets
    )


async def deliver_to_all(
    store: IJointDelivery,
    recipients: Sequence[Recipient],
    message: BinaryIO,
    peer: str,
    sender: bytes,
    octets: int,
) -> Reply:
    """Deliver a message to all recipients or to none, as :func:`deliver_to` does to one."""
    return await _logged(
        store, "deliver_to_all", (recipients, message), recipients, peer, sender, octets
    )


async def _logged(
    store: Any,
    method: str,
    arguments: Sequence[Any],
    recipients: Sequence[Recipient],
    peer: str,
    sender: bytes,
    octets: int,
) -> Reply:
    try:
        await getattr(store, method)(*arguments)
    except Exception as error:
        reply = reply_to(error)
        for user, _ in recipients:
            log_failed_delivery(peer, sender, user, reply, error)
        return reply
    for user, _ in recipients:
        log_delivered(peer, sender, user, octets)
    return DELIVERED
