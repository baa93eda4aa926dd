"""A server for tests, in the process in which it runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import DeferredList, maybeDeferred

from popserv.auth.passwords import PasswdFileChecker
from popserv.auth.passwords.schemes import join_field
from popserv.runtime.extras import how_to_install
from popserv.testing.faulty.connection import FaultyFactory
from popserv.testing.faulty.faults import ActiveFaults
from popserv.testing.faulty.store import FaultyMaildrops, FaultyPortal
from popserv.testing.settings import ServerSettings, ServerState

if TYPE_CHECKING:
    from popserv.testing.authority import Authority


class HostedServer:
    """A server on free ports of 127.0.0.1.

    ``directory`` is for its users file.  ``authority`` returns the authority of the certificates.

    :ivar port: the port without TLS, which has STLS if there is a certificate.
    :ivar tls_port: the port with TLS, or None.
    :raises ImportError: the settings require the extra ``tls``, which is not installed.
    """

    def __init__(
        self,
        settings: ServerSettings,
        directory: str,
        authority: Callable[[], Authority],
        reactor: Any,
    ) -> None:
        self.faults = ActiveFaults(settings.faults)
        self.maildrops = FaultyMaildrops(self.faults)
        for user, messages in settings.mail.items():
            for message in messages:
                self.maildrops.deliver(user, message)
        users_file = os.path.join(directory, "users")
        _write_users(users_file, settings)
        portal = FaultyPortal(self.maildrops, [PasswdFileChecker.from_file(users_file)])
        certificates = None
        if settings.certificate is not None:
            certificates = _load(authority, settings.certificate)
        self.factory = FaultyFactory(portal, self.faults, certificates)
        self._errors: list[str] = []
        self._ports = [reactor.listenTCP(0, self.factory, interface="127.0.0.1")]
        self.port: int = self._ports[0].getHost().port
        self.tls_port: int | None = None
        if certificates is not None:
            from popserv.transports.tls import TLSFactory  # noqa: PLC0415

            tls_factory = TLSFactory(certificates, self.factory)
            self._ports.append(reactor.listenTCP(0, tls_factory, interface="127.0.0.1"))
            self.tls_port = self._ports[1].getHost().port

    def add_error(self, text: str, peer: str | None) -> None:
        """Add an error from the log, unless it is about a client of another server."""
        if peer is None or peer in self.factory.peers:
            self._errors.append(text)

    def state(self) -> ServerState:
        """Return the state of the server."""
        mail = {user: dict(stored) for user, stored in self.maildrops.stored.items()}
        return ServerState(self.factory.transcript.lines(), mail, list(self._errors))

    async def stop(self) -> None:
        """Close all connections and the ports."""
        for connection in list(self.factory.open):
            connection.transport.abortConnection()
        await DeferredList([maybeDeferred(port.stopListening) for port in self._ports])


def _write_users(path: str, settings: ServerSettings) -> None:
    kinds = ((b"PLAIN", settings.users), (b"APOP", settings.apop_users))
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        for scheme, users in kinds:
            file.writelines(
                b"%b:%b\n" % (name, join_field(scheme, secret)) for name, secret in users.items()
            )


def _load(authority: Callable[[], Authority], kind: str) -> Any:
    """Return the certificates of a server."""
    try:
        from popserv.tls import Certificates  # noqa: PLC0415

        return Certificates(authority().certificate(kind))
    except ImportError as missing:
        raise ImportError(
            f"{missing}; tls=True requires the extra tls; run: {how_to_install('tls')}"
        ) from missing
