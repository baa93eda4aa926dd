"""LAST, and the commands that change the number it returns (RFC 1460 section 5).

The first of these commands in a session starts its
:class:`~popserv.core.access_record.AccessRecord`.
"""

from __future__ import annotations

from functools import partial

from popserv.commands import rfc1725
from popserv.commands.sending import send_message
from popserv.core.access_record import AccessRecord
from popserv.core.command import Outcome, command
from popserv.core.grammar import arguments, no_arguments, number
from popserv.core.replies import Reply
from popserv.core.session import Session, State


@command(b"LAST", State.TRANSACTION, no_arguments)
async def last(session: Session) -> Reply:
    """Return the highest message-number accessed."""
    return Reply(b"%d" % await _access(session).highest())


@command(b"RETR", State.TRANSACTION, arguments(number))
def retr(session: Session, n: int) -> Outcome:
    """Send a message; once it is sent, it counts as accessed and retrieved."""
    _access(session)
    return send_message(session, n)


@command(b"DELE", State.TRANSACTION, arguments(number))
def dele(session: Session, n: int) -> Outcome:
    """Mark a message as deleted, and record that it was accessed."""
    outcome = rfc1725.dele.run(session, n)
    _access(session).record_access(n)
    return outcome


@command(b"RSET", State.TRANSACTION, no_arguments)
def rset(session: Session) -> Outcome:
    """Remove all deletion marks; LAST returns 0 again."""
    _access(session).reset_to_zero()
    return rfc1725.rset.run(session)


COMMANDS = (last, retr, dele, rset)


def _access(session: Session) -> AccessRecord:
    if session.access is None:
        session.access = AccessRecord(session.mailbox)
        session.on_end(partial(_save_record, session, session.access))
    return session.access


async def _save_record(session: Session, access: AccessRecord) -> None:
    # Without QUIT it is unknown which messages have reached the client.
    if session.state is State.UPDATE:
        await access.save(session.maildrop.marked)
