"""A certificate authority for the tests of one process, and certificates of servers.

Requires the extra ``tls``.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

_LOCALHOST = (
    x509.DNSName("localhost"),
    x509.IPAddress(ip_address("127.0.0.1")),
    x509.IPAddress(ip_address("::1")),
)
_ANOTHER_HOST = (x509.DNSName("another-host.invalid"),)


class Authority:
    """A certificate authority, whose keys exist only in memory and in a directory.

    :ivar ca_file: the path of its certificate.
    """

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)
        self._certificate, self._key = _issue("CA for tests", (), None)
        self.ca_file = str(self._directory / "ca.pem")
        Path(self.ca_file).write_bytes(self._certificate.public_bytes(Encoding.PEM))

    def certificate(self, kind: str) -> str:
        """Return the path of a PEM file with a certificate and its key.

        ``kind`` is a member of :data:`popserv.testing.settings.CERTIFICATES`.
        """
        path = self._directory / f"{kind}.pem"
        if not path.exists():
            names = _ANOTHER_HOST if kind == "wrong-host" else _LOCALHOST
            issuer = None if kind == "untrusted" else (self._certificate, self._key)
            days = -1 if kind == "expired" else 30
            certificate, key = _issue("server for tests", names, issuer, days)
            pem = certificate.public_bytes(Encoding.PEM) + key.private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
            )
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(pem)
        return str(path)


def _issue(
    subject: str,
    names: tuple[x509.GeneralName, ...],
    issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None,
    days: int = 30,
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Return a new certificate and its key; without names, it is that of an authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    signer = issuer[1] if issuer else key
    now = datetime.now(timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer[0].subject if issuer else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(not names, None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            # Python 3.13 and newer require the extension of every certificate.
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
            critical=False,
        )
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    else:
        builder = builder.add_extension(CA_USAGE, critical=True)
    return builder.sign(signer, SHA256()), key


CA_USAGE = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
"""The key usage of a CA."""
