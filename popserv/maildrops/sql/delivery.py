"""Delivery of new mail: one statement, while sessions go on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, BinaryIO, NoReturn
from uuid import UUID

from popserv.database.errors import OutcomeUnknown
from popserv.errors import TryLater
from popserv.maildrops.sql.ids import new_id, unique_id_of
from popserv.maildrops.sql.leases import Execute
from popserv.maildrops.sql.message_objects import MessageObjects
from popserv.maildrops.sql.statements import (
    CREATE,
    DELIVER,
    DELIVER_OBJECT,
    DELIVER_TO_ALL,
    IS_DELIVERED,
    LOCK_MAILDROPS,
)
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
    if body is None:
        done = await _execute(execute, DELIVER_OBJECT, (name, id_, *contents), [name], [id_])
    else:
        done = await _execute(execute, DELIVER, (name, body, id_, *contents), [name], [id_])
    if not done:
        await _refuse([id_] if body is None else [], objects)
    return unique_id_of(id_)


async def deliver_to_all(
    execute: Execute,
    names: Sequence[bytes],
    message: BinaryIO,
    run: RunInThread,
    objects: MessageObjects | None = None,
) -> None:
    """Deliver a message to users, whose names are different, as :func:`deliver` does.

    A large message becomes an object for each of them, which is removed with it.

    :raises TryLater: as :func:`deliver`; nobody has the message then, or all have it.
    """
    id_, contents, body = await store_octets(message, run, objects)
    ids = [id_]
    for _ in names[1:]:
        ids.append((await store_octets(message, run, objects)).id if body is None else new_id())
    if not await _execute(execute, DELIVER_TO_ALL, (names, ids, body, *contents), names, ids):
        await _refuse(ids if body is None else [], objects)


async def _execute(
    execute: Execute,
    statement: str,
    parameters: Sequence[Any],
    names: Sequence[bytes],
    ids: Sequence[UUID],
) -> bool:
    """Execute a statement that delivers; create maildrops for it.  Return whether it has done so.

    :raises TryLater: as :func:`deliver`.
    """
    try:
        rows = await execute(statement, parameters, repeat=False, durable=True)
        if not rows:
            await execute(CREATE, (names,), durable=True)
            rows = await execute(statement, parameters, repeat=False, durable=True)
    except OutcomeUnknown:
        await execute(LOCK_MAILDROPS, (names,), durable=True)
        rows = await execute(IS_DELIVERED, (names[0], ids[0]), durable=True)
        if not rows:
            raise
    return bool(rows)


async def _refuse(keys: Sequence[UUID], objects: MessageObjects | None) -> NoReturn:
    """Refuse a message: somebody removes the maildrop, or the reservation of a key is over."""
    if keys and objects is not None:
        await objects.drop(keys)
    raise TryLater
