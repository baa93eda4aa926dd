"""The factory of LMTP connections, with what they share."""

from __future__ import annotations

from socket import gethostname
from typing import Any

from twisted.internet.protocol import ServerFactory

from popserv.delivery.lmtp import LMTPServer
from popserv.delivery.recipients import Recipients
from popserv.interfaces import IFinalDelivery
from popserv.runtime.threads import BoundedThreadPool, RunInThread

_disk_threads = BoundedThreadPool("popserv-lmtp", threads=2)

MAX_OCTETS = 100_000_000
"""The default of ``--message-size-limit``."""


class LMTPFactory(ServerFactory):
    """Makes a :class:`LMTPServer` for each connection.

    :param store: takes the mail.
    :param recipients: finds the maildrops of recipients.
    :param host: the server's host name; the default is the machine's.
    :param max_octets: the limit of a message's wire form, 0 for none.
    :param max_connections: further ones are rejected; each needs up to 1 MiB.
    :param idle_timeout: seconds after which a silent client is disconnected; RFC 5321 section
        4.5.3.2.7 requires at least 300.
    :param run: calls functions that write large messages to temporary files.
    :ivar connections: those that there are.
    :ivar is_draining: whether the ports are closed, and connections end after the present message.
    """

    protocol: Any = LMTPServer
    noisy = False

    def __init__(
        self,
        store: IFinalDelivery,
        recipients: Recipients,
        *,
        host: bytes | None = None,
        max_octets: int = MAX_OCTETS,
        max_connections: int = 100,
        idle_timeout: float = 300,
        run: RunInThread = _disk_threads.run,
    ) -> None:
        self.store = store
        self.recipients = recipients
        self.host = host or gethostname().encode("ascii", "replace")
        self.max_octets = max_octets
        self.max_connections = max_connections
        self.idle_timeout = idle_timeout
        self.run = run
        self.connections: set[LMTPServer] = set()
        self.is_draining = False

    def stopFactory(self) -> None:
        """Have the connections end, because the last port is closed."""
        self.is_draining = True
        for connection in list(self.connections):
            connection.end_if_idle()

    def admit(self, connection: LMTPServer) -> bool:
        """Count a new connection; return whether it may stay."""
        if len(self.connections) >= self.max_connections:
            return False
        self.connections.add(connection)
        return True

    def remove(self, connection: LMTPServer) -> None:
        """Count a connection no more."""
        self.connections.discard(connection)
