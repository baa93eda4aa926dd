"""The TLS state of a connection: channel bindings, and the names in the client's certificate.

Requires the extra ``tls``.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID, ObjectIdentifier
from OpenSSL import SSL
from OpenSSL.crypto import X509

from popserv.core.session import TLSConnectionState
from popserv.tls.x509 import INVALID, alternative_names

VERIFIES_CLIENTS = object()
"""Marks the OpenSSL contexts that verify client certificates."""


class OpenSSLConnectionState(TLSConnectionState):
    """The TLS state of a connection whose handshake is completed.

    ``connection`` is what ``ISSLTransport.getHandle()`` returns.
    """

    def __init__(self, connection: SSL.Connection) -> None:
        self._connection = connection

    def _is_handshake_complete(self) -> bool:
        # The client's Finished message proves that it has the key of its certificate.
        return self._connection.get_peer_finished() is not None

    def channel_binding(self, kind: bytes) -> bytes | None:
        """Return the channel binding data of a type; None if it is not available.

        ``tls-exporter`` (RFC 9266) requires TLS 1.3: with TLS 1.2 it would need the extended
        master secret, which pyOpenSSL does not report.  ``tls-server-end-point`` (RFC 5929
        section 4.1) is not available for Ed25519, whose signatures name no hash.
        """
        if not self._is_handshake_complete():
            return None
        if kind == b"tls-exporter":
            if self._connection.get_protocol_version() < SSL.TLS1_3_VERSION:
                return None
            return self._connection.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")
        if kind == b"tls-server-end-point":
            return _server_end_point(self._connection.get_certificate())
        return None

    def version(self) -> str:
        """Return the version of TLS, such as ``TLSv1.3``."""
        return self._connection.get_protocol_version_name()

    def certificate_names(self) -> Sequence[bytes]:
        """Return the user names in the client's verified certificate.

        These are the mail addresses in subjectAltName.  If there are none, it is the
        subject's UID; without that, its emailAddress; and without that, its CN, but only if
        there is no subjectAltName: the CN of a host's certificate is not a user name.  Only
        the first of these that exists is used, even if there is no name because it occurs more
        than once or is not printable.  Empty if the connection was not made by
        :class:`popserv.tls.certificates.Certificates` with CAs.
        """
        if (
            self._connection.get_context().get_app_data() is not VERIFIES_CLIENTS
            or not self._is_handshake_complete()
        ):
            return ()
        certificate = self._connection.get_peer_certificate()
        if certificate is None:
            return ()
        try:
            names = _user_names(certificate.to_cryptography())
        except INVALID:
            return ()
        return [name.encode() for name in names if name.isprintable() and name]


def _server_end_point(certificate: X509 | None) -> bytes | None:
    if certificate is None:
        return None
    server_certificate = certificate.to_cryptography()
    try:
        algorithm = server_certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return None
    if algorithm is None:
        return None
    if algorithm.name in ("md5", "sha1"):
        algorithm = hashes.SHA256()
    return server_certificate.fingerprint(algorithm)


_SUBJECT: Sequence[ObjectIdentifier] = (NameOID.USER_ID, NameOID.EMAIL_ADDRESS)


def _user_names(certificate: x509.Certificate) -> list[str]:
    alternatives = alternative_names(certificate)
    addresses = (
        alternatives.get_values_for_type(x509.RFC822Name) if alternatives is not None else []
    )
    if addresses:
        return addresses
    fields = _SUBJECT if alternatives is not None else (*_SUBJECT, NameOID.COMMON_NAME)
    for field in fields:
        found = certificate.subject.get_attributes_for_oid(field)
        if found:
            return [str(found[0].value)] if len(found) == 1 else []
    return []
