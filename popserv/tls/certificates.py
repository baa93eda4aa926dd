"""The certificates that a server presents, and the CAs whose clients it accepts.

Requires the extra ``tls``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from cryptography import x509
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.logger import Logger
from zope.interface import implementer

from popserv.interfaces import IReloadable
from popserv.tls.files import (
    CertificateError,
    Files,
    Reload,
    Stamps,
    find_certificates,
    parse_certificates,
    read_file,
)
from popserv.tls.profiles import DEFAULT_PROFILE, PROFILES
from popserv.tls.server_certificate import ServerCertificate
from popserv.tls.server_connection import ServerConnection
from popserv.tls.x509 import is_ca, subject_of, warn_of_expiry

if TYPE_CHECKING:
    from twisted.protocols.tls import TLSMemoryBIOProtocol

_log = Logger()

_CHECK_INTERVAL = 1.0
"""Seconds between two checks whether files have changed."""

TICKET_KEY_LIFETIME = 86400.0
"""Seconds after which the key of session tickets is changed (RFC 9325 section 3.4)."""


@implementer(IOpenSSLServerConnectionCreator, IReloadable)
class Certificates:
    """The server certificates and client CAs, which are reloaded when their files change.

    For ``transport.startTLS`` and factories for TLS: the versions and ciphers of a
    ``profile`` of :mod:`popserv.tls.profiles`, and ``pop3`` by ALPN.  Sessions of TLS 1.3 can be
    resumed with tickets.  The key of the tickets is changed when any file has changed, and after
    TICKET_KEY_LIFETIME.

    ``certificate`` is a PEM file with the server's certificate, then the intermediate
    certificates, and the key, unless that is in the file ``private_key``.  It may also be a
    directory that contains ``fullchain.pem`` and ``privkey.pem``, as certbot makes it, or a
    directory of several certificates: files ``*.pem``, each with its key, and directories as
    certbot makes them.
    With several certificates, SNI (RFC 6066 section 3) selects one by the DNS names in
    its subjectAltName, where ``*`` matches the leftmost label; of two certificates with
    the same name, the first by file name is used.  A client that sends no name, or an unknown one,
    gets ``default.pem`` (``default/``) if there is one, and otherwise the first.

    ``client_ca`` is a PEM file of CAs.  The server then asks clients for a certificate, but
    does not require one.  A certificate that none of the CAs issued, that has expired or is
    not for clients, fails the handshake.  An intermediate CA needs no root above it.  No session
    is resumed then, so that every handshake verifies the certificate.

    Files are checked before a handshake, and before the ends of certificates are told or warned of,
    at most once a second of ``clock``, and read in the reactor's thread: they must be local, and
    readable by the user that the server runs as.
    A certificate with which no client could connect cannot be loaded: handshakes are tried in
    memory.  A file that cannot be reloaded stays as it was; that is logged once for each change,
    and tried again.  In a directory, a certificate is removed only with both of its files.
    Established connections are not affected.  Call :meth:`warn_of_expiry` at the start and once
    a day.

    :raises CertificateError: a file cannot be loaded at the start.
    """

    def __init__(
        self,
        certificate: str,
        private_key: str | None = None,
        *,
        client_ca: str | None = None,
        profile: str = DEFAULT_PROFILE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._certificate = certificate
        self._private_key = private_key
        self._client_ca = client_ca
        self._profile = PROFILES[profile]
        self._clock = clock
        self._checked = self._ticket_key_made = clock()
        self._loaded: dict[Files, tuple[Stamps, Any]] = {}
        self._client_cas: _ClientCAs | None = None
        # Those that certificates verify clients by, because handshakes with them succeed.
        self._trusted: Sequence[x509.Certificate] = ()
        self._server_certificates: list[ServerCertificate] = []
        self._by_name: dict[str, ServerCertificate] = {}
        self._errors = self._load()
        for _, problem in self._errors.values():
            raise CertificateError(problem)

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Return the server's end of a TLS connection, before its handshake.

        If the client closes its end only, the protocol of ``tlsProtocol`` is told; see
        ServerConnection.
        """
        self._check_files()
        if self._clock() - self._ticket_key_made >= TICKET_KEY_LIFETIME:
            self._change_ticket_key()
        return ServerConnection(self._server_certificates[0].context, tlsProtocol)

    def warn_of_expiry(self) -> None:
        """Log a warning for each certificate or client CA that has expired or expires soon."""
        reloaded = self._check_files()
        client_cas = () if self._client_cas is None else (self._client_cas,)
        for each in (*self._server_certificates, *client_cas):
            # The others have warned already.
            if each not in reloaded:
                each.warn_of_expiry()

    @property
    def server_certificates(self) -> Sequence[ServerCertificate]:
        """The server certificates, the default first."""
        return self._server_certificates

    def overview(self) -> list[Mapping[str, Any]]:
        """Return the file, the DNS names and the end of each server certificate."""
        self._check_files()
        return [each.overview() for each in self._server_certificates]

    def ends(self) -> list[tuple[str, float]]:
        """Return the file of each server certificate, and when it ends in seconds since 1970."""
        self._check_files()
        return [each.end() for each in self._server_certificates]

    def reload(self) -> None:
        """See :class:`popserv.interfaces.IReloadable`."""
        self._errors = {}
        self._load_changed_files()

    def _check_files(self) -> Sequence[Any]:
        """Load the files that have changed, unless they were checked of late; return what is new.

        Each of these has warned that it expires.
        """
        now = self._clock()
        if now - self._checked < _CHECK_INTERVAL:
            return ()
        self._checked = now
        return self._load_changed_files()

    def _load_changed_files(self) -> Sequence[Any]:
        before = self._loaded
        reported, self._errors = self._errors, self._load()
        for path, (stamps, problem) in self._errors.items():
            if reported.get(path) != (stamps, problem):
                _log.error(
                    "TLS certificates not reloaded, the previous ones stay in use: {problem}",
                    problem=problem,
                )
        reloaded = []
        for files, (_, loaded) in self._loaded.items():
            if files not in before or before[files][1] is not loaded:
                _log.info("{file}: TLS certificates reloaded", file=files[0])
                loaded.warn_of_expiry()
                reloaded.append(loaded)
        if self._loaded != before:
            # A resumed session would have the channel binding of another certificate.
            self._change_ticket_key()
        return reloaded

    def _change_ticket_key(self) -> None:
        """Change the key of session tickets, which is that of the first certificate's context."""
        self._ticket_key_made = self._clock()
        self._server_certificates[0].renew_context()

    def _load(self) -> dict[str, tuple[Stamps, str]]:
        """Load the files that have changed; return the errors."""
        reload = Reload(self._loaded)
        if self._client_ca is not None:
            self._client_cas = reload.load((self._client_ca,), _ClientCAs) or self._client_cas
        client_cas: Sequence[x509.Certificate] = ()
        if self._client_cas is not None:
            client_cas = self._client_cas.certificates

        def load(certificate: str, private_key: str) -> ServerCertificate:
            return ServerCertificate(certificate, private_key, self._profile, self._choose)

        try:
            found = find_certificates(self._certificate, self._private_key, self._loaded)
        except CertificateError as error:
            reload.errors[self._certificate] = ((), str(error))
            found = []
        loaded = [each for files in found if (each := reload.load(files, load))]
        self._server_certificates = loaded or self._server_certificates
        self._loaded = reload.loaded
        self._by_name = {}
        for each in self._server_certificates:
            try:
                each.trust(client_cas)
            except CertificateError as error:
                reload.errors[str(self._client_ca)] = ((), str(error))
                client_cas = self._trusted
                # A renewed certificate has no CAs yet.
                with suppress(CertificateError):
                    each.trust(client_cas)
            for name in each.names:
                self._by_name.setdefault(name, each)
        self._trusted = client_cas
        return reload.errors

    def _choose(self, connection: SSL.Connection) -> None:
        """Present the certificate for the server name that the client sent, if there is one."""
        name = (connection.get_servername() or b"").decode("ascii", "replace").lower()
        # RFC 6066 section 3 forbids the dot; clients of users who type it send it.
        name = name.removesuffix(".")
        parent = "*." + name.partition(".")[2]
        chosen = self._by_name.get(name) or self._by_name.get(parent)
        if chosen is not None:
            connection.set_context(chosen.context)


class _ClientCAs:
    """The CAs whose client certificates are accepted."""

    def __init__(self, path: str) -> None:
        self._file = path
        self.certificates = parse_certificates(path, read_file(path))
        for certificate in self.certificates:
            if not is_ca(certificate):
                raise CertificateError(
                    f"{path}: {subject_of(certificate)} is not the certificate of a CA; "
                    "name a file with the CAs that issue your users' certificates"
                )

    def warn_of_expiry(self) -> None:
        """Log a warning for each CA that has expired or expires soon."""
        for certificate in self.certificates:
            warn_of_expiry(self._file, certificate, [subject_of(certificate)])
