"""The factory of POP3 connections, with the state that the connections of a server share."""

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
from popserv.core.read_ahead import ReadAheadLimit
from popserv.interfaces import IAPOPCredentials
from popserv.messages.sizes import MakeDowngrader
from popserv.runtime.bus import WorkerBus
from popserv.runtime.timeouts import TimeoutQueue
from popserv.server.connection_limit import Connections, Evictable
from popserv.server.idle import MIN_IDLE_TIMEOUT
from popserv.server.protocol import POP3Server
from popserv.server.quick_clients import QuickClients
from popserv.transports.networks import Network, Networks


class POP3Factory(ServerFactory):
    """Makes a :class:`POP3Server` for each connection.

    :param commands: the commands that clients may give.
    :param portal: authenticates clients; its realm must support ``IMailbox``, or
        ``IMailboxPOP3`` of ``twisted.mail``.
    :param host: the server's host name; the default is the machine's.
    :param idle_timeout: seconds; RFC 1725 section 3 requires at least 600.
    :param allow_plaintext: accept cleartext passwords over any connection; without it, over
        TLS and from this machine only.
    :param tls: makes TLS connections for STLS, such as
        :class:`popserv.tls.certificates.Certificates`.
    :param require_tls: accept no login without TLS.
    :param downgrader: :class:`popserv.messages.downgrade.Downgrader`, for a server with UTF8: it
        downgrades messages for clients that have not sent UTF8 (RFC 6856).  The store must be
        given it, too, unless it is of ``twisted.mail``.  Without it, UTF8 is unknown, and
        messages are sent as stored.
    :param workarounds: names from :mod:`popserv.messages.workarounds`.
    :param max_connections: when there are more, the oldest unauthenticated connection of the
        network that has most of them is closed.
    :param trusted_networks: networks whose addresses many clients share, such as that of a
        webmail: failed logins of one client do not delay the others, and no connection waits
        for its greeting.
    :param bus: sends updates to the other workers of this server.
    :param greeting: returns the text of the greeting for ``host``, as the dialect of
        ``commands`` requires (:mod:`popserv.commands.dialects`).
    :param connections: the connections of another factory, if both share one limit.
    """

    protocol: Any = POP3Server
    noisy = False
    is_stopped = False
    """Whether the listening ports are closed."""

    def __init__(
        self,
        commands: CommandTable,
        portal: Portal,
        *,
        host: bytes | None = None,
        idle_timeout: float = MIN_IDLE_TIMEOUT,
        allow_plaintext: bool = False,
        tls: IOpenSSLServerConnectionCreator | None = None,
        require_tls: bool = False,
        downgrader: MakeDowngrader | None = None,
        workarounds: Collection[str] = (),
        max_connections: int = 10_000,
        trusted_networks: Iterable[Network] = (),
        bus: WorkerBus | None = None,
        greeting: Callable[[bytes], bytes] = lambda host: b"POP3 server ready",
        connections: Connections[Evictable] | None = None,
    ) -> None:
        self.commands = commands
        self.capabilities = commands.capabilities
        authenticator = PortalAuthenticator(portal, downgrader)
        self.throttle = LoginThrottle(authenticator, bus or WorkerBus())
        self._timestamp_of_checker = authenticator.make_timestamp
        self.host = host or gethostname().encode("ascii", "replace")
        self.greeting = greeting(self.host)
        self.idle_timeout = idle_timeout
        self.timeouts = TimeoutQueue(idle_timeout)
        self.allow_plaintext = allow_plaintext
        self.tls = tls
        self.require_tls = require_tls
        self.downgrader = downgrader
        self.workarounds = frozenset(workarounds)
        self.max_connections = max_connections
        self.read_ahead = ReadAheadLimit()
        self.quick_clients = QuickClients()
        self.networks = Networks(trusted_networks)
        self.connections: Connections[Evictable] = (
            Connections() if connections is None else connections
        )

    def startFactory(self) -> None:
        """Note that the first port is open; see twisted.internet.protocol.Factory."""
        self.is_stopped = False
        # A checker that asks another server connects to it now, and CAPA knows its mechanisms.
        self.throttle.authenticator.relayed_mechanisms()

    def stopFactory(self) -> None:
        """Note that the last port is closed."""
        self.is_stopped = True

    def apop_available(self) -> bool:
        """Return whether greetings carry a timestamp, because some user can log in by APOP."""
        return b"APOP" in self.commands and self.throttle.authenticator.supports(IAPOPCredentials)

    def make_timestamp(self) -> bytes:
        """Return a timestamp for a greeting, in the form of the example in RFC 1725 section 7.

        Some clients accept no form but ``<digits.digits@host>``; a checker may require another.
        """
        made = self._timestamp_of_checker(self.host)
        if made is not None:
            return made
        return b"<%d.%d@%b>" % (secrets.randbits(64), time.time_ns() // 1000, self.host)

    def admit(self) -> bool:
        """Return whether one more connection fits, evicting an unauthenticated one if needed."""
        if len(self.connections) < self.max_connections:
            return True
        evicted = self.connections.evict()
        if evicted is None:
            return False
        evicted.transport.abortConnection()
        return True
