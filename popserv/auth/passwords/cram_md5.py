"""The password fields that work with CRAM-MD5 (RFC 2195)."""

from __future__ import annotations

from typing import Any

from popserv.auth.passwords.schemes import (
    CLEARTEXT_SCHEMES,
    HMAC_MD5_SCHEMES,
    hmac_md5_secret,
    split_field,
)
from popserv.interfaces import ICramMD5Credentials

CRAM_MD5_SCHEMES = CLEARTEXT_SCHEMES | HMAC_MD5_SCHEMES
"""The schemes whose secret is the password, or the state of HMAC-MD5 after it."""


def matches_cram_md5(credentials: Any, field: bytes) -> bool:
    """Return whether the digest in the credentials is that of a password field.

    The scheme of the field must be one of ``CRAM_MD5_SCHEMES``, and the credentials must provide
    IUsernameHashedPassword.

    :raises ValueError: the secret is malformed.
    """
    scheme, secret = split_field(field)
    if not secret:
        return False
    if scheme in CLEARTEXT_SCHEMES:
        return bool(credentials.checkPassword(secret))
    if not ICramMD5Credentials.providedBy(credentials):
        return False
    return bool(credentials.check_context(hmac_md5_secret(secret)))
