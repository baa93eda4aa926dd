"""The certificates that a server shows to its clients, and the authorities that it trusts.

Needs the extra ``tls``.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta, timezone
from stat import S_ISREG
from typing import TYPE_CHECKING, Any, cast

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from OpenSSL import SSL, crypto
from OpenSSL.crypto import X509, X509Store, X509StoreFlags
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.logger import Logger
from zope.interface import implementer

from popserv.tls.connection import UNREADABLE, VERIFIES, alternative_names

if TYPE_CHECKING:
    from twisted.protocols.tls import TLSMemoryBIOProtocol

    Files = tuple[str, ...]
    Stamps = tuple[tuple[int, ...] | None, ...]
    Wrong = dict[str, tuple[Stamps, str]]

_log = Logger()

ALPN = b"pop3"
"""POP3 in the registry of ALPN protocol ids."""

CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20:@SECLEVEL=2"
"""For TLS 1.2: forward secrecy and AEAD alone; and no key below 112 bits of security."""

EXPIRY_WARNING = timedelta(days=14)
"""How long before its end a certificate is warned of."""

_LOOK_AGAIN = 1.0
"""Seconds for which files are taken to be what they were."""

_MAX_FILE = 1 << 22
"""Octets that are read of one file; a whole system's CAs are a quarter of a million."""

_PRIVATE_KEY = re.compile(
    rb"-----BEGIN ((?:[A-Z0-9]+ )*PRIVATE KEY)-----.*?-----END \1-----", re.DOTALL
)

_BETTER_KEY = "have one made for a key of P-256, or of 2048 bits of RSA"


class CertificateError(Exception):
    """One line: which file, what is wrong with it, and what mends it; nothing of a key."""


