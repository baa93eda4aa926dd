"""Ending a session that the client has not ended."""

from __future__ import annotations

from popserv.errors import TryLater
from popserv.server.connection import Connection
from popserv.server.session_events import EndReason


def dismiss(connection: Connection, reason: EndReason) -> None:
    """End the session of a connection, for a reason that is logged, and release its mailbox.

    A client that waits for nothing is told; the connection of any other is aborted.
    """
    if connection.closing or connection.command_pending or not connection.has_greeted:
        connection.abort(reason)
        return
    connection.events.note_end(reason)
    connection.write_error(TryLater("the server has ended your session, try again later"))
    connection.close()
    # Over TLS, or if it does not read, the client decides when the connection is lost.
    connection.end_session()
