"""The mechanism EXTERNAL (RFC 4422 appendix A): the login by a TLS client certificate."""

from __future__ import annotations

from collections.abc import Container

from popserv.auth.credentials import CertificateCredentials
from popserv.core.printable import printable
from popserv.core.session import SendChallenge, Session
from popserv.errors import LoginFailed


async def external_exchange(
    send_challenge: SendChallenge, session: Session, offered: Container[bytes]
) -> CertificateCredentials:
    """Run an exchange of EXTERNAL; see :data:`popserv.auth.sasl.mechanisms.Exchange`.

    The response is the authorization identity.  It must be one of the names in the client
    certificate, or empty; then the checker chooses one of the names.
    """
    name = await send_challenge(b"")
    names = session.tls_state.certificate_names() if session.tls_state else ()
    session.name = name
    if name and name not in names:
        certified = ", ".join(f'"{printable(each)}"' for each in names) or "no user"
        raise LoginFailed from PermissionError(
            f"the client certificate is for {certified:.500}, not for the authorization identity"
        )
    return CertificateCredentials(names, name)


def has_certificate_names(session: Session) -> bool:
    """Return whether the client has a verified certificate with at least one user name."""
    return session.tls_state is not None and bool(session.tls_state.certificate_names())
