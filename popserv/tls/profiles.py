"""The TLS profiles: which versions and ciphers a server offers.

They have the names of Mozilla's recommendations for servers, ``modern`` and ``intermediate`` of
version 6.0, and ``old`` of version 5.8.  Ciphers with finite-field DHE are omitted, because every
client that supports one of them also supports ECDHE or RSA key exchange.

Requires the extra ``tls``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from OpenSSL import SSL


class TLSProfile(NamedTuple):
    """The minimum version of TLS, and the ciphers of the versions before TLS 1.3.

    With ``server_chooses_cipher``, the first of the ciphers that the client supports is used, and
    otherwise the client's preference counts: it knows what its processor does best.
    """

    minimum_version: int
    ciphers: bytes
    server_chooses_cipher: bool = False

    def apply(self, context: SSL.Context) -> None:
        """Configure a context of a server."""
        context.set_min_proto_version(self.minimum_version)
        context.set_cipher_list(self.ciphers)
        if self.server_chooses_cipher:
            context.set_options(SSL.OP_CIPHER_SERVER_PREFERENCE)


_FORWARD_SECRECY = b"ECDHE+AESGCM:ECDHE+CHACHA20"
"""Only forward secrecy with AEAD."""

PROFILES: Mapping[str, TLSProfile] = {
    # Security level 2 of OpenSSL: no key below 112 bits of security.
    "modern": TLSProfile(SSL.TLS1_3_VERSION, _FORWARD_SECRECY + b":@SECLEVEL=2"),
    "intermediate": TLSProfile(SSL.TLS1_2_VERSION, _FORWARD_SECRECY + b":@SECLEVEL=2"),
    # OpenSSL supports TLS 1.0 and 1.1, whose signatures use SHA-1, only at security level 0.
    "old": TLSProfile(
        SSL.TLS1_VERSION,
        b":".join(
            [
                _FORWARD_SECRECY,
                b"ECDHE+AES+SHA256:ECDHE+AES+SHA384:ECDHE+AES+SHA",
                b"kRSA+AESGCM:kRSA+AES+SHA256:kRSA+AES+SHA:DES-CBC3-SHA",
                b"!eNULL:!aNULL:!CCM:!CAMELLIA:!ARIA:@SECLEVEL=0",
            ]
        ),
        server_chooses_cipher=True,
    ),
}
"""The profiles by name, the strictest first."""

DEFAULT_PROFILE = "intermediate"
