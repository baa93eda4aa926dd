"""The mechanism EXTERNAL (RFC 4422 appendix A): the login by a TLS client certificate."""

from __future__ import annotations

from collections.abc import Container

from popserv.auth.credentials import CertificateCredentials
from popserv.core.session import SendChallenge, Session


async def external_exchange(
    send_challenge: SendChallenge, session: Session, offered: Container[bytes]
) -> CertificateCredentials:
    """Run an exchange of EXTERNAL; see :data:`popserv.auth.sasl.mechanisms.Exchange`.

    The response is the authorization identity.  The checker compares it with the names in the
    client certificate; if it is empty, the checker chooses one of the names.
    """
    session.name = name = await send_challenge(b"")
    names = session.tls_state.certificate_names() if session.tls_state else ()
    return CertificateCredentials(names, name)


def has_certificate_names(session: Session) -> bool:
    """Return whether the client has a verified certificate with at least one user name."""
    return session.tls_state is not None and bool(session.tls_state.certificate_names())
