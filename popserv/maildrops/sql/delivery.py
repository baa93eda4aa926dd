"""Delivery of new mail: one statement, while sessions go on."""

from __future__ import annotations

from popserv.database.errors import OutcomeUnknown
from popserv.errors import TryLater
from popserv.maildrops.sql.contents import examine
from popserv.maildrops.sql.ids import new_id, unique_id_of
from popserv.maildrops.sql.leases import Execute
from popserv.maildrops.sql.statements import CREATE, DELIVER, IS_DELIVERED
from popserv.runtime.threads import RunInThread


async def deliver(execute: Execute, name: bytes, body: bytes, run: RunInThread) -> bytes:
    """Deliver a message after all others of a user; return its unique-id.

    The maildrop is created if there is none.

    :raises TryLater: the database does not answer.  The message is not there, or the database has
        not said that it is: it is delivered twice if it is delivered again then.
    """
    contents = await examine(body, run)
    id_ = new_id()
    parameters = (name, body, id_, *contents)
    try:
        rows = await execute(DELIVER, parameters, repeat=False)
        if not rows:
            await execute(CREATE, (name,))
            rows = await execute(DELIVER, parameters, repeat=False)
    except OutcomeUnknown:
        rows = await execute(IS_DELIVERED, (name, id_))
        if not rows:
            raise
    if not rows:
        # Somebody has removed the maildrop.
        raise TryLater
    return unique_id_of(id_)
