"""X.509 certificates: their names, whether they are a CA's, and when they expire."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta, timezone

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.logger import Logger

_log = Logger()

EXPIRY_WARNING = timedelta(days=14)
"""The time before the expiry of a certificate from which on a warning is logged."""

_FOR_SERVERS = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}

INVALID = (
    ValueError,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""The exceptions that cryptography raises for certificates that OpenSSL accepts."""


def alternative_names(certificate: x509.Certificate) -> x509.SubjectAlternativeName | None:
    """Return the subjectAltName extension, if the certificate has it."""
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None


def subject_of(certificate: x509.Certificate) -> str:
    """Return the subject in the form of RFC 4514; unprintable characters become ``?``."""
    subject = certificate.subject.rfc4514_string()
    return "".join(each if each.isprintable() else "?" for each in subject)


def is_ca(certificate: x509.Certificate) -> bool:
    """Return whether a certificate is that of a CA."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        # Before X.509 version 3, certificates had no extension that identifies a CA.
        return certificate.version is x509.Version.v1
    except INVALID:
        return False


def is_for_servers(certificate: x509.Certificate) -> bool:
    """Return whether clients accept a certificate as that of a server (RFC 5280 4.2.1.12)."""
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return bool({*usage} & _FOR_SERVERS)


def matches_name(host: str, name: str) -> bool:
    """Return whether a DNS name of a certificate, in lower case, is that of a host.

    ``*`` stands for the leftmost label (RFC 6125 section 6.4.3).
    """
    host = host.lower().removesuffix(".")
    return name in (host, f"*.{host.partition('.')[2]}")


def warn_of_expiry(path: str, certificate: x509.Certificate, names: Iterable[str]) -> None:
    """Log a warning if a certificate has expired or expires within EXPIRY_WARNING."""
    end = certificate.not_valid_after_utc
    now = datetime.now(timezone.utc)
    if end - now < EXPIRY_WARNING:
        _log.warn(
            "{file}: the certificate for {names} {expires} on {date:%Y-%m-%d}; renew it",
            file=path,
            names=", ".join(names) or "no name",
            expires="expired" if end < now else "expires",
            date=end,
        )