@implementer(IOpenSSLServerConnectionCreator)
class Certificates:
    """What a server shows to its clients, read anew when the files change.

    Serves ``transport.startTLS`` and ``TLSMemoryBIOFactory`` alike: TLS 1.2 or later,
    ``pop3`` by ALPN, and no resumption, so that every handshake proves everything.

    ``certificate`` is a PEM file: the server's certificate, then those between it and
    its CA, and its key, if that is not in the file ``private_key``.  Or it is a
    directory of such files with names in ``.pem``, each with its key, and of
    directories with ``fullchain.pem`` and ``privkey.pem``, as certbot has them; or one
    of the latter.  Of several, SNI (RFC 6066 section 3) chooses one by the DNS names in
    its subjectAltName, where ``*`` stands for the whole leftmost label; of two with the
    same name, the first by file name.  A client that sends no name, or one that none
    has, is shown ``default.pem`` (``default/``) if there is one, or else the first.

    ``client_ca`` is a PEM file of CAs.  Clients are then asked for a certificate, but
    need not have one.  A certificate that none of the CAs issued, that is out of date
    or is not for clients, ends the handshake.  An intermediate CA needs no root above.

    Files are looked at before a handshake, but no more than once a second of ``clock``,
    and read at once: they must be local, and readable to the user whom the server runs
    as.  What cannot be loaded anew stays as it is; that is logged, once for each
    change, and tried again.  Connections under way keep what they have.  Call
    :meth:`warn_of_expiry` at the start and each day.

    :raises CertificateError: something cannot be loaded at the start.
    """

    def __init__(
        self,
        certificate: str,
        private_key: str | None = None,
        *,
        client_ca: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._certificate = certificate
        self._private_key = private_key
        self._client_ca = client_ca
        self._clock = clock
        self._looked_at = clock()
        self._loaded: dict[Files, tuple[Stamps, Any]] = {}
        self._authorities: _Authorities | None = None
        self._shown: list[_Shown] = []
        self._by_name: dict[str, _Shown] = {}
        self._wrong = self._load()
        for _, problem in self._wrong.values():
            raise CertificateError(problem)

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Return the server's end of a TLS connection, not yet begun."""
        now = self._clock()
        if now - self._looked_at >= _LOOK_AGAIN:
            self._looked_at = now
            self._load_changes()
        return SSL.Connection(self._shown[0].context, None)

    def warn_of_expiry(self) -> None:
        """Log a line for each certificate, or client CA, that has ended or soon will."""
        for shown in self._shown:
            shown.warn_of_expiry()
        if self._authorities is not None:
            self._authorities.warn_of_expiry()

    def _load_changes(self) -> None:
        before = self._loaded
        told, self._wrong = self._wrong, self._load()
        for path, (stamps, problem) in self._wrong.items():
            if told.get(path) != (stamps, problem):
                _log.error(
                    "TLS certificates not reloaded, the previous ones stay in use: {problem}",
                    problem=problem,
                )
        for files, (_, loaded) in self._loaded.items():
            if files not in before or before[files][1] is not loaded:
                _log.info("{file}: TLS certificates reloaded", file=files[0])
                loaded.warn_of_expiry()

    def _load(self) -> Wrong:
        """Load what has changed; return what could not be."""
        look = _Look(self._loaded)
        if self._client_ca is not None:
            self._authorities = look.at((self._client_ca,), _Authorities) or self._authorities
        authorities = self._authorities.certificates if self._authorities else ()

        def load(certificate: str, private_key: str) -> _Shown:
            return _Shown(certificate, private_key, authorities, self._choose)

        try:
            listed = _listed(self._certificate, self._private_key)
        except CertificateError as error:
            look.wrong[self._certificate] = ((), str(error))
            listed = []
        self._shown = [one for files in listed if (one := look.at(files, load))] or self._shown
        self._loaded = look.found
        self._by_name = {}
        for shown in self._shown:
            shown.trust(authorities)
            for name in shown.names:
                self._by_name.setdefault(name, shown)
        return look.wrong

    def _choose(self, connection: SSL.Connection) -> None:
        """Show what fits the name that the client asks for, if anything does."""
        name = (connection.get_servername() or b"").decode("ascii", "replace").lower()
        parent = "*." + name.partition(".")[2]
        shown = self._by_name.get(name) or self._by_name.get(parent)
        if shown is not None:
            connection.set_context(shown.context)


class _Look:
    """One look at files: what has not changed is not read, what cannot be read stays."""

    def __init__(self, known: dict[Files, tuple[Stamps, Any]]) -> None:
        self._known = known
        self.found: dict[Files, tuple[Stamps, Any]] = {}
        self.wrong: Wrong = {}

    def at(self, files: Files, load: Callable[..., Any]) -> Any:
        """Return what ``load`` makes of the files, now or once; None if it never could."""
        # Before they are read: what changes meanwhile is seen at the next look.
        stamps = tuple(map(_stamp, files))
        known = self._known.get(files)
        if known is None or known[0] != stamps:
            try:
                known = (stamps, load(*files))
            except CertificateError as error:
                self.wrong[files[0]] = (stamps, str(error))
        if known is None:
            return None
        self.found[files] = known
        return known[1]


class _Shown:
    """A certificate with its chain and key, and the context that shows it."""

    def __init__(
        self,
        certificate_file: str,
        key_file: str,
        authorities: Sequence[x509.Certificate],
        choose: Callable[[SSL.Connection], None],
    ) -> None:
        self._file = certificate_file
        self._choose = choose
        pem = _read(certificate_file)
        self._chain = _certificates(certificate_file, pem)
        self._key = _private_key(key_file, pem if key_file == certificate_file else _read(key_file))
        self.names = _dns_names(certificate_file, self._chain[0])
        self._check_fit(key_file)
        self._authorities = authorities
        self.context = self._make_context()

    def _check_fit(self, key_file: str) -> None:
        try:
            certified = _public(self._chain[0].public_key())
        except (UnsupportedAlgorithm, ValueError):
            raise CertificateError(
                f"{self._file}: the certificate's key is of a kind that is not known; {_BETTER_KEY}"
            ) from None
        if certified != _public(self._key.public_key()):
            raise CertificateError(
                f"{key_file}: the private key does not fit the first certificate in {self._file}; "
                "the server's own must come first, and the key be the one it was made for"
            )

    def trust(self, authorities: Sequence[x509.Certificate]) -> None:
        """Verify clients by these CAs from the next handshake on; by none if there are none."""
        if authorities is not self._authorities:
            self._authorities = authorities
            self.context = self._make_context()

    def warn_of_expiry(self) -> None:
        """Log a line if the certificate has ended or soon will."""
        _warn_of_expiry(self._file, self._chain[0], self.names)

    def _make_context(self) -> SSL.Context:
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_TICKET)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        # Some 30 KiB less for a connection that is idle.
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        # The client has the choice of ciphers: it knows what its processor does best.
        context.set_cipher_list(CIPHERS)
        context.set_alpn_select_callback(_select_alpn)
        context.set_tlsext_servername_callback(self._choose)
        try:
            context.use_privatekey(self._key)
            context.use_certificate(self._chain[0])
            for certificate in self._chain[1:]:
                context.add_extra_chain_cert(certificate)
        except (SSL.Error, TypeError) as error:
            raise CertificateError(
                f"{self._file}: OpenSSL does not take it ({_reason(error)}); {_BETTER_KEY}"
            ) from None
        if self._authorities:
            store = cast(X509Store, context.get_cert_store())
            store.set_flags(X509StoreFlags.PARTIAL_CHAIN)
            for authority in self._authorities:
                store.add_cert(X509.from_cryptography(authority))
                context.add_client_ca(authority)
            context.set_verify(SSL.VERIFY_PEER)
            context.set_app_data(VERIFIES)
        return context


