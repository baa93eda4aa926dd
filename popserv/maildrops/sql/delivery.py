"""Delivery of new mail: one statement, while sessions go on."""

from __future__ import annotations

from typing import BinaryIO

from popserv.database.errors import OutcomeUnknown
from popserv.errors import TryLater
from popserv.maildrops.sql.ids import unique_id_of
from popserv.maildrops.sql.leases import Execute
from popserv.maildrops.sql.message_objects import MessageObjects
from popserv.maildrops.sql.statements import CREATE, DELIVER, DELIVER_OBJECT, IS_DELIVERED
from popserv.maildrops.sql.storing import store_octets
from popserv.runtime.threads import RunInThread


async def deliver(
    execute: Execute,
    name: bytes,
    message: BinaryIO,
    run: RunInThread,
    objects: MessageObjects | None = None,
) -> bytes:
    """Deliver a message after all others of a user; return its unique-id.

    The maildrop is created if there is none.  The octets of a large message go to ``objects``.

    :raises TryLater: the database or the object store does not answer.  The message is not there,
        or the database has not said that it is: it is delivered twice if it is delivered again
        then.
    """
    id_, contents, body = await store_octets(message, run, objects)
    statement: str
    parameters: tuple[object, ...]
    if body is None:
        statement, parameters = DELIVER_OBJECT, (name, id_, *contents)
    else:
        statement, parameters = DELIVER, (name, body, id_, *contents)
    try:
        rows = await execute(statement, parameters, repeat=False)
        if not rows:
            await execute(CREATE, (name,))
            rows = await execute(statement, parameters, repeat=False)
    except OutcomeUnknown:
        rows = await execute(IS_DELIVERED, (name, id_))
        if not rows:
            raise
    if not rows:
        # Somebody has removed the maildrop, or the reservation of the key is over.
        if objects is not None and body is None:
            await objects.drop([id_])
        raise TryLater
    return unique_id_of(id_)
