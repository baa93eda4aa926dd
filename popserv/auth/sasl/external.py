"""EXTERNAL (RFC 4422 appendix A)."""

from __future__ import annotations

from collections.abc import Container

from popserv.auth.credentials import CertificateCredentials
from popserv.core.session import SendChallenge, Session
from popserv.errors import LoginFailed


async def external(
    send_challenge: SendChallenge, session: Session, offered: Container[bytes]
) -> CertificateCredentials:
    """EXTERNAL (RFC 4422 appendix A): TLS has vouched for the client."""
    name = await send_challenge(b"")
    names = session.tls_state.certificate_names() if session.tls_state else ()
    session.name = name
    if name and name not in names:
        told = ", ".join(map(repr, names)) or "nobody"
        raise LoginFailed from PermissionError(f"the certificate is for {told:.500}, not for that")
    return CertificateCredentials(names, name)


def is_certified(session: Session) -> bool:
    """Tell whether the client has a verified certificate with a user's name in it."""
    return session.tls_state is not None and bool(session.tls_state.certificate_names())
