"""Starting TLS on a transport, its TLS state, and the reason of a failed handshake."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, cast

from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IProtocol
from twisted.protocols.policies import ProtocolWrapper

from popserv.core.session import TLSConnectionState

# TLS is an extra.
with suppress(ImportError):
    from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol


def start_tls(
    transport: Any, tls: IOpenSSLServerConnectionCreator | None, protocol: IProtocol
) -> None:
    """Start TLS below the protocol, whose ``transport`` may then be another object."""
    if not isinstance(transport, ProtocolWrapper):
        transport.startTLS(tls)
        return
    # A wrapper such as that of haproxy: would pass startTLS to the transport below it, and
    # would not know that TLS has started.
    factory: Any = TLSMemoryBIOFactory(cast(Any, tls), False, cast(Any, None))
    transport.wrappedProtocol = TLSMemoryBIOProtocol(factory, cast(Any, protocol))
    transport.wrappedProtocol.makeConnection(transport)


def tls_state(transport: Any) -> TLSConnectionState:
    """Return the TLS state of a connection."""
    # Loading it takes longer than the start of a server without TLS.
    from popserv.tls.state import OpenSSLConnectionState  # noqa: PLC0415

    return OpenSSLConnectionState(transport.getHandle())


def short_reason(error: BaseException | None) -> str:
    """Return the text of an error; of OpenSSL's tuples, only the reasons."""
    detail = error.args[0] if error is not None and error.args else ""
    if isinstance(detail, list):
        detail = "; ".join(str(each[-1]) for each in detail)
    return str(detail) or type(error).__name__
