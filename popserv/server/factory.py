"""The factory of POP3 connections: what all connections of one server share."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Iterable
from socket import gethostname
from typing import Any

from twisted.cred.portal import Portal
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.protocol import ServerFactory

from popserv.auth.portal import PortalAuthenticator
from popserv.auth.throttle.login_throttle import LoginThrottle
from popserv.core.command import CommandTable
from popserv.interfaces import IAPOPCredentials
from popserv.runtime.bus import WorkerBus
from popserv.server.connections import Connections
from popserv.server.idle import MINIMUM_TIMEOUT
from popserv.server.protocol import POP3Server
from popserv.transports.networks import Network, Networks


class POP3Factory(ServerFactory):
    """Makes a :class:`POP3Server` for each connection.

    ``commands`` is the table they obey and ``portal`` where they log in: its realm
    must know ``IMailbox`` or ``twisted.mail``'s ``IMailboxPOP3``.  ``idle_timeout``
    is in seconds, and RFC 1725 section 3 wants 600 at least.  Passwords in the
    clear are taken over TLS and from this machine alone, unless ``allow_plaintext``.
    ``tls`` is what STLS begins TLS with, such as :class:`popserv.tls.certificates.Certificates`;
    with ``require_tls`` nobody logs in without TLS.  ``workarounds`` are names of
    :mod:`popserv.messages.workarounds`.  Beyond ``max_connections`` the oldest connection not
    logged in makes room, of the network that has most of them.  Networks in ``trusted`` stand for
    many clients: what one of those does is not held against the others.  ``exchange``
    leads to the other workers of this server.  ``greeting`` makes the greeting's text from
    ``host``, the server's name, as the dialect of ``commands`` has it
    (:mod:`popserv.commands.dialects`).  ``connections`` are those of
    another factory, if the limit is one for both.
    """

    protocol: Any = POP3Server
    noisy = False

    def __init__(
        self,
        commands: CommandTable,
        portal: Portal,
        *,
        host: bytes | None = None,
        idle_timeout: float = MINIMUM_TIMEOUT,
        allow_plaintext: bool = False,
        tls: IOpenSSLServerConnectionCreator | None = None,
        require_tls: bool = False,
        workarounds: Collection[str] = (),
        max_connections: int = 10_000,
        trusted_networks: Iterable[Network] = (),
        bus: WorkerBus | None = None,
        greeting: Callable[[bytes], bytes] = lambda host: b"POP3 server ready",
        connections: Connections[POP3Server] | None = None,
    ) -> None:
        self.commands = commands
        self.capabilities = commands.capabilities
        self.throttle = LoginThrottle(PortalAuthenticator(portal), bus or WorkerBus())
        self.host = host or gethostname().encode("ascii", "replace")
        self.greeting = greeting(self.host)
        self.idle_timeout = idle_timeout
        self.allow_plaintext = allow_plaintext
        self.tls = tls
        self.require_tls = require_tls
        self.workarounds = frozenset(workarounds)
        self.max_connections = max_connections
        self.networks = Networks(trusted_networks)
        self.connections: Connections[POP3Server] = (
            Connections() if connections is None else connections
        )

    def apop_available(self) -> bool:
        """Tell whether greetings carry a timestamp."""
        return b"APOP" in self.commands and self.throttle.authenticator.supports(IAPOPCredentials)

    def make_timestamp(self) -> bytes:
        """Return a greeting's timestamp, in the form of RFC 1725 section 7's example.

        Some clients take no other form than ``<digits.digits@host>``.
        """
        return b"<%d.%d@%b>" % (secrets.randbits(64), time.time_ns() // 1000, self.host)

    def admit(self) -> bool:
        """Tell whether one more connection fits, after closing one that never logged in."""
        if len(self.connections) < self.max_connections:
            return True
        oldest = self.connections.pop()
        if oldest is None:
            return False
        oldest.transport.abortConnection()
        return True
