"""Whether TLS can be started on a transport, its TLS state, the reason of a failed handshake."""

from __future__ import annotations

from typing import Any

from twisted.protocols.policies import ProtocolWrapper

from popserv.core.session import TLSConnectionState


def can_start_tls(transport: Any) -> bool:
    """Return whether TLS can be started: a wrapper would not know that it has started below it."""
    return not isinstance(transport, ProtocolWrapper)


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
