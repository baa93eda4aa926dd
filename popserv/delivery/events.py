"""The log lines about deliveries.

Names and addresses are in quotation marks and escaped, as in the lines about sessions.
``docs/reference/log-messages.rst`` describes the lines, and ``docs/reference/log-fields.rst`` the
fields of their events.
"""

from __future__ import annotations

from popserv.core.printable import one_line, printable
from popserv.core.user_folder import UserFolder
from popserv.delivery.outcomes import Reply
from popserv.errors import POPError
from popserv.logs.rendered import RenderedLogger

MAX_REFUSED = 100
"""The maximum number of refused recipients of one connection that are logged."""

_MAX_CAUSE = 1000
"""The maximum characters of the cause of a failure."""

# Administrators name it in the filters of other programs.
_log = RenderedLogger("popserv.delivery")


def log_delivered(peer: str, sender: bytes, user: bytes, octets: int) -> None:
    """Log that a message was delivered; ``octets`` are those of the stored message."""
    _log.info(
        '{peer}: message from "{sender}" delivered to "{user}", {octets} octets',
        peer=peer,
        sender=printable(sender),
        user=_name(user),
        octets=octets,
        event="delivered",
    )


def log_failed_delivery(
    peer: str, sender: bytes, user: bytes, reply: Reply, error: Exception
) -> None:
    """Log that a message was not delivered, and why."""
    _log.warn(
        '{peer}: message from "{sender}" not delivered to "{user}", "{text}": {cause}',
        peer=peer,
        sender=printable(sender),
        user=_name(user),
        text=one_line(reply.text),
        cause=cause_of(error),
        event="delivery-failed",
    )


def log_refused_recipient(
    peer: str, sender: bytes, address: bytes, reply: Reply, error: Exception
) -> None:
    """Log that a message will not be delivered to an address, and why."""
    _log.warn(
        '{peer}: recipient "{user}" of a message from "{sender}" refused, "{text}": {cause}',
        peer=peer,
        sender=printable(sender),
        user=printable(address),
        text=one_line(reply.text),
        cause=cause_of(error),
        event="recipient-refused",
    )


def log_refused_message(peer: str, sender: bytes, recipients: int, reply: Reply, why: str) -> None:
    """Log that a message was refused for all its recipients, and why."""
    _log.warn(
        '{peer}: message from "{sender}" to {recipients} recipients refused, "{text}": {cause}',
        peer=peer,
        sender=printable(sender),
        recipients=recipients,
        text=one_line(reply.text),
        cause=one_line(why[:_MAX_CAUSE]),
        event="message-refused",
    )


def _name(user: bytes) -> str:
    if isinstance(user, UserFolder):
        return f"{printable(user.user)}/{printable(user.folder)}"
    return printable(user)


def cause_of(error: Exception) -> str:
    """Return why a delivery has failed, for the log."""
    # The text of a POPError is for clients, and has no details.
    reason = error.__cause__ if isinstance(error, POPError) and error.__cause__ else error
    text = str(reason)[:_MAX_CAUSE]
    return one_line(text if isinstance(reason, OSError) else f"{type(reason).__name__}: {text}")
