"""Where the octets of a message go that is delivered: to an object, or to the database."""

from __future__ import annotations

import os
from typing import BinaryIO, NamedTuple
from uuid import UUID

from popserv.maildrops.spooling import MAX_IN_MEMORY
from popserv.maildrops.sql.contents import Contents, examine
from popserv.maildrops.sql.ids import new_id
from popserv.maildrops.sql.message_objects import MessageObjects
from popserv.runtime.threads import RunInThread


class NewMessage(NamedTuple):
    """A message for the statement that delivers it; ``body`` is None if it is in an object."""

    id: UUID
    contents: Contents
    body: bytes | None


async def store_octets(
    message: BinaryIO, run: RunInThread, objects: MessageObjects | None
) -> NewMessage:
    """Store the octets of a message as an object, or read them, if there is to be none.

    ``run`` calls a function in a thread.

    :raises TryLater: the object store or the database does not answer.
    """
    size = message.seek(0, os.SEEK_END)
    message.seek(0)
    if objects is not None and size > objects.inline:
        return NewMessage(*await objects.put(message), None)
    body = message.read() if size <= MAX_IN_MEMORY else await run(message.read)
    return NewMessage(new_id(), await examine(body, run), body)
