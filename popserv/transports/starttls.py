"""TLS on a transport: how it begins, what it knows, and why it failed."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IProtocol
from twisted.protocols.policies import ProtocolWrapper

from popserv.core.session import TLSConnectionState


def start_tls(
    transport: Any, tls: IOpenSSLServerConnectionCreator | None, protocol: IProtocol
) -> None:
    """Begin TLS below the protocol, whose ``transport`` may be another one then."""
    if not isinstance(transport, ProtocolWrapper):
        transport.startTLS(tls)
        return
    # A wrapper such as haproxy: would pass startTLS on to the transport below it, and hear
    # of no TLS.  The library is optional.
    from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol

    factory: Any = TLSMemoryBIOFactory(cast(Any, tls), False, cast(Any, None))
    transport.wrappedProtocol = TLSMemoryBIOProtocol(factory, cast(Any, protocol))
    transport.wrappedProtocol.makeConnection(transport)


def tls_state(transport: Any) -> TLSConnectionState:
    """Return what TLS knows of a connection."""
    from popserv.tls.connection import TLSChannel

    return TLSChannel(transport.getHandle())


def short_reason(error: BaseException | None) -> str:
    """Return what an error says; of OpenSSL's tuples the reasons alone."""
    told = error.args[0] if error is not None and error.args else ""
    if isinstance(told, list):
        told = "; ".join(str(each[-1]) for each in told)
    return str(told) or type(error).__name__
