"""The keys that a server stores for SCRAM instead of the password (RFC 5802 section 3)."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from typing import NamedTuple

from popserv.core.grammar import decode_base64

SCRAM_ITERATIONS = 32_768
"""The iteration count of new SCRAM secrets; RFC 7677 section 4 requires at least 4,096."""

SCRAM_SALT_OCTETS = 16
"""The length of the salt of new SCRAM secrets."""


class ScramKeys(NamedTuple):
    """The salt, the iteration count and the keys of one password (RFC 5802 section 3)."""

    iterations: int
    salt: bytes
    stored_key: bytes
    server_key: bytes


def derive_scram_keys(
    hash_name: str,
    password: bytes,
    salt: bytes | None = None,
    iterations: int = SCRAM_ITERATIONS,
) -> ScramKeys:
    """Derive the keys from a password.

    ``hash_name`` is ``sha256`` or ``sha1``.  The default of ``salt`` are random octets.
    """
    if salt is None:
        salt = os.urandom(SCRAM_SALT_OCTETS)
    salted_password = hashlib.pbkdf2_hmac(hash_name, password, salt, iterations)
    client_key = hmac.digest(salted_password, b"Client Key", hash_name)
    server_key = hmac.digest(salted_password, b"Server Key", hash_name)
    stored_key = hashlib.new(hash_name, client_key).digest()
    return ScramKeys(iterations, salt, stored_key, server_key)


def parse_scram_keys(text: bytes) -> ScramKeys:
    """Parse a SCRAM secret: the iteration count, salt, StoredKey and ServerKey.

    They are separated by commas; the last three are in base64.

    :raises ValueError: the secret is malformed.
    """
    iterations, salt, stored_key, server_key = text.split(b",")
    keys = map(decode_base64, (salt, stored_key, server_key))
    return ScramKeys(parse_iterations(iterations), *keys)


def parse_iterations(text: bytes) -> int:
    """Parse the iteration count of PBKDF2, a number of at most nine digits.

    A larger number could make hashlib raise OverflowError.

    :raises ValueError: the text is not such a number.
    """
    if not re.fullmatch(rb"[0-9]{1,9}", text):
        raise ValueError("invalid iteration count")
    return int(text)
