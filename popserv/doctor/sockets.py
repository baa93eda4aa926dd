"""The sockets that endpoints would open, found out from the endpoints themselves."""

from __future__ import annotations

from typing import Any, NamedTuple

from twisted.internet.address import UNIXAddress
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.internet.protocol import Factory
from zope.interface import implementer

from popserv.listening.reactor import ReactorProxy
from popserv.transports.networks import LOOPBACK, is_in, parse_address


class Socket(NamedTuple):
    """A socket on which the server listens.

    ``option`` is the option and the endpoint that name it.  It has a ``port`` and the address of an
    ``interface``, which is empty for all of them, or a ``path``.  ``starts_tls`` tells whether TLS
    starts with the first octet, ``is_proxied`` whether a header of the PROXY protocol does, and
    ``is_pop3`` whether clients speak POP3.
    """

    option: str
    interface: str = ""
    port: int = 0
    path: str = ""
    starts_tls: bool = False
    is_proxied: bool = False
    is_pop3: bool = True

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        if self.path:
            return True
        address = parse_address(self.interface)
        return address is not None and is_in(address, LOOPBACK)

    @property
    def host(self) -> str:
        """The address by which this machine connects."""
        if self.interface in ("", "0.0.0.0"):  # noqa: S104 - it is compared
            return "127.0.0.1"
        return "::1" if self.interface == "::" else self.interface


def sockets_of(endpoint: str, like: Socket) -> list[Socket]:
    """Return the sockets that an endpoint would open; none if systemd has opened them.

    All else of them is as ``like`` has it.
    """
    from twisted.internet import reactor

    recorder = _Recorder(reactor, like)
    serverFromString(recorder, endpoint).listen(Factory())
    return recorder.sockets


@implementer(IListeningPort)
class NotOpened:
    """The port that stands for one that would be opened."""

    def startListening(self) -> None:
        """See IListeningPort."""

    def stopListening(self) -> None:
        """See IListeningPort."""

    def getHost(self) -> UNIXAddress:
        """See IListeningPort."""
        return UNIXAddress(None)


class _Recorder(ReactorProxy):
    """Records what is to be opened, and opens nothing."""

    def __init__(self, reactor: Any, like: Socket) -> None:
        super().__init__(reactor)
        self.sockets: list[Socket] = []
        self._like = like

    def listenTCP(
        self, port: int, factory: IProtocolFactory, backlog: int = 50, interface: str = ""
    ) -> Any:
        self.sockets.append(self._like._replace(interface=interface, port=port))
        return NotOpened()

    def listenSSL(
        self,
        port: int,
        factory: IProtocolFactory,
        contextFactory: Any,
        backlog: int = 50,
        interface: str = "",
    ) -> Any:
        self.sockets.append(self._like._replace(interface=interface, port=port, starts_tls=True))
        return NotOpened()

    def listenUNIX(
        self, address: str, factory: IProtocolFactory, *args: Any, **options: Any
    ) -> Any:
        self.sockets.append(self._like._replace(path=address))
        return NotOpened()

    def adoptStreamPort(self, *args: Any) -> Any:
        return NotOpened()
