"""The PEM files of certificates, keys and CAs: where they are, when they change, certificates."""

from __future__ import annotations

import os
from collections.abc import Callable, Container
from stat import S_ISREG
from typing import Any

from cryptography import x509
from OpenSSL import crypto
from OpenSSL.crypto import X509

from popserv.runtime.permissions import this_user
from popserv.tls.x509 import INVALID

Files = tuple[str, ...]
"""The paths of files that are loaded together."""

Stamps = tuple[tuple[int, ...] | None, ...]
"""Values that change when a file changes, for each of the files; None for a missing file."""

_MAX_FILE = 1 << 22
"""The maximum octets that are read of a file; all CAs of a system have a quarter of a million."""


class CertificateError(Exception):
    """A file cannot be used.  The message is one line: the file, the problem and the remedy.

    It never quotes a key.
    """


class Reload:
    """One pass over files: those that have not changed are not read again.

    If a file cannot be loaded, the earlier result stays in use, and ``errors`` has the stamps and
    the error by path.
    """

    def __init__(self, loaded: dict[Files, tuple[Stamps, Any]]) -> None:
        self._previous = loaded
        self.loaded: dict[Files, tuple[Stamps, Any]] = {}
        self.errors: dict[str, tuple[Stamps, str]] = {}

    def load(self, files: Files, load: Callable[..., Any]) -> Any:
        """Return the result of ``load`` for the files; None if it has never succeeded.

        It is the earlier result if the files have not changed, or cannot be loaded.
        """
        # Before the files are read: a later change is seen at the next pass.
        stamps = tuple(map(_stamp, files))
        cached = self._previous.get(files)
        if cached is None or cached[0] != stamps:
            try:
                cached = (stamps, load(*files))
            except CertificateError as error:
                self.errors[files[0]] = (stamps, str(error))
        if cached is None:
            return None
        self.loaded[files] = cached
        return cached[1]


def _stamp(path: str) -> tuple[int, ...] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    # ctime, since a change of its mode may make a file readable.
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def find_certificates(
    certificate: str, private_key: str | None, known: Container[Files]
) -> list[tuple[str, str]]:
    """Return the pairs of certificate file and key file to load, the default first.

    Of the files in a directory, those ``known`` from before stay until both of a pair are removed:
    loading them tells why they cannot be examined.

    :raises CertificateError: a directory has no certificate, or a key file was given for it.
    """
    if not os.path.isdir(certificate):
        return [(certificate, private_key or certificate)]
    if private_key is not None:
        raise CertificateError(
            f"{certificate}: in a directory each certificate has its own key; "
            "omit the private key file, or name the file of one certificate"
        )
    try:
        names = sorted(os.listdir(certificate))
    except OSError as error:
        raise CertificateError(f"{certificate}: {error.strerror}") from None
    if "fullchain.pem" in names:
        return [_certbot(certificate)]
    names.sort(key=lambda name: name not in ("default.pem", "default"))
    found = []
    for name in names:
        path = os.path.join(certificate, name)
        pair = (path, path) if name.endswith(".pem") else _certbot(path)
        if name.startswith("."):
            continue
        if os.path.isfile(pair[0]) or (pair in known and any(map(_may_be_file, pair))):
            found.append(pair)
    if not found:
        raise CertificateError(
            f"{certificate}: no certificate in this directory; add NAME.pem with its key"
        )
    return found


def _may_be_file(path: str) -> bool:
    """Return whether a path is a file, or one that cannot be examined."""
    try:
        return S_ISREG(os.stat(path).st_mode)
    except NotADirectoryError:
        return False
    except FileNotFoundError:
        return os.path.lexists(path)
    except OSError:
        return True


def _certbot(directory: str) -> tuple[str, str]:
    return os.path.join(directory, "fullchain.pem"), os.path.join(directory, "privkey.pem")


def read_file(path: str) -> bytes:
    """Return the contents of a PEM file.

    :raises CertificateError: it cannot be read, or is not a regular file.
    """
    try:
        # Opening a FIFO would block.
        if not S_ISREG(os.stat(path).st_mode):
            raise CertificateError(f"{path}: not a regular file; name a PEM file")
        with open(path, "rb") as file:
            return file.read(_MAX_FILE)
    except FileNotFoundError:
        raise CertificateError(f"{path}: no such file; name a PEM file") from None
    except PermissionError:
        raise CertificateError(
            f"{path}: permission denied; make it readable by user {this_user()}"
        ) from None
    except OSError as error:
        raise CertificateError(f"{path}: {error.strerror}") from None


def parse_certificates(path: str, pem: bytes) -> list[x509.Certificate]:
    """Return the certificates in the contents of a file, in order.

    :raises CertificateError: there is none, or one is invalid.
    """
    begun = pem.count(b"-----BEGIN CERTIFICATE-----")
    if not begun:
        raise CertificateError(
            f"{path}: no certificate in this file; it must be PEM, with BEGIN CERTIFICATE"
        )
    try:
        certificates = x509.load_pem_x509_certificates(pem)
        for certificate in certificates:
            # Each of the two libraries finds errors that the other does not.
            X509.from_cryptography(certificate)
            certificate.subject.rfc4514_string()
    except (*INVALID, crypto.Error):
        raise CertificateError(f"{path}: invalid certificate; copy it again") from None
    if len(certificates) < begun:
        # cryptography ignores one without an end, as in a file that is being written.
        raise CertificateError(f"{path}: the file ends within a certificate; copy it again")
    return certificates