class _Authorities:
    """The CAs whose certificates clients may show."""

    def __init__(self, path: str) -> None:
        self._file = path
        self.certificates = _certificates(path, _read(path))
        for certificate in self.certificates:
            if not _is_authority(certificate):
                raise CertificateError(
                    f"{path}: {_subject(certificate)} is not the certificate of a "
                    "CA; give those of the CAs that issue certificates to your users"
                )

    def warn_of_expiry(self) -> None:
        """Log a line for each CA that has ended or soon will."""
        for certificate in self.certificates:
            _warn_of_expiry(self._file, certificate, [_subject(certificate)])


# Files


def _stamp(path: str) -> tuple[int, ...] | None:
    """Return what changes when a file does; None if it is not to be seen."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    # ctime, since a change of its mode may make a file readable.
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _listed(certificate: str, private_key: str | None) -> list[tuple[str, str]]:
    """Return (certificate's file, key's file) of each to be shown, the default first."""
    if not os.path.isdir(certificate):
        return [(certificate, private_key or certificate)]
    if private_key is not None:
        raise CertificateError(
            f"{certificate}: in a directory each certificate has its key beside it; "
            "give no other, or give the file of one certificate"
        )
    try:
        names = sorted(os.listdir(certificate))
    except OSError as error:
        raise CertificateError(f"{certificate}: {error.strerror}") from None
    if "fullchain.pem" in names:
        return [_certbot(certificate)]
    names.sort(key=lambda name: name not in ("default.pem", "default"))
    listed = []
    for name in names:
        path = os.path.join(certificate, name)
        pair = (path, path) if name.endswith(".pem") else _certbot(path)
        if not name.startswith(".") and os.path.isfile(pair[0]):
            listed.append(pair)
    if not listed:
        raise CertificateError(
            f"{certificate}: no certificate in this directory; put NAME.pem there, with its key"
        )
    return listed


def _certbot(directory: str) -> tuple[str, str]:
    return os.path.join(directory, "fullchain.pem"), os.path.join(directory, "privkey.pem")


def _read(path: str) -> bytes:
    try:
        # A pipe would be waited for.
        if not S_ISREG(os.stat(path).st_mode):
            raise CertificateError(f"{path}: this is no file; give a PEM file")
        with open(path, "rb") as file:
            return file.read(_MAX_FILE)
    except FileNotFoundError:
        raise CertificateError(f"{path}: there is no such file; give a PEM file") from None
    except PermissionError:
        raise CertificateError(
            f"{path}: may not be read; make it readable to the user whom the server runs as"
        ) from None
    except OSError as error:
        raise CertificateError(f"{path}: {error.strerror}") from None


def _certificates(path: str, pem: bytes) -> list[x509.Certificate]:
    if b"-----BEGIN CERTIFICATE-----" not in pem:
        raise CertificateError(
            f"{path}: no certificate in this file; it must be PEM, with BEGIN CERTIFICATE"
        )
    try:
        certificates = x509.load_pem_x509_certificates(pem)
        for certificate in certificates:
            # Either library finds faults that the other does not.
            X509.from_cryptography(certificate)
            certificate.subject.rfc4514_string()
    except (*UNREADABLE, crypto.Error):
        raise CertificateError(f"{path}: a certificate in it is damaged; copy it anew") from None
    return certificates


def _private_key(path: str, pem: bytes) -> Any:
    found = _PRIVATE_KEY.search(pem)
    if found is None:
        raise CertificateError(
            f"{path}: no private key in this file; add it there, or name its own file as the key's"
        )
    # What these errors say may show of the key, so it goes no further.
    try:
        return load_pem_private_key(found[0], None)
    except TypeError:
        raise CertificateError(
            f"{path}: the private key is encrypted, and a server has nobody to ask for the "
            "passphrase; decrypt it by openssl pkey"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError(f"{path}: the private key is damaged; copy it anew") from None


def _public(key: Any) -> bytes:
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded


def _reason(error: Exception) -> str:
    """Return OpenSSL's own words, without function names."""
    if isinstance(error, SSL.Error) and error.args and error.args[0]:
        return str(error.args[0][-1][-1])
    return "a key of a kind that TLS does not use"


