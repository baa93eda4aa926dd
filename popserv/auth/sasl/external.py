"""The mechanism EXTERNAL (RFC 4422 appendix A): the login by a TLS client certificate."""

from __future__ import annotations

from collections.abc import Container

from popserv.auth.credentials import CertificateCredentials
from popserv.auth.names import readings, with_domain
from popserv.core.printable import printable
from popserv.core.session import SendChallenge, Session
from popserv.errors import LoginFailed


async def external_exchange(
    default_domain: bytes,
    folder_delimiter: bytes,
    send_challenge: SendChallenge,
    session: Session,
    offered: Container[bytes],
) -> CertificateCredentials:
    """Run an exchange of EXTERNAL; see :data:`popserv.auth.sasl.mechanisms.Exchange`.

    The response is the authorization identity.  It must be one of the names in the client
    certificate, or empty; then the checker chooses one of the names.  ``default_domain`` is added
    to the identity and to the names, if they have no ``@``, before they are compared.  After
    ``folder_delimiter``, unless that is empty, the identity may name a folder.
    """
    session.name = identity = await send_challenge(b"")
    certified = session.tls_state.certificate_names() if session.tls_state else ()
    names = [with_domain(name, default_domain) for name in certified]
    if not identity:
        return CertificateCredentials(names)
    identity = with_domain(identity, default_domain)
    users = [user for user, _ in readings(identity, folder_delimiter) if user in names]
    if not users:
        shown = ", ".join(f'"{printable(name)}"' for name in names) or "no user"
        raise LoginFailed from PermissionError(
            f"the client certificate is for {shown:.500}, not for the authorization identity"
        )
    return CertificateCredentials(users[:1], identity)


def has_certificate_names(session: Session) -> bool:
    """Return whether the client has a verified certificate with at least one user name."""
    return session.tls_state is not None and bool(session.tls_state.certificate_names())
