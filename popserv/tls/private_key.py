"""The private key of a server certificate.

Requires the extra ``tls``.
"""

from __future__ import annotations

import re
import warnings
from base64 import b64decode
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from OpenSSL import SSL, crypto

from popserv.tls.files import CertificateError

_PEM = re.compile(rb"-----BEGIN ((?:[A-Z0-9]+ )*PRIVATE KEY)-----(.*?)-----END \1-----", re.DOTALL)

_RSASSA_PSS = bytes.fromhex("06092a864886f70d01010a")
"""The object identifier id-RSASSA-PSS in DER (RFC 8017 appendix A.2.3)."""


class PrivateKey:
    """The private key in the contents of a file.

    :raises CertificateError: there is none, or it is encrypted or invalid.
    """

    def __init__(self, path: str, pem: bytes) -> None:
        found = _PEM.search(pem)
        if found is None:
            raise CertificateError(
                f"{path}: no private key in this file; add it, or name the key's own file"
            )
        # The text of these errors may quote the key.
        try:
            self._key: Any = load_pem_private_key(found[0], None)
            self._pss_key = _load_pss_key(b64decode(found[2]))
        except TypeError:
            raise CertificateError(
                f"{path}: the private key is encrypted, and a server cannot ask for the "
                "passphrase; decrypt it with openssl pkey"
            ) from None
        except (ValueError, UnsupportedAlgorithm, crypto.Error):
            raise CertificateError(f"{path}: invalid private key; copy it again") from None

    def public_octets(self) -> bytes:
        """Return the public key in DER; see :func:`public_octets`."""
        return public_octets(self._key.public_key())

    def use_in(self, context: SSL.Context) -> None:
        """Make a context use the key.

        :raises SSL.Error: OpenSSL does not use keys of this kind.
        :raises TypeError: pyOpenSSL does not use keys of this kind.
        """
        if self._pss_key is None:
            context.use_privatekey(self._key)
            return
        # pyOpenSSL deprecates its own keys, but has no other way to keep the type.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.use_privatekey(self._pss_key)


def _load_pss_key(der: bytes) -> crypto.PKey | None:
    """Return pyOpenSSL's form of a key if it is an RSASSA-PSS key in PKCS #8.

    cryptography turns it into a key of type rsaEncryption, which does not fit the certificate.
    """
    if _RSASSA_PSS not in der[:40]:
        return None
    return crypto.load_privatekey(crypto.FILETYPE_ASN1, der)


def public_octets(key: Any) -> bytes:
    """Return a public key in DER, as rsaEncryption if it is an RSASSA-PSS key."""
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded
