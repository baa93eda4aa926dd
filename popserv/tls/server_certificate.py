"""A server certificate with its chain and key, and the TLS settings it is used with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from OpenSSL import SSL
from OpenSSL.crypto import X509, X509Store, X509StoreFlags

from popserv.tls.files import (
    CertificateError,
    parse_certificates,
    read_file,
)
from popserv.tls.handshake_check import failed_handshake, openssl_reason
from popserv.tls.private_key import PrivateKey, public_octets
from popserv.tls.profiles import TLSProfile
from popserv.tls.state import VERIFIES_CLIENTS
from popserv.tls.x509 import INVALID, alternative_names, is_for_servers, warn_of_expiry

ALPN = b"pop3"
"""The ALPN protocol id of POP3 (RFC 2595, IANA registry)."""

_TICKET_LIFETIME = 7200
"""Seconds for which a session can be resumed."""

_BETTER_KEY = (
    "use a certificate with a P-256 key or an RSA key of 2048 bits, from a CA with such a key"
)


class ServerCertificate:
    """A certificate, its chain and key, and the OpenSSL context that presents it.

    ``names`` are its DNS names in lower case, ``chain`` is what clients are sent, and ``file`` and
    ``key_file`` are where it was read from; ``choose`` is called with a connection when the server
    name is known, or that the client has sent none.

    :raises CertificateError: a file cannot be used, or no client could connect.
    """

    def __init__(
        self,
        certificate_file: str,
        key_file: str,
        profile: TLSProfile,
        choose: Callable[[SSL.Connection], None],
    ) -> None:
        self.file = certificate_file
        self.key_file = key_file
        self._profile = profile
        self._choose = choose
        pem = read_file(certificate_file)
        self.chain = parse_certificates(certificate_file, pem)
        key_pem = pem if key_file == certificate_file else read_file(key_file)
        self._key = PrivateKey(key_file, key_pem)
        self.names = _dns_names(certificate_file, self.chain[0])
        self._check_key(key_file)
        if not is_for_servers(self.chain[0]):
            raise CertificateError(
                f"{certificate_file}: the certificate is not for servers; request one with the "
                "extended key usage serverAuth"
            )
        self._client_cas: Sequence[x509.Certificate] = ()
        self.context = self._make_context(self._client_cas)

    def _check_key(self, key_file: str) -> None:
        try:
            certified = public_octets(self.chain[0].public_key())
        except (UnsupportedAlgorithm, ValueError):
            raise CertificateError(
                f"{self.file}: the certificate's key is of an unknown type; {_BETTER_KEY}"
            ) from None
        if certified != self._key.public_octets():
            raise CertificateError(
                f"{key_file}: the private key does not match the first certificate in "
                f"{self.file}; the server's own certificate must come first"
            )

    def trust(self, client_cas: Sequence[x509.Certificate]) -> None:
        """Verify client certificates by these CAs, from the next handshake on.

        :raises CertificateError: no client could connect then; the earlier CAs stay in use.
        """
        if client_cas is not self._client_cas:
            self.context = self._make_context(client_cas)
            self._client_cas = client_cas

    def renew_context(self) -> None:
        """Make a new context, whose key of session tickets is new."""
        self.context = self._make_context(self._client_cas)

    def overview(self) -> Mapping[str, Any]:
        """Return the file, the DNS names, and the end as in ISO 8601."""
        return {
            "file": self.file,
            "names": self.names,
            "ends": self.chain[0].not_valid_after_utc.isoformat(),
        }

    def end(self) -> tuple[str, float]:
        """Return the file, and the end in seconds since 1970."""
        return self.file, self.chain[0].not_valid_after_utc.timestamp()

    def warn_of_expiry(self) -> None:
        """Log a warning if the certificate has expired or expires soon."""
        warn_of_expiry(self.file, self.chain[0], self.names)

    def _make_context(self, client_cas: Sequence[x509.Certificate]) -> SSL.Context:
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        self._profile.apply(context)
        context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
        # Tickets need no cache.
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_timeout(_TICKET_LIFETIME)
        # Saves some 30 KiB for an idle connection.
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        self._set_callbacks(context)
        try:
            self._key.use_in(context)
            context.use_certificate(self.chain[0])
            for certificate in self.chain[1:]:
                context.add_extra_chain_cert(certificate)
        except (SSL.Error, TypeError) as error:
            raise CertificateError(
                f"{self.file}: OpenSSL rejects it ({openssl_reason(error)}); {_BETTER_KEY}"
            ) from None
        if client_cas:
            store = cast(X509Store, context.get_cert_store())
            store.set_flags(X509StoreFlags.PARTIAL_CHAIN)
            for ca in client_cas:
                store.add_cert(X509.from_cryptography(ca))
                context.add_client_ca(ca)
            context.set_verify(SSL.VERIFY_PEER)
            # A resumed session would not verify the certificate again.
            context.set_options(SSL.OP_NO_TICKET)
            context.set_app_data(VERIFIES_CLIENTS)
        failure = failed_handshake(context, self._profile.minimum_version)
        if failure:
            version, reason = failure
            remedy = "name fewer client CAs" if client_cas else _BETTER_KEY
            raise CertificateError(
                f"{self.file}: no client could connect with {version} ({reason}); {remedy}"
            )
        return context

    def _client_hello_read(self, connection: SSL.Connection) -> None:
        if connection.get_protocol_version() < SSL.TLS1_3_VERSION:
            # Whoever learns the key of these tickets can decrypt recorded connections.
            connection.set_options(SSL.OP_NO_TICKET)
        self._choose(connection)

    def _set_callbacks(self, context: SSL.Context) -> None:
        try:
            context.set_alpn_select_callback(_select_alpn)
            context.set_tlsext_servername_callback(self._client_hello_read)
        except MemoryError:
            # cffi makes machine code for each callback.
            raise CertificateError(
                f"{self.file}: TLS requires memory that is writable and executable; "
                "remove MemoryDenyWriteExecute=yes from the unit of systemd, or end TLS at a proxy"
            ) from None


def _dns_names(path: str, certificate: x509.Certificate) -> list[str]:
    """Return the certificate's DNS names, in lower case."""
    try:
        alternatives = alternative_names(certificate)
    except INVALID:
        raise CertificateError(
            f"{path}: the names in the certificate are invalid; request a new certificate"
        ) from None
    names = alternatives.get_values_for_type(x509.DNSName) if alternatives is not None else []
    return [name.lower() for name in names if name.isprintable()]


def _select_alpn(connection: SSL.Connection, offered: list[bytes]) -> bytes:
    """Select ``pop3``; reject clients that offer other protocols only (RFC 7301 section 3.2).

    RFC 9325 section 3.8: a browser that was directed to this port must be rejected before
    replies could be taken for a page.  Clients without ALPN are accepted, since few mail
    programs use it.
    """
    if ALPN in offered:
        return ALPN
    # As an error of OpenSSL's, so that Twisted treats it as one.
    raise SSL.Error([("SSL routines", "", "no application protocol")])