# Certificates


def _dns_names(path: str, certificate: x509.Certificate) -> list[str]:
    """Return the certificate's DNS names, in lower case."""
    try:
        alternatives = alternative_names(certificate)
    except UNREADABLE:
        raise CertificateError(
            f"{path}: the certificate's names cannot be read; have a valid one made"
        ) from None
    names = alternatives.get_values_for_type(x509.DNSName) if alternatives is not None else []
    return [name.lower() for name in names if name.isprintable()]


def _subject(certificate: x509.Certificate) -> str:
    subject = certificate.subject.rfc4514_string()
    return "".join(one if one.isprintable() else "?" for one in subject)


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        # Before X.509 version 3 a CA could not say that it is one.
        return certificate.version is x509.Version.v1
    except UNREADABLE:
        return False


def _warn_of_expiry(path: str, certificate: x509.Certificate, names: Iterable[str]) -> None:
    end = certificate.not_valid_after_utc
    now = datetime.now(timezone.utc)
    if end - now < EXPIRY_WARNING:
        _log.warn(
            "{file}: the certificate for {names} {ends} on {date:%Y-%m-%d}; renew it",
            file=path,
            names=", ".join(names) or "no name",
            ends="ended" if end < now else "ends",
            date=end,
        )


def _select_alpn(connection: SSL.Connection, offered: list[bytes]) -> bytes:
    """Take ``pop3``; refuse clients that want something else (RFC 7301 section 3.2).

    A browser that was led here speaks HTTP, and says so; RFC 9325 section 3.8 wants
    it turned away, before a page of an attacker's can be made of what it is answered.
    Clients that name no protocol are let in: few name POP3.
    """
    if ALPN in offered:
        return ALPN
    # As an error of OpenSSL's, so that Twisted takes it for one.
    raise SSL.Error([("SSL routines", "", "no application protocol")])
